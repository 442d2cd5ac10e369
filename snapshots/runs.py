"""What people see in MLflow: one run per version, and one long-lived run per model whose steps are days."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from typing import TYPE_CHECKING
from urllib.parse import quote

from features.lake import Lake, Partition
from snapshots.registry import Registry, Version
from trainer import tracking

if TYPE_CHECKING:
    from mlflow import MlflowClient

    from trainer.recipe import Recipe


REPORT = "report/report.html"
"""The artifact of a version's run that people look at."""
_IN_TREND = re.compile(
    r"(ne|calibration|auc)/.+"
    r"|shift same_inputs/(cosine|norm_change)_mean \d+ pooling none"
    r"|shift consecutive_days/(cosine|norm_change)_mean \d+ pooling \d+"
)
"""What is followed over days: what was learnt, how far the model moved, and what consumers saw of it."""
_IN_CHART = ("ne/", "calibration/", "shift consecutive_days/cosine_mean")


@dataclass(frozen=True, kw_only=True)
class Links:
    """Pages of MLflow; empty where it has none (a store without a server)."""

    version: str = ""
    run: str = ""
    report: str = ""
    trend: str = ""


def links_of(registry: Registry, version: Version) -> Links:
    """Where MLflow shows the version, its report, and all versions over the days."""
    if not registry.settings.mlflow.startswith(("http://", "https://")):
        return Links()
    client = registry.client
    experiment = client.get_run(version.run_id).info.experiment_id
    base = f"{registry.settings.mlflow.rstrip('/')}/#"
    run = f"{base}/experiments/{experiment}/runs/{version.run_id}"
    return Links(
        version=f"{base}/models/{quote(version.model)}/versions/{version.number}",
        run=run,
        report=f"{run}/artifacts/{REPORT}",
        trend=_trend_chart(client, base, experiment),
    )


def _trend_chart(client: MlflowClient, base: str, experiment: str) -> str:
    """NE, calibration and what consumers saw of the shift, all days, in one chart."""
    trend = tracking.find_run(client, experiment, {tracking.KIND: tracking.TREND})
    if trend is None:
        return ""
    names = [name for prefix in _IN_CHART for name in sorted(trend.data.metrics) if name.startswith(prefix)]
    state = {
        "runs": [trend.info.run_id],
        "experiments": [experiment],
        "metric": names[0] if names else "ne",
        "plot_metric_keys": names,
        "plot_layout": {"autosize": True, "xaxis": {}, "yaxis": {}},
    }
    query = "&".join(f"{name}={quote(json.dumps(value))}" for name, value in state.items())
    return f"{base}/metric?{query}&x_axis=step&y_axis_scale=linear&line_smoothness=1&show_point=true"


def artifact_page(links: Links, path: str) -> str:
    """Where MLflow shows an artifact of the run; empty where it has no pages."""
    return f"{links.run}/artifacts/{quote(path)}" if links.run else ""


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
    """Log to the version's run, and the few that are followed over days to the model's trend run.

    Its step: days since the schedule's start.
    """
    client = registry.client
    finite = {name: value for name, value in values.items() if value is not None and math.isfinite(value)}
    tracking.log_metrics(client, version.run_id, finite, ds=version.ds)
    followed = {name: value for name, value in finite.items() if _IN_TREND.fullmatch(name)}
    if followed:
        trend = tracking.open_trend(client, tracking.experiment(client, recipe.name))
        tracking.log_metrics(client, trend, followed, ds=version.ds, step=(version.ds - recipe.schedule.start).days)


def log_params(registry: Registry, version: Version, params: Mapping[str, object]) -> None:
    """What MLflow's table of runs shows and compares. The same again changes nothing."""
    from mlflow.entities import Param

    registry.client.log_batch(version.run_id, params=[Param(name, str(value)) for name, value in params.items()])


def log_text(registry: Registry, version: Version, text: str, path: str) -> None:
    """A small text as an artifact of the version's run; one of the same name is replaced."""
    registry.client.log_text(version.run_id, text, path)
