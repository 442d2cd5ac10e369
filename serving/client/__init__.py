"""How anyone gets a user's embeddings: answered at once from the store, computed after (section 4), ERCache in front.

`serving.client.sync.EmbeddingClient` and `serving.client.asynchronous.AsyncEmbeddingClient`.
"""
