"""The daily gate: promote, hold for a person, or reject, by the thresholds of the recipe.

The rules are of trainer/gate.py; what was judged is kept in `gate/<model>`, so that a day can be judged again, with
other thresholds, and nothing is measured again.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from datetime import date
from typing import TYPE_CHECKING

from features.lake import Lake
from infra.settings import Settings
from snapshots.judgement.check import SEVERITY, Check, Verdict
from snapshots.judgement.judge import judge
from snapshots.judgement.rows import commit_rows, read_trailing
from snapshots.judgement.values import day_values
from snapshots.registry import BY_GATE, Registry, Version, partition_from, partition_tags
from snapshots.shift.rows import read_rows
from snapshots.summary import Summarised, plain

if TYPE_CHECKING:
    from trainer.recipe import Recipe

__all__ = ["BY_GATE", "Check", "Decision", "Verdict", "gate"]

log = logging.getLogger(__name__)

_STANDING: dict[str, Verdict] = {"promoted": "promote", "held": "hold", "rejected": "reject"}


@dataclass(frozen=True, kw_only=True)
class Decision(Summarised):
    """The verdict on one day. reasons: one sentence per rule that asked for more than promotion, the gravest first."""

    model: str
    ds: date
    version: int
    verdict: Verdict
    reasons: tuple[str, ...]
    checks: tuple[Check, ...]

    @property
    def grave(self) -> tuple[Check, ...]:
        """The checks that ask for more than promotion, the gravest first."""
        return _gravest_first(self.checks)


def gate(recipe: Recipe, ds: date, *, settings: Settings) -> Decision:
    """Judge the day's version. ValueError names the step that has not run.

    A promoted version stays promoted, and what a person decided stands: the gate never overturns it.
    """
    registry, lake = Registry(settings), Lake(settings.lake)
    version = registry.get(recipe.name, ds)
    checks = _judged(recipe, version, registry=registry, lake=lake)
    verdict = max((check.verdict for check in checks), key=SEVERITY.__getitem__)
    reasons = tuple(check.sentence for check in _gravest_first(checks))
    by = version.tags.get("decided_by", BY_GATE)
    if version.decision == "promoted" or (version.decision in _STANDING and by != BY_GATE):
        verdict = _STANDING[version.decision]
        reasons = (f"{version.decision} by {by}: {version.tags.get('note') or 'no note'}", *reasons)
    decision = Decision(
        model=recipe.name, ds=ds, version=version.number, verdict=verdict, reasons=reasons, checks=checks
    )
    registry.tag(version, {"verdict": verdict})
    log.info("gate model=%s ds=%s version=%d %s: %s", recipe.name, ds, version.number, verdict, "; ".join(reasons))
    return decision


def _judged(recipe: Recipe, version: Version, *, registry: Registry, lake: Lake) -> tuple[Check, ...]:
    """Every rule of the recipe's gate on what the steps before left behind, kept in `gate/<model>` and in the run."""
    shift = partition_from(version.tags, "shift", version.ds)
    users = partition_from(version.tags, "user_features", version.ds)
    if shift is None or users is None or version.embeddings is None:
        step = "infer" if version.embeddings is None else "shift"
        raise ValueError(
            f"{version.described()} cannot be judged yet; "
            f"run `usermodel snapshots {step} --recipe {recipe.name} --ds {version.ds}` first"
        )
    parent = None if version.parent is None else registry.number(recipe.name, version.parent)
    tasks = sorted(task.name for task in recipe.tasks)
    values = tuple(day_values(version, tasks, parent=parent, shift=read_rows(lake, shift), lake=lake))
    trailing = read_trailing(registry, lake, recipe.name, version.ds, days=recipe.gate.trailing_days)
    cold_start = not version.tags.get("parent_ds")
    checks = tuple(judge(recipe.gate, values, trailing=trailing, cold_start=cold_start))
    kept = commit_rows(lake, version, values, checks)
    if version.tags.get("gate.fingerprint") != kept.fingerprint:
        registry.client.log_dict(version.run_id, {"checks": plain(checks)}, "gate.json")
        registry.tag(version, partition_tags("gate", kept))  # last: the artifact is there when the tags are
    return checks


def _gravest_first(checks: tuple[Check, ...]) -> tuple[Check, ...]:
    asking = (check for check in checks if check.verdict != "promote")
    return tuple(sorted(asking, key=lambda check: -SEVERITY[check.verdict]))
