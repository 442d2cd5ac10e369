"""Two versions of a model side by side: what they score, where they differ, how far they moved users apart."""
