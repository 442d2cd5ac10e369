"""A retrained day in MLflow: a run per day, a trend over days, and a registered version by reference."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import date
from typing import TYPE_CHECKING

from features.lake import Partition
from infra.settings import Settings
from trainer import tracking
from trainer.downstream.day import DownstreamDay, to_json
from trainer.downstream.scores import Breakdown, Comparison

if TYPE_CHECKING:
    from mlflow import MlflowClient

DS = "ds"
FINGERPRINT = "fingerprint"


def registered_name(model: str) -> str:
    """A downstream model's name in the registry."""
    return f"downstream.{model}"


@dataclass(frozen=True, kw_only=True)
class Joined:
    """A registered version of a user model, by its number and its run, whose embeddings a day could join."""

    model: str
    version: int
    run_id: str
    partition: Partition


def log_day(day: DownstreamDay, *, settings: Settings, joined: Sequence[Joined] = ()) -> int:
    """Log `day` under the experiment `downstream/<model>`, register it, and return the version's number.

    joined: the versions behind `day.embeddings`, which the tags `user_model.<name>.…` name.

    One run per (ds, fingerprint), one point per day in the trend run; found again by their tags, so that a
    repetition changes nothing. TrackingUnavailableError where MLflow does not answer.
    """
    client = tracking.connect(settings)
    experiment = tracking.experiment(client, f"downstream/{day.model}")
    key = {FINGERPRINT: day.fingerprint}
    tags = _tags(day) | lineage_tags(day, joined)
    run = tracking.open_run(client, experiment, name=f"{day.model} {day.ds}", key=key, tags=tags)
    values = _values(day)
    tracking.log_metrics(client, run, values, ds=day.ds, step=day.day_index)
    version = tracking.register(
        client, registered_name(day.model), run_id=run, reference=_reference(day), key=key, tags=tags
    )
    if client.get_run(run).info.status != "FINISHED":
        client.set_terminated(run)
    trend = tracking.open_trend(client, experiment)
    tracking.log_metrics(client, trend, values, ds=day.ds, step=day.day_index)
    return int(version.version)


def registered(client: MlflowClient, model: str) -> dict[str, int]:
    """The number of each registered day's version, by the day's fingerprint."""
    found = tracking.find_versions(client, registered_name(model))
    return {version.tags[FINGERPRINT]: int(version.version) for version in found}


def joined_versions(client: MlflowClient, model: str, *, user_model: str) -> dict[int, tuple[date, ...]]:
    """By version of the user model, the days that the downstream model had it to join, oldest first."""
    days: dict[int, set[date]] = {}
    for version in tracking.find_versions(client, registered_name(model)):
        for number in version.tags.get(f"user_model.{user_model}.versions", "none").split():
            if number != "none":
                days.setdefault(int(number), set()).add(date.fromisoformat(version.tags[DS]))
    return {number: tuple(sorted(of)) for number, of in days.items()}


def _tags(day: DownstreamDay) -> dict[str, str]:
    return {
        DS: day.ds.isoformat(),
        "parent_ds": day.parent_ds.isoformat() if day.parent_ds else "none",
        "parent_fingerprint": day.parent_fingerprint or "none",
        "examples": f"{day.examples.table}@{day.examples.version}",
        "user_models": " ".join(day.upstreams),
    }


def lineage_tags(day: DownstreamDay, joined: Sequence[Joined]) -> dict[str, str]:
    """Of each user model, what the day could join, newest first: `.embeddings`, days and table versions; `.versions`,
    the numbers in the registry; and of the newest `.version`, `.ds` and `.run_id`. `none` where there was nothing."""
    tags: dict[str, str] = {}
    for model in day.upstreams:
        prefix, table = f"user_model.{model}", f"user_embeddings/{model}"
        partitions = [partition for partition in day.embeddings if partition.table == table]
        known = [one for one in joined if one.model == model]
        tags |= {
            f"{prefix}.table": table,
            f"{prefix}.embeddings": " ".join(f"{p.ds}@{p.version}" for p in partitions) or "none",
            f"{prefix}.ds": str(partitions[0].ds) if partitions else "none",
            f"{prefix}.version": str(known[0].version) if known else "none",
            f"{prefix}.versions": " ".join(str(one.version) for one in known) or "none",
            f"{prefix}.run_id": known[0].run_id if known else "none",
        }
    return tags


def _reference(day: DownstreamDay) -> dict[str, object]:
    """What the registry keeps: where the sealed folder is, and what the day gave."""
    return {"path": str(day.path), "day": json.loads(to_json(day))}


def _values(day: DownstreamDay) -> dict[str, float]:
    values: dict[str, float | None] = {
        "num_examples": float(day.num_examples),
        "num_users": float(day.num_users),
        "coverage.users": day.coverage.users,
        "coverage.examples": day.coverage.examples,
        **{f"coverage.users.{name}": share for name, share in day.coverage.by_model.items()},
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
