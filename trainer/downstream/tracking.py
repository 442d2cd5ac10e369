"""A retrained day in MLflow: a run per day, a trend over days, and a registered version by reference."""

from __future__ import annotations

import json
from collections.abc import Iterator

from infra.settings import Settings
from trainer import tracking
from trainer.downstream.day import DownstreamDay, to_json
from trainer.downstream.scores import Breakdown, Comparison

DS = "ds"
FINGERPRINT = "fingerprint"


def log_day(day: DownstreamDay, *, settings: Settings) -> int:
    """Log `day` under the experiment `downstream/<model>`, register it, and return the version's number.

    One run per (ds, fingerprint), one point per day in the trend run; found again by their tags, so that a
    repetition changes nothing. TrackingUnavailableError where MLflow does not answer.
    """
    client = tracking.connect(settings)
    experiment = tracking.experiment(client, f"downstream/{day.model}")
    key = {FINGERPRINT: day.fingerprint}
    tags = _tags(day)
    run = tracking.open_run(client, experiment, name=f"{day.model} {day.ds}", key=key, tags=tags)
    values = _values(day)
    tracking.log_metrics(client, run, values, ds=day.ds, step=day.day_index)
    version = tracking.register(
        client, f"downstream.{day.model}", run_id=run, reference=_reference(day), key=key, tags=tags
    )
    if client.get_run(run).info.status != "FINISHED":
        client.set_terminated(run)
    trend = tracking.open_trend(client, experiment)
    tracking.log_metrics(client, trend, values, ds=day.ds, step=day.day_index)
    return int(version.version)


def _tags(day: DownstreamDay) -> dict[str, str]:
    newest = day.embeddings[0]
    return {
        DS: day.ds.isoformat(),
        "parent_ds": day.parent_ds.isoformat() if day.parent_ds else "none",
        "parent_fingerprint": day.parent_fingerprint or "none",
        "examples": f"{day.examples.table}@{day.examples.version}",
        "embeddings.table": newest.table,
        "embeddings": " ".join(f"{p.ds}@{p.version}" for p in day.embeddings),
    }


def _reference(day: DownstreamDay) -> dict[str, object]:
    """What the registry keeps: where the sealed folder is, and what the day gave."""
    return {"path": str(day.path), "day": json.loads(to_json(day))}


def _values(day: DownstreamDay) -> dict[str, float]:
    values: dict[str, float | None] = {
        "num_examples": float(day.num_examples),
        "num_users": float(day.num_users),
        "coverage.users": day.coverage.users,
        "coverage.examples": day.coverage.examples,
        "seconds": day.seconds,
        **dict(_breakdown("train", day.training)),
    }
    if day.evaluation is not None:
        values |= _breakdown("eval", day.evaluation)
    return {name: value for name, value in values.items() if value is not None}


def _breakdown(prefix: str, breakdown: Breakdown) -> Iterator[tuple[str, float | None]]:
    yield from _comparison(prefix, breakdown.everyone)
    if breakdown.with_embedding is not None:
        yield from _comparison(f"{prefix}.with_embedding", breakdown.with_embedding)
    if breakdown.without_embedding is not None:
        yield from _comparison(f"{prefix}.without_embedding", breakdown.without_embedding)


def _comparison(prefix: str, comparison: Comparison) -> Iterator[tuple[str, float | None]]:
    for arm in ("baseline", "sum"):
        score = getattr(comparison, arm)
        for name in ("ne", "log_loss", "calibration", "auc"):
            yield f"{prefix}.{arm}.{name}", getattr(score, name)
    yield f"{prefix}.ne_diff_percent", comparison.ne_diff_percent
    if comparison.interval is not None:
        yield f"{prefix}.ne_diff_percent.low", comparison.interval[0]
        yield f"{prefix}.ne_diff_percent.high", comparison.interval[1]
