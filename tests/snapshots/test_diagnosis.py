"""Each signature, from rows made by hand."""

from __future__ import annotations

from typing import get_args

import pytest

from infra.settings import REPOSITORY
from snapshots.diagnosis import Cause, CauseKind, diagnose
from snapshots.shift.rows import NOT_POOLED, Kind, ShiftRow

QUIET: dict[tuple[Kind, str, int | None, str], float] = {
    ("same_inputs", "cosine_mean", 0, ""): 0.96,
    ("same_inputs", "cosine_mean", 1, ""): 0.95,
    ("same_inputs", "norm_change_mean", 0, ""): 0.02,
    ("same_inputs", "norm_change_mean", 1, ""): 0.02,
    ("same_inputs", "knn_overlap", 0, ""): 0.7,
    ("same_inputs", "knn_overlap", 1, ""): 0.7,
    ("same_inputs", "collapsed_dimensions", 0, ""): 0.0,
    ("same_inputs", "collapsed_dimensions", 1, ""): 0.0,
    ("same_inputs", "cross_cosine_max", 0, ""): 0.05,
    ("same_inputs", "cross_cosine_max", 1, ""): 0.05,
    ("consecutive_days", "cosine_mean", 0, ""): 0.9,
    ("consecutive_days", "cosine_mean", 1, ""): 0.9,
    ("inputs", "hours_missing", None, ""): 0.0,
    ("inputs", "num_examples", None, ""): 10_000.0,
    ("inputs", "span_hours", None, ""): 23.9,
    ("inputs", "present_share", None, "age"): 1.0,
    ("inputs", "zero_share", None, "age"): 0.1,
    ("inputs", "present_share", None, "liked"): 0.8,
    ("inputs", "unchanged_share", None, "age"): 0.2,
    ("inputs", "unchanged_share", None, "liked"): 0.5,
}
Changed = dict[tuple[Kind, str, int | None, str], float]


def _rows(values: Changed, *, version: int = 100) -> list[ShiftRow]:
    return [
        ShiftRow(
            version=version, kind=kind, metric=metric, embedding=embedding, pooling=NOT_POOLED, feature=feature,
            value=value, num_users=1_000,
        )
        for (kind, metric, embedding, feature), value in values.items()
    ]  # fmt: skip


USUAL = [row for day in range(14) for row in _rows({k: v * (1 + 0.002 * (day % 3)) for k, v in QUIET.items()})]

CASES: dict[str, tuple[Changed, list[CauseKind], str]] = {
    "quiet": ({}, [], ""),
    "a day like the worst": ({("same_inputs", "cosine_mean", 0, ""): 0.93}, [], ""),
    "half a day": (
        {("inputs", "hours_missing", None, ""): 0.5, ("inputs", "num_examples", None, ""): 5_000},
        ["partial-day"],
        "50% of the promoted day's examples are missing; there are 5,000 examples",
    ),
    "zeros": (
        {("inputs", "zero_share", None, "age"): 1.0},
        ["broken-feature"],
        "Feature age: 100% of the values are 0",
    ),
    "empty lists": (
        {("inputs", "present_share", None, "liked"): 0.0},
        ["broken-feature"],
        "Feature liked: 0% of the users have a value, usually 80%",
    ),
    "stale": ({("inputs", "unchanged_share", None, "liked"): 1.0}, ["stale-feature"], "Feature liked: 100%"),
    "swapped": (
        {
            ("same_inputs", "cosine_mean", 0, ""): 0.04,
            ("same_inputs", "cross_cosine_max", 0, ""): 0.95,
            ("same_inputs", "knn_overlap", 0, ""): 0.2,
        },
        ["swapped-pair"],
        "0.950 between it and another",
    ),
    "collapsed": (
        {("same_inputs", "collapsed_dimensions", 1, ""): 3.0},
        ["collapsed-dimension"],
        "Embedding 1: 3 dimensions",
    ),
    "rotated": (
        {("same_inputs", "cosine_mean", 1, ""): 0.5},
        ["rotated-space"],
        "70% of the nearest neighbours are kept",
    ),
    "scaled": (
        {("same_inputs", "norm_change_mean", 0, ""): 0.6},
        ["scaled-norm"],
        "Embedding 0: the norm changed by 60%",
    ),
    "the model alone": (
        {("same_inputs", "cosine_mean", 1, ""): 0.5, ("same_inputs", "knn_overlap", 1, ""): 0.2},
        ["model-moved"],
        "20% of the neighbours are kept, usually 70%",
    ),
    "the users alone": ({("consecutive_days", "cosine_mean", 1, ""): 0.6}, ["users-moved"], "as usual (0.950)"),
    "inputs first": (
        {("same_inputs", "cosine_mean", 1, ""): 0.5, ("inputs", "zero_share", None, "age"): 1.0},
        ["broken-feature", "rotated-space"],
        "Feature age",
    ),
}


@pytest.mark.parametrize(("changed", "kinds", "evidence"), CASES.values(), ids=CASES)
def test_every_signature_names_its_cause(changed: Changed, kinds: list[CauseKind], evidence: str) -> None:
    found = diagnose(_rows(QUIET | changed), USUAL)
    assert [cause.kind for cause in found] == kinds
    assert evidence in (found[0].sentence if found else "")


def test_what_fits_no_signature_is_unknown_only_in_an_alarm() -> None:
    assert diagnose(_rows(QUIET), USUAL) == ()
    assert [cause.kind for cause in diagnose(_rows(QUIET), USUAL, alarmed=True)] == ["unknown"]


def test_without_days_before_only_what_is_certain_is_named() -> None:
    """The first days: nothing is usual yet, but half a day is half a day."""
    changed: Changed = {("inputs", "hours_missing", None, ""): 0.5, ("inputs", "unchanged_share", None, "age"): 1.0}
    assert [cause.kind for cause in diagnose(_rows(QUIET | changed), ())] == ["partial-day"]


def test_a_feature_that_is_another_one_is_named_from_the_second_day_on() -> None:
    changed: Changed = {("inputs", "psi", None, "age"): 8.4, ("inputs", "zero_share", None, "age"): 1.0}
    (cause,) = diagnose(_rows(QUIET | changed), ())
    assert (cause.kind, cause.sentence) == (
        "broken-feature", "Feature age: PSI 8.4 against the promoted day, 100% of the values are 0.",
    )  # fmt: skip


@pytest.mark.parametrize("kind", get_args(CauseKind))
def test_every_cause_has_a_runbook(kind: CauseKind) -> None:
    assert (REPOSITORY / Cause(kind=kind, sentence="").runbook).is_file()
