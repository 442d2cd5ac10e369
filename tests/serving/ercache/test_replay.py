"""The cache replayed over traces: both engines do what the event loop does, and the bounds that theory gives hold."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.ercache.calibrated import Calibrated, calibrated
from serving.ercache.replay import NOBODY, Conditions, Replayed, replay
from serving.ercache.simulate import ages_seconds, simulate, simulate_models, statistics
from serving.ercache.traces import Trace, of_requests
from tests.serving.ercache.naive import answers
from trainer.serving import Serving

HOUR = 3_600.0
NO_LATENCY = Conditions(latency_ms=0)


def _trace(*requests: tuple[int, int]) -> Trace:
    """Of (time ms, user)."""
    times, users = np.array(requests, dtype=np.int64).T
    return of_requests("written down", users, times)


def _what(found: Replayed) -> list[str]:
    kinds = ("hit", "joined", "limited", "inferred")
    flags = np.stack([getattr(found, kind) for kind in kinds])
    assert (flags.sum(axis=0) == 1).all(), "every request is exactly one of these"
    return [kinds[index] for index in flags.argmax(axis=0)]


REQUESTS = st.lists(st.tuples(st.integers(0, 400), st.integers(0, 4)), min_size=1, max_size=60)
POLICIES = st.builds(
    lambda mode, direct, longer: Serving(mode=mode, direct_seconds=direct, failover_seconds=direct + longer),
    st.sampled_from(["async", "realtime"]),
    st.sampled_from([0.0, 0.001, 0.03, 0.1, 10.0]),
    st.sampled_from([0.001, 0.05, 0.2, 10.0]),
)
CONDITIONS = st.builds(
    Conditions,
    latency_ms=st.sampled_from([0.0, 1.0, 29.0, 31.0, 100.0]),
    latency_sigma=st.sampled_from([0.0, 1.0]),
    failure_rate=st.sampled_from([0.0, 0.3, 1.0]),
    seed=st.integers(0, 3),
)


@given(REQUESTS, POLICIES, CONDITIONS)
def test_both_engines_do_what_the_event_loop_does(
    requests: list[tuple[int, int]], policy: Serving, conditions: Conditions
) -> None:
    trace = _trace(*requests)
    latencies, fails = conditions.draw(len(trace))
    pairs = list(zip(trace.times_ms.tolist(), trace.users.tolist(), strict=True))
    expected = answers(pairs, policy, latencies=latencies.tolist(), fails=fails.tolist())
    roomy = replace(conditions, capacity=1_000)  # enough for all, and replayed in turn
    for found in (replay(trace, policy, conditions), replay(trace, policy, roomy)):
        assert list(zip(_what(found), found.waited.tolist(), found.served.tolist(), strict=True)) == expected
        assert found.failed.tolist() == (found.inferred & fails).tolist()
        is_late = found.inferred & (latencies > policy.window_ms) & (policy.mode == "realtime")
        assert found.late.tolist() == is_late.tolist()


@given(REQUESTS, POLICIES, CONDITIONS)
def test_hits_are_at_most_the_gaps_that_are_short_enough(
    requests: list[tuple[int, int]], policy: Serving, conditions: Conditions
) -> None:
    trace = _trace(*requests)
    latency = int(conditions.draw(len(trace))[0].max())
    within = trace.share_within(policy.direct_seconds + latency / 1000) * trace.gaps_ms.size
    assert simulate(trace, policy, conditions).hits <= round(float(within))


@given(REQUESTS, POLICIES, CONDITIONS)
def test_a_longer_ttl_never_costs_a_user_more_inferences_alone(
    requests: list[tuple[int, int]], policy: Serving, conditions: Conditions
) -> None:
    trace, steady = _trace(*requests), replace(conditions, latency_sigma=0, failure_rate=0)
    longer = replace(policy, direct_seconds=2 * policy.direct_seconds, failover_seconds=2 * policy.failover_seconds)
    assert simulate(trace, longer, steady).inferences <= simulate(trace, policy, steady).inferences


@pytest.mark.parametrize(
    ("mode", "ttl", "what", "served"),
    [
        pytest.param("async", 0.0, ["inferred"] * 5, [NOBODY, 0, 1, 2, 3], id="async: the one before"),
        pytest.param(
            "async", 60.0, ["inferred", "hit", "hit", "inferred", "hit"], [NOBODY, 0, 0, 0, 3], id="async, TTL"
        ),
        pytest.param("realtime", 0.0, ["inferred"] * 5, [0, 1, 2, 3, 4], id="realtime: its own"),
        pytest.param(
            "realtime", 60.0, ["inferred", "hit", "hit", "inferred", "hit"], [0, 0, 0, 3, 3], id="realtime, TTL"
        ),
    ],
)
def test_a_hit_does_not_renew(mode: str, ttl: float, what: list[str], served: list[int]) -> None:
    trace = _trace((0, 7), (25_000, 7), (50_000, 7), (75_000, 7), (100_000, 7))
    found = replay(trace, Serving(mode=mode, direct_seconds=ttl), NO_LATENCY)  # type: ignore[arg-type]
    assert (_what(found), found.served.tolist()) == (what, served)


def test_what_fails_is_answered_from_the_failover_cache_and_later_from_none() -> None:
    trace = _trace((0, 7), (10_000, 7), (20_000, 7), (40_000, 7))
    policy = Serving(mode="realtime", failover_seconds=30)
    seed = next(seed for seed in range(1_000) if _fails(seed) == [False, True, True, True])
    found = replay(trace, policy, Conditions(latency_ms=0, failure_rate=0.5, seed=seed))
    assert found.served.tolist() == [0, 0, 0, NOBODY]
    counted = statistics(trace, found)
    assert (counted.fresh, counted.failovers, counted.fallbacks, counted.failures) == (1, 2, 1, 3)
    assert counted.inferences == 4, "what fails has cost its compute"


def _fails(seed: int) -> list[bool]:
    fails: list[bool] = Conditions(failure_rate=0.5, seed=seed).draw(4)[1].tolist()
    return fails


def test_what_is_late_falls_back_and_is_written_all_the_same() -> None:
    trace = _trace((0, 7), (1_000, 7), (2_000, 7))
    found = replay(trace, Serving(mode="realtime", window_ms=30), Conditions(latency_ms=100))
    assert found.late.all()
    assert found.served.tolist() == [NOBODY, 0, 1]


@pytest.mark.parametrize("mode", ["async", "realtime"])
def test_the_rate_limit_holds_in_every_second(mode: str) -> None:
    trace = calibrated(Calibrated(num_users=300, days=0.5)).trace
    policy = Serving(mode=mode, max_inferences_per_second=0.02)  # type: ignore[arg-type]
    free = replay(trace, Serving(mode=mode), Conditions())  # type: ignore[arg-type]
    found = replay(trace, policy, Conditions(burst_seconds=100))
    seconds = trace.times_ms[found.inferred] / 1000
    assert found.limited.any()
    for window in (1, 60, 3_600):
        begins = np.searchsorted(seconds, seconds - window, side="right")
        assert (np.arange(seconds.size) - begins + 1).max() <= 2 + 0.02 * window
    assert free.inferred.sum() > found.inferred.sum() > 0.3 * 0.02 * 12 * HOUR
    assert statistics(trace, found).fallbacks > statistics(trace, free).fallbacks


def test_a_full_store_evicts_the_user_unseen_for_longest() -> None:
    trace = _trace((0, 1), (1_000, 2), (2_000, 1), (3_000, 3), (4_000, 1), (5_000, 2))
    found = replay(trace, Serving(direct_seconds=60), Conditions(latency_ms=0, capacity=2))
    assert _what(found) == ["inferred", "inferred", "hit", "inferred", "hit", "inferred"]
    assert found.served.tolist() == [NOBODY, NOBODY, 0, NOBODY, 0, NOBODY]


def test_models_of_one_request_are_written_together() -> None:
    trace = _trace((0, 7), (10_000, 7), (20_000, 7), (30_000, 7), (40_000, 7))
    found = simulate_models(
        trace,
        {"short": Serving(), "long": Serving(direct_seconds=20), "frugal": Serving(direct_seconds=40)},
        NO_LATENCY,
    )
    assert [of.inferences for of in found.models.values()] == [5, 3, 2]
    assert (found.writes, found.grouped_writes, found.writes_saved) == (10, 5, 0.5)
    assert simulate_models(trace, {}).writes_saved == 0


def test_in_real_time_an_answer_is_no_older_than_the_ttl_and_the_latency() -> None:
    trace = calibrated(Calibrated(num_users=300, days=1)).trace
    ages = ages_seconds(trace, replay(trace, Serving(mode="realtime", direct_seconds=60), Conditions(latency_ms=20)))
    assert ages.max() < 60.02
    assert simulate(trace, Serving(mode="realtime")).fallbacks == 0


def test_a_policy_of_a_mode_that_computes_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="batch computes nothing"):
        simulate(_trace((0, 1)), Serving(mode="batch"))


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        pytest.param({"latency_ms": -1}, "latency_ms is -1", id="latency"),
        pytest.param({"failure_rate": 1.5}, "failure_rate is 1.5", id="failures"),
        pytest.param({"capacity": 0}, "capacity is 0", id="capacity"),
    ],
)
def test_conditions_that_cannot_be_are_refused(wrong: dict[str, float], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        Conditions(**wrong)  # type: ignore[arg-type]
