"""What people see in MLflow: one run per version, and one long-lived run per model whose steps are days."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING

from features.lake import Lake, Partition
from snapshots.registry import Registry, Version
from trainer import tracking

if TYPE_CHECKING:
    from trainer.recipe import Recipe


def open_version_run(
    registry: Registry, recipe: Recipe, ds: date, *, fingerprint: str, inputs: Sequence[Partition]
) -> str:
    """The run of (model, ds, fingerprint), in the model's experiment, with its dataset inputs."""
    client = registry.client
    experiment = tracking.experiment(client, recipe.name)
    key = {tracking.KIND: "version", "ds": ds.isoformat(), "fingerprint": fingerprint}
    run_id = tracking.open_run(client, experiment, name=f"{recipe.name} {ds}", key=key, tags={"model": recipe.name})
    log_inputs(registry, run_id, inputs)
    if client.get_run(run_id).info.status == "RUNNING":
        client.set_terminated(run_id)
    return run_id


def log_inputs(registry: Registry, run_id: str, inputs: Sequence[Partition]) -> None:
    """Name the lake partitions, at their table versions, as the run's datasets. Known ones are left alone."""
    from mlflow.entities import Dataset, DatasetInput, InputTag

    lake = Lake(registry.settings.lake)
    datasets = [
        DatasetInput(
            dataset=Dataset(
                name=f"{partition.table}/ds={partition.ds}",
                digest=partition.fingerprint,
                source_type="delta_table",
                source=json.dumps({"path": lake.uri(partition.table), "delta_table_version": partition.version}),
            ),
            tags=[InputTag("mlflow.data.context", "training")],
        )
        for partition in inputs
    ]
    registry.client.log_inputs(run_id, datasets=datasets)


def log_metrics(registry: Registry, recipe: Recipe, version: Version, values: Mapping[str, float | None]) -> None:
    """Log to the version's run, and to the model's trend run at step = days since the schedule's start."""
    client = registry.client
    finite = {name: value for name, value in values.items() if value is not None and math.isfinite(value)}
    tracking.log_metrics(client, version.run_id, finite, ds=version.ds)
    trend = tracking.open_trend(client, tracking.experiment(client, recipe.name))
    step = (version.ds - recipe.schedule.start).days
    tracking.log_metrics(client, trend, finite, ds=version.ds, step=step)


def log_files(registry: Registry, version: Version, files: Sequence[Path], *, folder: str) -> None:
    """Small files (reports, plots) as artifacts of the version's run; the same names are replaced."""
    for file in files:
        registry.client.log_artifact(version.run_id, str(file), folder)
