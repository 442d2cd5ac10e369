"""The HTTP face of serving: embeddings, health, metrics, and a page per user."""
