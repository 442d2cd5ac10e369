"""What the on-call is told: alerts, kept row by row in `alerts/<model>`, and delivered at least once."""
