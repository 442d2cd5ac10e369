"""Traces: the calibrated ones hit the published points; the real ones hold what the logs and the lake hold."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from features.examples import build_examples
from features.lake import Lake
from infra.settings import Settings
from serving.ercache.calibrated import Calibrated, calibrated, goodness
from serving.ercache.curve import sweep
from serving.ercache.traces import PUBLISHED, Trace, of_clicks, of_examples, of_requests
from tests.features.worlds import GLOBO, GLOBO_DAY, Row, day_start_ms, land, land_articles
from trainer.serving import Serving

SMALL = Calibrated(num_users=1_500, days=2)


def test_the_calibrated_trace_hits_both_published_points() -> None:
    found = calibrated(SMALL)
    assert found.trace.share_within([60, 600]) == pytest.approx([0.52, 0.76], abs=2e-4)
    assert 1 < found.sigma < 4


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_another_draw_of_the_calibrated_trace_fits_within_its_error(seed: int) -> None:
    """What was solved for one draw holds for others: the points are not fitted to the noise."""
    solved = calibrated(Calibrated(num_users=1_500, days=2, seed=0))
    other = calibrated(Calibrated(num_users=1_500, days=2, seed=seed))
    assert (other.mu, other.sigma) == pytest.approx((solved.mu, solved.sigma), rel=0.1)
    for fit in goodness(other.trace):
        assert abs(fit.found - fit.wanted) < 3 * fit.standard_error
        assert 0 < fit.standard_error < 0.02


def test_the_same_seed_draws_the_same_trace() -> None:
    one, other = calibrated(SMALL).trace, calibrated(SMALL).trace
    assert (one.times_ms == other.times_ms).all()
    assert (one.users == other.users).all()


def test_gaps_that_do_not_hang_together_save_what_renewal_theory_allows() -> None:
    """With independent gaps of distribution F, between F/(1+F) and F of the repeat requests are hits."""
    trace = calibrated(SMALL).trace
    for point in sweep(trace, Serving(), model="m", ttls=[60, 600]).points[1:]:
        share, hits = float(trace.share_within(point.ttl_seconds)), point.statistics.hits / trace.gaps_ms.size
        assert 0.95 * share / (1 + share) < hits <= share


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        pytest.param({"points": ((600.0, 0.5), (60.0, 0.7))}, "points are", id="falling"),
        pytest.param({"requests_per_session": 3.0}, "more than 4.17", id="sessions too short"),
        pytest.param({"num_users": 0}, "num_users 0", id="nobody"),
        pytest.param({"diurnal": 2.0}, "diurnal is 2.0", id="diurnal"),
    ],
)
def test_what_cannot_be_calibrated_is_refused(wrong: dict[str, float], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        Calibrated(**wrong)  # type: ignore[arg-type]


def test_sessions_that_overlap_too_much_are_refused() -> None:
    with pytest.raises(ValueError, match="no gaps within sessions"):
        calibrated(Calibrated(num_users=50, days=0.2, sessions_per_day=2_000, requests_per_session=4.2))


@pytest.mark.parametrize(
    ("times", "users", "words"),
    [
        pytest.param([], [], "has no request", id="empty"),
        pytest.param([1, 2], [1], "one each", id="lengths"),
        pytest.param([2, 1], [1, 1], "go back", id="order"),
    ],
)
def test_a_trace_that_is_none_is_refused(times: list[int], users: list[int], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        Trace(name="t", times_ms=np.array(times, np.int64), users=np.array(users, np.int64))


def test_a_user_of_one_request_has_no_gap() -> None:
    trace = of_requests("t", np.array([1, 2]), np.array([5, 3]))
    assert (trace.num_users, trace.gaps_ms.size, float(trace.share_within(10))) == (2, 0, 0.0)
    assert goodness(trace)[0].found == 0


# real ones


def _clicks() -> list[Row]:
    start = day_start_ms(GLOBO_DAY)
    sessions = {
        (1, 10): [0, 5_000, 35_000],
        (1, 11): [600_000, 630_000],
        (2, 20): [0, 29_000],
        (3, 30): [0, 30_000, 40_000],
    }
    return [
        Row(user=user, session=session, start=start, article=100 + index, time=start + 1_000 + at)
        for (user, session), times in sessions.items()
        for index, at in enumerate(times)
    ]


def test_clicks_are_requests_with_and_without_those_that_the_log_stamps(tmp_path: Path) -> None:
    land_articles(tmp_path)
    land(tmp_path, GLOBO_DAY, _clicks())
    settings = Settings(home=tmp_path, data_dir=tmp_path)
    every = of_clicks(GLOBO, [GLOBO_DAY], settings=settings)
    honest = of_clicks(GLOBO, [GLOBO_DAY], settings=settings, stamped=False)
    assert (len(every), len(honest)) == (10, 8)
    assert every.gaps_ms.tolist() == [5_000, 10_000, 29_000, 30_000, 30_000, 30_000, 565_000]
    assert honest.gaps_ms.tolist() == [5_000, 10_000, 29_000, 30_000, 595_000]


def test_examples_of_one_event_are_one_request(tmp_path: Path) -> None:
    from features.sources.synthetic import SyntheticWorld
    from trainer.recipes.demo import demo

    source = SyntheticWorld(name="demo", num_users=100, events_per_day=400)
    settings = Settings(home=tmp_path)
    ds = demo().schedule.start
    build_examples(source, ds, settings=settings, reject_max_share=0.05)
    trace = of_examples(source, [ds], lake=Lake(settings.lake))
    assert 0 < len(trace) <= 400
    assert np.unique(np.stack([trace.times_ms, trace.users]), axis=1).shape[1] == len(trace)


@pytest.mark.real_data
def test_the_stamp_makes_the_portals_log_look_like_the_published_pattern(real_data_dir: Path, tmp_path: Path) -> None:
    settings = Settings(home=tmp_path, data_dir=real_data_dir)
    every, honest = (of_clicks(GLOBO, [GLOBO_DAY], settings=settings, stamped=stamped) for stamped in (True, False))
    seconds = [seconds for seconds, _ in PUBLISHED]
    assert every.share_within(seconds)[0] > 0.4
    assert honest.share_within(seconds)[0] < 0.2
