"""SOLARIS: a foundation model's representations of (user, item) pairs, computed before they are asked for."""
