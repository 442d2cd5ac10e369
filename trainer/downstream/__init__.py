"""Consumers of the user embeddings: small models retrained every day with and without them (section 6.2)."""
