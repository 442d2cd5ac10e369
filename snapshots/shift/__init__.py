"""How far a day's embeddings moved: measured here, judged by the gate."""
