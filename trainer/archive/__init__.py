"""Sealed folders in object storage: put there as they were sealed, committed by their manifest, brought back whole."""
