"""What the on-call reads of a decision, where a version serves at once and where consumers learn it first."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest

from snapshots.gate import Decision as Judged
from snapshots.registry import Decision, Version
from snapshots.report.consequences import afterwards, choices, now
from snapshots.report.findings import Findings
from snapshots.runs import Links
from tests.snapshots.learners import learning_recipe
from tests.snapshots.world import START, tiny_recipe
from trainer.recipe import Recipe


def version(number: int, decision: Decision = "promoted", *, waits_for: str = "") -> Version:
    return Version(
        model="tiny", number=number, ds=START + timedelta(days=number - 1), fingerprint="f", parent=None,
        path=Path("x"), run_id="r", decision=decision, tags={"waits_for": waits_for},
    )  # fmt: skip


def findings(recipe: Recipe, of: Version, *, visible: Version, consumers: tuple[str, ...] = ("one",)) -> Findings:
    judged = Judged(model="tiny", ds=of.ds, version=of.number, verdict="hold", reasons=(), checks=())
    return Findings(
        recipe=recipe, version=of, decision=judged, champion=version(2), previous_champion=version(1), parent=None,
        previous=None, visible=visible, rows=(), past=(), consumers=consumers, links=Links(),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("recipe", "consumers", "champion", "words"),
    [
        (tiny_recipe(), ("one",), "version 2 of 2026-01-02 → version 4 of 2026-01-04", "rollback --recipe tiny`"),
        (learning_recipe(), (), "version 2 of 2026-01-02 → version 4 of 2026-01-04", "rollback --recipe tiny`"),
        (
            learning_recipe(), ("one",), "stays version 2 of 2026-01-02 until version 4 of 2026-01-04 is learnt",
            "It serves when they have learnt it, with the next promoted day. A promotion is undone by "
            "`usermodel snapshots rollback --recipe tiny --ds 2026-01-04`",
        ),
    ],
    ids=["at once", "nobody to learn it", "learnt first"],
)  # fmt: skip
def test_what_a_promotion_changes(recipe: Recipe, consumers: tuple[str, ...], champion: str, words: str) -> None:
    held = findings(recipe, version(4, "held"), visible=version(3), consumers=consumers)
    promote = next(choices(held))
    assert (promote.name, promote.consumers, promote.champion) == ("promote", "move to 2026-01-04", champion)
    assert words in " ".join(afterwards(held))


def test_what_waits_is_said_and_can_be_taken_back_alone() -> None:
    waits = version(3, waits_for="one two")
    promoted = findings(learning_recipe(), waits, visible=waits)
    assert now(promoted) == (
        "Consumers read 2026-01-03 (version 3). It waits for one, two to learn it; until then version 2 of 2026-01-02 "
        "serves."
    )
    assert [(choice.name, choice.command) for choice in choices(promoted)] == [
        ("take back", "usermodel snapshots rollback --recipe tiny --ds 2026-01-03"),
        ("roll back", "usermodel snapshots rollback --recipe tiny"),
    ]
    assert now(findings(tiny_recipe(), version(3), visible=version(3))) == "Consumers read 2026-01-03 (version 3)."
