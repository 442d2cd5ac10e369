"""Every kind of alert, and its runbook."""

from __future__ import annotations

from typing import Literal

from infra.settings import REPOSITORY

Severity = Literal["info", "warning", "critical"]

BY_HAND, ROLLED_BACK, FRESHNESS = "by_hand", "rolled_back", "freshness"
MLFLOW_DOWN, DAMAGED_SNAPSHOT = "mlflow_down", "damaged_snapshot"

KINDS = {
    "ne": "NE above its limit, or risen",
    "calibration": "calibration is off",
    "model_moved": "training moved the embeddings",
    "users_moved": "the embeddings that consumers read moved",
    "norm": "the embeddings' length changed",
    "dimensions": "dimensions collapsed or swapped",
    "inputs": "an input feature is broken or stale",
    "too_few": "fewer users or examples than usual",
    "coverage": "active users without an embedding",
    "not_comparable": "the shift could not be measured",
    BY_HAND: "a person held or rejected the day",
    ROLLED_BACK: "a person rolled back",
    FRESHNESS: "no version was promoted by its deadline",
    MLFLOW_DOWN: "MLflow does not answer",
    DAMAGED_SNAPSHOT: "a sealed snapshot is damaged",
}
"""Kind and what it says. Those of a rule (trainer/gate.py) are what the rule is `about`."""

TOLD_AFTERWARDS = frozenset({BY_HAND, ROLLED_BACK})
"""Alerts of what a person did: decided as they are raised, and still to be delivered."""

RUNBOOKS = REPOSITORY / "infra" / "runbooks"


def runbook_of(kind: str) -> str:
    """The path of its runbook in the repository; the index for a kind that a recipe's rule made up."""
    return f"infra/runbooks/{kind if kind in KINDS else 'README'}.md"
