"""The parts of a training step, as a profiler sees them. Without a profiler a span costs a microsecond."""

from __future__ import annotations

from torch.profiler import record_function

PREFIX = "step/"
PARTS = ("read", "forward", "agree", "score", "backward", "optimize")
"""Wait for the next batch; forward; agree with the other ranks that the loss is finite; metrics; backward, in which
the tables are updated; the dense optimizer."""


def span(part: str) -> record_function:
    """A context manager around one of PARTS."""
    assert part in PARTS
    return record_function(PREFIX + part)
