"""Curves and recommendations: what a budget allows, and the relation of NE to staleness."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.ercache.calibrated import Calibrated, calibrated
from serving.ercache.curve import Budget, Curve, grid, recommend, short, sweep
from serving.ercache.relation import NeByStaleness, rising
from serving.ercache.traces import of_requests
from trainer.serving import Serving

RELATION = NeByStaleness(model="m", added_seconds=(0, 60, 3_600, 86_400), ne=(0.90, 0.902, 0.91, 0.95), ne_without=1.0)
TTLS = (1.0, 10.0, 60.0, 600.0, 3_600.0, 21_600.0)


@pytest.fixture(scope="module")
def curves() -> tuple[Curve, Curve]:
    """With a relation, and without."""
    trace = calibrated(Calibrated(num_users=800, days=2)).trace
    with_ne, without = (sweep(trace, Serving(), model="m", ttls=TTLS, ne=ne) for ne in (RELATION, None))
    return with_ne, without


def test_a_longer_ttl_saves_more_and_answers_staler(curves: tuple[Curve, Curve]) -> None:
    points = curves[0].points
    assert [point.ttl_seconds for point in points] == [0.0, *TTLS]
    for values in (
        [point.statistics.saved for point in points],
        [point.added_p95_seconds for point in points],
        [point.ne for point in points],
    ):
        assert values == sorted(values)  # type: ignore[type-var]
    assert points[0].added_p95_seconds == 0
    assert all(point.added_p95_seconds <= point.ttl_seconds + 1 for point in points)


@pytest.mark.parametrize("with_ne", [True, False], ids=["by NE", "by staleness"])
def test_a_larger_budget_never_gives_a_shorter_ttl(curves: tuple[Curve, Curve], with_ne: bool) -> None:
    curve = curves[0] if with_ne else curves[1]
    budgets = [Budget(gain_share=share, added_p95_seconds=86_400 * share) for share in np.linspace(0, 1, 41) ** 3]
    chosen = [recommend(curve, budget).ttl_seconds for budget in budgets]
    assert chosen == sorted(chosen)
    assert chosen[0] < chosen[-1] == TTLS[-1]


def test_a_recommendation_says_why(curves: tuple[Curve, Curve]) -> None:
    by_ne, by_staleness = (recommend(curve) for curve in curves)
    assert "of the embeddings' gain in NE is lost, 5.0% is allowed" in by_ne.why
    assert "would lose" in by_ne.why
    assert by_staleness.ttl_seconds == 600
    assert "older than without a direct cache, 10 min is allowed; 1 h would make it" in by_staleness.why
    assert by_ne.saved == next(p.statistics.saved for p in curves[0].points if p.ttl_seconds == by_ne.ttl_seconds)


def test_embeddings_that_gain_nothing_are_judged_by_their_staleness() -> None:
    useless = NeByStaleness(model="m", added_seconds=(0, 60), ne=(1.0, 1.0), ne_without=1.0)
    trace = of_requests("t", np.zeros(3, np.int64), np.array([0, 1_000, 2_000]))
    curve = sweep(trace, Serving(), model="m", ttls=[10], ne=useless)
    assert curve.losses is None
    assert "older than without" in recommend(curve).why


def test_a_trace_of_strangers_has_nothing_to_save() -> None:
    trace = of_requests("t", np.arange(5), np.arange(5))
    curve = sweep(trace, Serving(), model="m", ttls=[10], ne=RELATION)
    assert [point.statistics.saved for point in curve.points] == [0, 0]
    assert [point.ne for point in curve.points] == [0.9, 0.9]  # strangers have the same default either way
    assert "every answer is the default" in recommend(curve).why


@given(st.lists(st.floats(0, 2), min_size=1, max_size=20))
def test_the_monotone_fit_never_falls_and_keeps_the_mean(values: list[float]) -> None:
    fitted = rising(np.array(values))
    assert (np.diff(fitted) >= 0).all()
    assert fitted.mean() == pytest.approx(np.mean(values))
    assert rising(fitted) == pytest.approx(fitted)
    assert values != sorted(values) or fitted.tolist() == values


def test_the_relation_goes_through_what_was_measured_and_keeps_its_ends() -> None:
    added = np.array([0.0, 60.0, 3_600.0, 86_400.0, 1e9, np.inf])
    assert RELATION(added) == pytest.approx([0.90, 0.902, 0.91, 0.95, 0.95, 1.0])
    between = RELATION(np.geomspace(1, 1e6, 50))
    assert (np.diff(between) >= 0).all()
    noisy = NeByStaleness(model="m", added_seconds=(0, 10, 20), ne=(0.9, 0.94, 0.92), ne_without=0.91)
    assert noisy(np.array([0.0, 10.0, 20.0])) == pytest.approx([0.9, 0.93, 0.93])


def test_the_relation_goes_through_a_file(tmp_path: Path) -> None:
    RELATION.save(tmp_path / "ne.json")
    assert NeByStaleness.load(tmp_path / "ne.json") == RELATION
    (tmp_path / "ne.json").write_text('{"a": 1}')
    with pytest.raises(ValueError, match="no relation of NE"):
        NeByStaleness.load(tmp_path / "ne.json")


@pytest.mark.parametrize(
    ("added", "ne"),
    [
        pytest.param((0.0,), (0.9,), id="one"),
        pytest.param((0.0, 10.0, 5.0), (0.9, 0.9, 0.9), id="falling"),
        pytest.param((1.0, 10.0), (0.9, 0.9), id="not from 0"),
        pytest.param((0.0, 1.0), (0.9,), id="lengths"),
        pytest.param((0.0, 1.0), (0.9, float("nan")), id="nan"),
    ],
)
def test_what_is_no_relation_is_refused(added: tuple[float, ...], ne: tuple[float, ...]) -> None:
    with pytest.raises(ValueError, match="m: NE"):
        NeByStaleness(model="m", added_seconds=added, ne=ne, ne_without=1.0)


def test_the_grid_has_its_ends_and_the_published_points() -> None:
    ttls = grid()
    assert ttls[0] == 0
    assert {1.0, 60.0, 600.0, 86_400.0} <= set(ttls)
    assert list(ttls) == sorted(set(ttls))
    with pytest.raises(ValueError, match="less than the last"):
        grid(10, 1)


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.5, "0.5 s"), (90, "1.5 min"), (7_200, "2 h"), (172_800, "2 d")], ids=str
)
def test_seconds_are_written_short(seconds: float, text: str) -> None:
    assert short(seconds) == text
