"""Checkpoints that hold only the rows touched since another one: what they hold, when one is written, how any
checkpoint is loaded."""
