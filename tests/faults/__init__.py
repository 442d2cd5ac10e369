"""Faults injected for real, one scenario each, and what is promised then: `infra/faults` and pytest play them."""
