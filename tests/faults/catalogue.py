"""Every scenario by its name, in the order in which they are played."""

from __future__ import annotations

from tests.faults import damage, days, decided, disk, serving, tables, training
from tests.faults.scenario import Scenario

SCENARIOS: dict[str, Scenario] = {
    "rank-killed": training.rank_killed,
    "rank-stopped": training.rank_stopped,
    "launcher-killed": training.launcher_killed,
    "save-killed": training.save_killed,
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
    "store-stopped": serving.store_stopped,
    "store-slow": serving.store_slow,
    "store-killed": serving.store_killed,
    "worker-killed": serving.worker_killed,
    "worker-stopped": serving.worker_stopped,
    "registry-down": serving.registry_down,
    "champion-damaged": serving.champion_damaged,
    "future-features": serving.future_features,
    "hostile-requests": serving.hostile_requests,
}
