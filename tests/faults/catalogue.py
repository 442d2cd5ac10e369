"""Every scenario by its name, in the order in which they are played."""

from __future__ import annotations

from tests.faults import (
    damage,
    days,
    decided,
    disk,
    elsewhere,
    network,
    scheduling,
    serving,
    slurm,
    storage,
    tables,
    training,
)
from tests.faults.scenario import Scenario

SCENARIOS: dict[str, Scenario] = {
    "rank-killed": training.rank_killed,
    "rank-stopped": training.rank_stopped,
    "launcher-killed": training.launcher_killed,
    "save-killed": training.save_killed,
    "host-cut-off": network.host_cut_off,
    "host-fenced": network.host_fenced,
    "host-rejoined": network.host_rejoined,
    "network-blip": network.network_blip,
    "network-slow": network.network_slow,
    "packets-dropped": network.packets_dropped,
    "host-lost": elsewhere.host_lost,
    "writer-killed": tables.writer_killed,
    "builder-killed": tables.builder_killed,
    "full-building": disk.full_while_building,
    "full-saving": disk.full_while_saving,
    "full-embedding": disk.full_while_embedding,
    "damaged-checkpoint": damage.damaged_checkpoint,
    "damaged-waypoint": damage.damaged_waypoint,
    "damaged-snapshot": damage.damaged_snapshot,
    "damaged-table": damage.damaged_table,
    "pickled": damage.pickled,
    "space-moved": decided.space_moved,
    "damaged-between": decided.damaged_between_steps,
    "parent-missing": decided.parent_missing,
    "schema-mismatch": decided.schema_mismatch,
    "tracking-down": decided.tracking_down,
    "empty-commit": tables.empty_commit,
    "poisoned-batch": training.poisoned_batch,
    "schema-drift": days.schema_drift,
    "bad-rows": days.bad_rows,
    "late-data": days.late_data,
    "built-twice": tables.built_twice,
    "trained-twice": training.trained_twice,
    "clock-skew": days.clock_skew,
    "upload-killed": storage.upload_killed,
    "storage-refuses": storage.storage_refuses,
    "storage-stopped": storage.storage_stopped,
    "answers-lost": storage.answers_lost,
    "stored-by-two": storage.stored_by_two,
    "store-stopped": serving.store_stopped,
    "store-slow": serving.store_slow,
    "store-killed": serving.store_killed,
    "worker-killed": serving.worker_killed,
    "worker-stopped": serving.worker_stopped,
    "registry-down": serving.registry_down,
    "champion-damaged": serving.champion_damaged,
    "future-features": serving.future_features,
    "hostile-requests": serving.hostile_requests,
    "slurm-launcher-killed": slurm.launcher_killed,
    "slurm-daemons-killed": slurm.daemons_killed,
    "slurm-cancelled": slurm.job_cancelled,
    "slurm-rank-killed": slurm.rank_killed,
    "slurm-node-lost": slurm.node_lost,
    "slurm-out-of-time": slurm.out_of_time,
    # Last: the services that they start run until the end.
    "two-schedulers": scheduling.two_schedulers,
    "edge-worker-killed": scheduling.edge_worker_killed,
}
PARTS = {
    "alone": ("damage", "days", "decided", "disk", "tables", "training"),
    "hosts": ("elsewhere", "network", "slurm", "storage"),
    "online": ("serving",),
    "schedulers": ("scheduling",),
}
"""Modules by the file of the suite that plays them: what they start ends with it, and another worker may play it."""
NOT_IN_THE_SUITE = frozenset(
    {
        *("slurm-daemons-killed", "slurm-cancelled", "slurm-rank-killed", "slurm-node-lost", "slurm-out-of-time"),
        *("host-fenced", "host-rejoined", "network-blip", "network-slow", "packets-dropped"),
    }
)
"""`infra/faults` plays these, `infra/test` does not: each starts several jobs."""
PLAYED = {name: scenario for name, scenario in SCENARIOS.items() if name not in NOT_IN_THE_SUITE}


def played(part: str) -> list[str]:
    """What the suite plays in this file."""
    return [name for name in PLAYED if _module(name) in PARTS[part]]


def _module(name: str) -> str:
    return SCENARIOS[name].__module__.rpartition(".")[2]
