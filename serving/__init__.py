"""SOAP: fresh embeddings on every request, without waiting for the model."""
