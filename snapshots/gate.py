"""The daily gate: promote, hold for a person, or reject, by the thresholds of the recipe."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import date
from typing import TYPE_CHECKING, Literal

from features.lake import Lake
from infra.settings import Settings
from snapshots.registry import Registry, Version, partition_from
from snapshots.shift.rows import NOT_POOLED, PREDECESSOR, ShiftRow, read_rows
from snapshots.summary import Summarised, plain

if TYPE_CHECKING:
    from trainer.recipe import Gate, Recipe

log = logging.getLogger(__name__)

Verdict = Literal["promote", "hold", "reject"]
Metrics = Mapping[str, Mapping[str, float | None]]

BY_GATE = "gate"
_SEVERITY: dict[Verdict, int] = {"promote": 0, "hold": 1, "reject": 2}
_STANDING: dict[str, Verdict] = {"promoted": "promote", "held": "hold", "rejected": "reject"}


@dataclass(frozen=True, kw_only=True)
class Check:
    """One rule applied to one value. `verdict` is what this rule alone asks for."""

    name: str
    value: float | None
    rule: str
    verdict: Verdict

    @property
    def sentence(self) -> str:
        """`ne click is 1.0312; more than 1 is rejected`."""
        value = "undefined" if self.value is None else f"{self.value:.4f}"
        return f"{self.name} is {value}; {self.rule}"


@dataclass(frozen=True, kw_only=True)
class Decision(Summarised):
    """The verdict on one day. reasons: one sentence per rule that asked for more than promotion."""

    model: str
    ds: date
    version: int
    verdict: Verdict
    reasons: tuple[str, ...]
    checks: tuple[Check, ...]


def gate(recipe: Recipe, ds: date, *, settings: Settings) -> Decision:
    """Judge the day's version. ValueError names the step that has not run.

    A promoted version stays promoted, and what a person decided stands: the gate never overturns it.
    """
    registry, lake = Registry(settings), Lake(settings.lake)
    version = registry.get(recipe.name, ds)
    checks = tuple(day_checks(recipe, version, registry=registry, lake=lake))
    verdict = max((check.verdict for check in checks), key=_SEVERITY.__getitem__)
    reasons = tuple(check.sentence for check in checks if check.verdict != "promote")
    by = version.tags.get("decided_by", BY_GATE)
    if version.decision == "promoted" or (version.decision in _STANDING and by != BY_GATE):
        verdict = _STANDING[version.decision]
        reasons = (f"{version.decision} by {by}: {version.tags.get('note') or 'no note'}", *reasons)
    decision = Decision(
        model=recipe.name, ds=ds, version=version.number, verdict=verdict, reasons=reasons, checks=checks
    )
    registry.tag(version, {"verdict": verdict, "checks": json.dumps(plain(checks))})
    log.info("gate model=%s ds=%s version=%d %s: %s", recipe.name, ds, version.number, verdict, "; ".join(reasons))
    return decision


def day_checks(recipe: Recipe, version: Version, *, registry: Registry, lake: Lake) -> Iterator[Check]:
    """Every rule of the recipe's gate, on what the steps before left behind."""
    shift = partition_from(version.tags, "shift", version.ds)
    users = partition_from(version.tags, "user_features", version.ds)
    if shift is None or users is None or version.embeddings is None:
        step = "infer" if version.embeddings is None else "shift"
        raise ValueError(
            f"{version.described()} cannot be judged yet; "
            f"run `usermodel snapshots {step} --recipe {recipe.name} --ds {version.ds}` first"
        )
    parent = None if version.parent is None else registry.number(recipe.name, version.parent)
    tasks = {task.name for task in recipe.tasks}
    yield from training_checks(
        recipe.gate,
        {task: values for task, values in version.metrics.items() if task in tasks},
        before=None if parent is None else parent.metrics,
        cold_start=not version.tags.get("parent_ds"),
    )
    yield from shift_checks(recipe.gate, read_rows(lake, shift))
    num_embedded, num_users = (lake.dataset(part).count_rows() for part in (version.embeddings, users))
    yield coverage_check(recipe.gate, num_embedded=num_embedded, num_users=num_users)


def training_checks(gate: Gate, metrics: Metrics, *, before: Metrics | None, cold_start: bool) -> Iterator[Check]:
    """NE and calibration of every task.

    before: the metrics of the version that training began from. A cold start has learnt nothing before it is
    scored, so its NE and calibration are shown and not judged.
    """
    for task, values in sorted(metrics.items()):
        ne, calibration = values.get("ne"), values.get("calibration")
        low, high = gate.calibration
        if cold_start:
            yield Check(name=f"ne {task}", value=ne, rule="a cold start is not judged by it", verdict="promote")
            continue
        if ne is None or calibration is None:
            rule = "a day that cannot be scored is held"
            yield Check(name=f"ne {task}", value=ne, rule=rule, verdict="hold")
            continue
        yield Check(
            name=f"ne {task}",
            value=ne,
            rule=f"more than {gate.ne_max:g} is rejected",
            verdict="promote" if ne <= gate.ne_max else "reject",
        )
        ne_before = (before or {}).get(task, {}).get("ne")
        if ne_before is not None:
            yield Check(
                name=f"ne {task} against the version before",
                value=ne - ne_before,
                rule=f"a rise of more than {gate.ne_rise_hold:g} is held",
                verdict="promote" if ne - ne_before <= gate.ne_rise_hold else "hold",
            )
        yield Check(
            name=f"calibration {task}",
            value=calibration,
            rule=f"outside {low:g} to {high:g} is held",
            verdict="promote" if low <= calibration <= high else "hold",
        )


def shift_checks(gate: Gate, rows: Iterable[ShiftRow]) -> Iterator[Check]:
    """How far the pooled embeddings moved since the last promoted day, and what could not be measured."""
    limits = {"cosine_mean": ("less", gate.cosine_min), "norm_change_mean": ("more", gate.norm_change_max)}
    for row in rows:
        if row.metric == PREDECESSOR and row.note:
            yield Check(
                name=f"users comparable by {row.kind}",
                value=float(row.num_users),
                rule=f"a shift that cannot be measured is held: {row.note}",
                verdict="hold",
            )
        elif row.kind == "consecutive_days" and row.pooling != NOT_POOLED and row.metric in limits:
            side, limit = limits[row.metric]
            fine = row.value >= limit if side == "less" else row.value <= limit
            yield Check(
                name=f"{row.metric} of embedding {row.embedding}, pooling {row.pooling}, {row.kind}",
                value=row.value,
                rule=f"{side} than {limit:g} is held",
                verdict="promote" if fine else "hold",
            )


def coverage_check(gate: Gate, *, num_embedded: int, num_users: int) -> Check:
    """The share of the day's active users that have an embedding."""
    coverage = num_embedded / num_users if num_users else 0.0
    return Check(
        name="coverage",
        value=coverage,
        rule=f"less than {gate.coverage_min:g} of the active users is rejected",
        verdict="promote" if coverage >= gate.coverage_min else "reject",
    )
