"""A plan as one JSON object."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from trainer.planning.cluster import Cluster
from trainer.planning.forecast import Forecast
from trainer.planning.planned import PlannedModel


def as_json(planned: PlannedModel, cost: Forecast, *, recipe: str, smallest: Cluster | None) -> dict[str, Any]:
    """Everything: what was planned for, every table and shard, every rank. Bytes, milliseconds."""
    return {
        "recipe": recipe,
        "fits": True,
        "cluster": cluster_json(planned.cluster),
        "smallest_cluster": cluster_json(smallest) if smallest else None,
        "batch_size": planned.batch_size,
        "ids_per_feature": planned.ids_per_feature,
        "dense": asdict(planned.dense),
        "step_ms": cost.step_ms,
        "step_balance": cost.step_balance,
        "memory_balance": cost.memory_balance,
        "ranks": [
            asdict(rank) | {"used_bytes": rank.used_bytes, "step_ms": rank.step_ms, "sent_bytes": rank.traffic.total}
            for rank in cost.ranks
        ],
        "tables": [asdict(table) | {"weight_bytes": table.weight_bytes} for table in planned.tables],
    }


def misfit_json(error: ValueError, *, recipe: str, cluster: Cluster, smallest: Cluster | None) -> dict[str, Any]:
    """What does not fit, why, and what would."""
    return {
        "recipe": recipe,
        "fits": False,
        "reason": str(error),
        "cluster": cluster_json(cluster),
        "smallest_cluster": cluster_json(smallest) if smallest else None,
    }


def cluster_json(cluster: Cluster) -> dict[str, Any]:
    """A cluster, with its number of ranks."""
    return {"world_size": cluster.world_size, **asdict(cluster)}
