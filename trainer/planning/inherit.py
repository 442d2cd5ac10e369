"""Which plan a job trains with: its parent's when it still fits, else a new one."""

from __future__ import annotations

from pathlib import Path

from trainer.checkpoint import read_document
from trainer.config import TrainingConfig
from trainer.planning.cluster import Cluster
from trainer.planning.document import DOCUMENT, SavedPlan, why_not
from trainer.planning.model_plan import ModelPlanner


def read_plan(checkpoint: Path) -> SavedPlan | None:
    """The plan of a sealed checkpoint; None for one that was written before there were plans in them."""
    text = read_document(checkpoint, DOCUMENT)
    return None if text is None else SavedPlan.from_json(text)


def plan_job(config: TrainingConfig, cluster: Cluster, *, parent: SavedPlan | None) -> tuple[SavedPlan, str]:
    """The job's plan, and where it is from, for the log. Every rank reaches the same without a word: the plan and
    this decision follow from the arguments alone.

    DoesNotFitError when there is no plan.
    """
    planner = ModelPlanner(config)
    tables = planner.tables
    reason = why_not(parent, tables, cluster) if parent is not None else "no earlier plan"
    if parent is not None and reason is None:
        return parent, "plan reused"
    planned = planner.plan(cluster)
    return SavedPlan.of(planned.sharding, tables, cluster), f"planned anew: {reason}"
