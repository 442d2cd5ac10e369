"""What a client answers: a user's embeddings of one model, and all that is known of where they came from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Origin = Literal["store", "direct", "realtime", "failover", "frozen", "batch", "default"]
"""store: what earlier requests had computed (async). direct: the same, so young that nothing is computed now. realtime:
this request's own inference is in it. failover: that came too late or failed, so these are the earlier ones. frozen:
as store, by a model that stays what it is. batch: loaded, not computed on request. default: zeros."""
Reason = Literal["found", "cold", "withdrawn", "expired", "reshaped", "damaged", "late", "unavailable"]
"""Why the default. cold: nothing is kept of the user. withdrawn, expired, reshaped: what is kept is of versions that
were taken back, older than `failover_seconds`, of another K or D than is served now. damaged: it is no record. late:
the store did not answer within `deadline_ms`. unavailable: it cannot be reached, or the last requests found it so."""
Computation = Literal[
    "queued", "skipped", "off", "dropped", "computed", "failed", "late", "shed", "rate_limited", "no_features", "future"
]
"""What is known, when the answer is given, of this request's own inference. queued: handed to the sender (what became
of it there is in the statistics). skipped: a direct hit. off: the mode computes nothing on request. dropped: the
client's buffer was full. Only a real-time request waits, and knows more: computed, failed, late, shed (the stream was
full), rate_limited, no_features (none are known of the user), future (the feature time is)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Answer:
    """One model's embeddings of one user. The tuples have one item per pooled entry, newest feature time first."""

    model: str
    user: int
    vectors: NDArray[np.float16]
    """[K, D]: the mean of the pooled entries (section 5.2)."""
    origin: Origin
    reason: Reason = "found"
    computation: Computation
    versions: tuple[int, ...] = ()
    feature_ms: tuple[int, ...] = ()
    """Feature times, in milliseconds since the epoch."""
    ages_seconds: tuple[float, ...] = ()
    """Since each was written, by the store's clock."""
    served_version: int | None = None
    """What the compute center serves now; None while it is not known."""

    @property
    def is_default(self) -> bool:
        """Whether nothing of the user could be served."""
        return self.origin == "default"

    @property
    def num_pooled(self) -> int:
        """Entries in the mean."""
        return len(self.versions)
