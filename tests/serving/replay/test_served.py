"""What a request receives depends on what was there before it, and on nothing else."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from features.lake import Lake
from infra.settings import Settings
from serving.replay.modes import MODES, REQUESTED, Latency, ReplayConfig, modes_named
from serving.replay.requests import Requests, read_requests
from serving.replay.snapshots import PromotedDays
from serving.replay.stores import Stores
from snapshots.embedder import embedder_of
from snapshots.embeddings import stack
from snapshots.registry import Registry
from tests.serving.replay.world import ALL, REPLAYED, Event, Seen, commit_events, events_of, start_ms, walk
from tests.snapshots.world import START, tiny_recipe
from trainer.serving import Serving

LAST = REPLAYED[-1]
NOON = 0.5


def other_labels(events: list[Event]) -> list[Event]:
    return [replace(event, click=1 - event.click) for event in events]


def other_items(events: list[Event]) -> list[Event]:
    return [replace(event, place=event.place + 1) for event in events]


def other_afternoon(events: list[Event]) -> list[Event]:
    """Everything from noon on is somebody else's, with other features and labels."""
    return [
        event
        if event.at < NOON
        else replace(event, user=(event.user + 1) % 45, liked=(1,), age=20.0, click=1 - event.click)
        for event in events
    ]


def no_afternoon(events: list[Event]) -> list[Event]:
    return [event for event in events if event.at < NOON]


@pytest.mark.parametrize("change", [other_labels, other_items, other_afternoon, no_afternoon])
def test_the_future_is_not_seen(undisturbed: list[Seen], changed: Settings, change: object) -> None:
    commit_events(Lake(changed.lake), LAST, change(events_of(LAST)))  # type: ignore[operator]
    until = start_ms(LAST) + (NOON if "afternoon" in change.__name__ else 1.0) * 86_400_000  # type: ignore[attr-defined]
    for before, after in zip(undisturbed, walk(changed, REPLAYED), strict=True):
        for mode in MODES:
            expected = before.of(mode, before_ms=until)
            assert len(expected) > 50
            assert after.of(mode, before_ms=until) == expected, mode


def test_a_request_sees_its_own_features_in_real_time_only(trained: Settings, changed: Settings) -> None:
    """One request's features change: in real time its own vector does, elsewhere only those of later requests."""
    events = events_of(LAST)
    place = next(
        i for i, event in enumerate(events) if event.at > NOON and sum(e.user == event.user for e in events) > 4
    )
    one = events[place]
    same_request = [(e.user, e.at) == (one.user, one.at) for e in events]
    events = [replace(e, liked=(17,), age=77.0) if same else e for e, same in zip(events, same_request, strict=True)]
    commit_events(Lake(changed.lake), LAST, events)
    config = replace(ALL, serving=Serving(window_ms=1e9))
    (*_, before), (*_, after) = (walk(home, REPLAYED, config=config) for home in (trained, changed))
    at = start_ms(LAST) + round(one.at * 86_400_000)
    for mode in MODES.values():
        differs = [
            key
            for key, a, b in zip(before.keys, before.vectors[mode.name], after.vectors[mode.name], strict=True)
            if a.tobytes() != b.tobytes()
        ]
        own = mode.features == "request"
        if mode.waits and own:
            assert (one.user, at) in differs
        else:
            assert (one.user, at) not in differs
        assert all(user == one.user and time >= at for user, time in differs)
        assert bool(differs) == (mode.feed in REQUESTED and own), "the first request of its user's day was another"


def test_what_changes_within_a_day_can_be_held_back(trained: Settings) -> None:
    """`realtime-first`: all day long a user is served what the first request computed; that one as in real time."""
    modes = modes_named(["realtime-first", "realtime-versions"])
    (*_, day) = walk(trained, REPLAYED, config=ReplayConfig(modes=modes, serving=Serving(window_ms=1e9)))
    first: dict[int, int] = {}
    for place, (user, _) in enumerate(day.keys):
        first.setdefault(user, place)
    held, fresh = (day.vectors[mode.name] for mode in modes)
    of_first = [first[user] for user, _ in day.keys]
    assert held.tobytes() == held[of_first].tobytes()
    assert held[of_first].tobytes() == fresh[of_first].tobytes()
    assert held.tobytes() != fresh.tobytes()


@pytest.mark.parametrize(
    "window_ms", [pytest.param(1e-9, id="none in time"), pytest.param(30.0, id="some"), pytest.param(1e9, id="all")]
)
def test_fallbacks_are_counted_and_served_from_the_cache(trained: Settings, window_ms: float) -> None:
    config = ReplayConfig(
        modes=modes_named(["realtime", "async"]),
        latency=Latency(median_ms=30, p99_ms=100),
        serving=Serving(window_ms=window_ms),
    )
    lake = Lake(trained.lake)
    promoted = PromotedDays.of("tiny", "tiny", registry=Registry(trained), lake=lake, before=LAST)
    stores = Stores(tiny_recipe(), lake, promoted, config=config, first=LAST, frozen=START)
    examples = lake.get("examples/tiny", LAST)
    requests = read_requests(lake, examples)
    served = stores.serve(LAST, examples, requests)
    took = config.latency.draw(requests.user, requests.time_ms, seed=config.seed)
    late = took > window_ms
    realtime, cached = served["realtime"], served["async"]
    assert realtime.late.tolist() == late.tolist()
    tally = realtime.tally(requests)
    assert tally.late == late.sum()
    assert (tally.late > 0, tally.late < len(requests)) == (window_ms < 1e9, window_ms > 1)
    assert tally.served == len(requests) - tally.late_default
    assert realtime.chosen[late].tolist() == cached.chosen[late].tolist()
    assert cached.tally(requests).late == 0
    in_time = realtime.chosen[~late, 0]
    assert (realtime.entries.time_ms[in_time] == requests.time_ms[~late]).all(), "its own, first of all"


def test_batch_is_what_the_table_holds(trained: Settings, undisturbed: list[Seen]) -> None:
    """The pooled vectors of the day before, to the bit; the default for users who have none."""
    recipe, lake = tiny_recipe(), Lake(trained.lake)
    (*_, day) = undisturbed
    version = Registry(trained).promoted("tiny", before=LAST)[0]
    assert version.visible is not None
    table = lake.read(version.visible)
    tower = recipe.user_tower
    pooled = dict(
        zip(
            table.column("user_id").to_pylist(),
            stack(table, "pooled", num_embeddings=tower.num_embeddings, dim=tower.dim),
            strict=True,
        )
    )
    known = [place for place, (user, _) in enumerate(day.keys) if user in pooled]
    assert len(known) > 100
    for place in known:
        assert np.array_equal(day.vectors["batch"][place], pooled[day.keys[place][0]])
    unknown = [place for place, (user, _) in enumerate(day.keys) if user >= 43]
    assert unknown
    assert not day.vectors["batch"][unknown].any()


def test_vectors_that_are_computed_once_stay(trained: Settings, undisturbed: list[Seen]) -> None:
    first, *_, last = undisturbed
    lake, recipe = Lake(trained.lake), tiny_recipe()
    computed = lake.read(Registry(trained).promoted("tiny", before=REPLAYED[0])[-1].visible)  # type: ignore[arg-type]
    tower = recipe.user_tower
    vectors = stack(computed, "embedding", num_embeddings=tower.num_embeddings, dim=tower.dim)
    of = dict(zip(computed.column("user_id").to_pylist(), vectors, strict=True))
    for day in (first, last):
        for (user, _), served in zip(day.keys, day.vectors["frozen-once"], strict=True):
            assert np.array_equal(served, of[user]) if user in of else not served.any()


def test_the_frozen_snapshot_sees_new_features(trained: Settings, undisturbed: list[Seen]) -> None:
    """Section 6.4: the model is frozen; what it computes of the day before is pooled with what it computed earlier."""
    lake = Lake(trained.lake)
    first, *later = reversed(Registry(trained).promoted("tiny", before=LAST))
    embedder = embedder_of(first)
    of: dict[int, list[np.ndarray]] = {}
    for version in [*reversed(later), first]:
        rows = lake.read(lake.get("user_features/tiny", version.ds))
        for user, vector in zip(rows.column("user_id").to_pylist(), embedder.embed(rows), strict=True):
            of.setdefault(user, []).append(vector)
    day = undisturbed[-1]
    known = [place for place, (user, _) in enumerate(day.keys) if user in of]
    assert len(known) > 100
    for place in known:
        expected = np.mean(of[day.keys[place][0]], axis=0)
        assert np.allclose(day.vectors["frozen"][place], expected, atol=2e-3, rtol=2e-3)


def test_examples_out_of_order_are_refused(changed: Settings) -> None:
    lake = Lake(changed.lake)
    first, second, *rest = events_of(LAST)
    examples = commit_events(lake, LAST, [replace(first, at=0.9), second, *rest])
    with pytest.raises(ValueError, match=r"row 1 .* event time"):
        read_requests(lake, examples)


def test_candidates_of_one_instant_are_one_request() -> None:
    users, times = np.array([5, 5, 5, 3, 5]), np.array([10, 10, 20, 10, 20])
    requests = Requests.of(users, times)
    assert list(zip(requests.user.tolist(), requests.time_ms.tolist(), strict=True)) == [(3, 10), (5, 10), (5, 20)]
    assert requests.first_row.tolist() == [3, 0, 2]
    assert requests.places(users, times).tolist() == [1, 1, 2, 0, 2]
