"""What a core and a GPU do in a second, each with where the number is from.

Of one core unless a name says otherwise. `tests/benchmarks/README.md` tells the machine: two shared cores.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Rate:
    """A number and its basis."""

    value: float
    unit: str
    basis: str
    measured: bool = True
    """By a benchmark of this repository; else it is assumed."""


TRAIN_FLOPS = Rate(
    value=28.3e9,
    unit="FLOP/s",
    basis="`wide`, 2 ranks: 901 examples/s of 3 x 20.96 MFLOP, reading and exchange included",
)
FORWARD_FLOPS = Rate(value=51e9, unit="FLOP/s", basis="`compute`: 43.7 us of CPU for the 2.23 MFLOP of `demo`'s tower")
USER_SECONDS = Rate(
    value=13.4e-6, unit="s/user", basis="`compute`: of 61 us, what is neither the forward nor encoding features"
)
LIST_SECONDS = Rate(value=0.26e-6, unit="s/id list", basis="`compute`: 3.9 us to encode `demo`'s 15 lists")
MERGE_SECONDS = Rate(value=18e-6, unit="s/write of a record", basis="`compute`: Redis beside the worker")
READ_SECONDS = Rate(
    value=1 / 72_000, unit="s/read of a record", basis="`feature_store`: pipelined SETs of as many bytes"
)
RECORD_BYTES = Rate(
    value=142,
    unit="bytes beside a record",
    basis="`feature_store`: Redis takes 400 bytes for K x D = 2 x 16 and 1,359 for 2 x 96, the key included",
)
CLIENT_SECONDS = Rate(value=181e-6, unit="s/request", basis="`soap_read`: the client's get in asyncio, at the caller's")
EMBEDDING_BYTES = Rate(
    value=170 / 96, unit="bytes/number", basis="`embedding_write`: 170 bytes for a vector of 96 in the lake"
)
VALUE_BYTES = Rate(
    value=2.35,
    unit="bytes/value",
    basis="a day of `fb_ctr_mini` in the lake: 7,636 bytes for an example's 3,261 ids and dense values",
)
GPU_FORWARD_FLOPS = Rate(
    value=60e12,
    unit="FLOP/s of a GPU",
    basis="40 % of an A100's TF32 peak, as `usermodel trainer plan` has it",
    measured=False,
)

RATES = {name.lower(): rate for name, rate in list(globals().items()) if isinstance(rate, Rate)}
"""All of them, by name."""
