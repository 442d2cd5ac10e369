"""Every kind of alert, and its runbook."""

from __future__ import annotations

from typing import Literal

from infra.settings import REPOSITORY

Severity = Literal["info", "warning", "critical"]

BY_HAND, ROLLED_BACK, FRESHNESS, NOT_LEARNT = "by-hand", "rolled-back", "freshness", "not-learnt"
MLFLOW_DOWN, DAMAGED_SNAPSHOT, UNKNOWN = "mlflow-down", "damaged-snapshot", "unknown"

KINDS = {
    "partial-day": "hours of the day are missing",
    "too-few": "fewer users or examples than usual",
    "broken-feature": "an input feature is broken",
    "stale-feature": "an input feature did not change",
    "unusable": "users have embeddings with NaN or infinity",
    "swapped-pair": "embeddings stand in each other's place",
    "collapsed-dimension": "dimensions say the same of everybody",
    "rotated-space": "the space turned as a whole",
    "scaled-norm": "the embeddings' length changed",
    "model-moved": "training moved the embeddings",
    "users-moved": "the embeddings that consumers read moved",
    "ne": "NE above its limit, or risen",
    "calibration": "calibration is off",
    "coverage": "active users without an embedding",
    "not-comparable": "the shift could not be measured",
    UNKNOWN: "no known cause fits",
    BY_HAND: "a person held or rejected the day",
    ROLLED_BACK: "a person rolled back",
    FRESHNESS: "no version was promoted by its deadline",
    NOT_LEARNT: "a promoted version waits for consumers to learn it",
    MLFLOW_DOWN: "MLflow does not answer",
    DAMAGED_SNAPSHOT: "a sealed snapshot is damaged",
}
"""Kind and what it says: what a rule is `about` (trainer/gate.py), a cause that a diagnosis names, or an event."""

TOLD_AFTERWARDS = frozenset({BY_HAND, ROLLED_BACK})
"""Alerts of what a person did: decided as they are raised, and still to be delivered."""

RUNBOOKS = REPOSITORY / "infra" / "runbooks"


def runbook_of(kind: str) -> str:
    """The path of its runbook in the repository; the index for a kind that a recipe's rule made up."""
    return f"infra/runbooks/{kind if kind in KINDS else 'README'}.md"
