"""What every request is served, by hand and against a store that is walked through one request at a time."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from serving.solaris.impressions import Impressions
from serving.solaris.levels import Level
from serving.solaris.model import PairModel
from serving.solaris.replay import DAY_US, Served, Stored, serve

WIDTH = 2
MODEL = PairModel(name="tiny", source="tiny", width=WIDTH, most_pairs=3, most_neighbours=2)
HOUR = 3_600_000_000


def requests(*given: tuple[int, int, int]) -> Impressions:
    """(user, item, hour)."""
    users, items, hours = (np.array(column, np.int64) for column in zip(*given, strict=True))
    return Impressions(user=users, item=items, time_us=DAY_US + hours * HOUR)


def stored(*given: tuple[int, int, float], hours: float = 0) -> Stored:
    """(user, item, value), written so many hours after the day begins."""
    users, items, values = (np.array(column) for column in zip(*given, strict=True))
    vectors = np.repeat(values.astype(np.float16)[:, None], WIDTH, axis=1)
    written = np.full(len(users), DAY_US + int(hours * HOUR))
    return Stored(user=users.astype(np.int64), item=items.astype(np.int64), written_us=written, vectors=vectors)


AHEAD = stored((1, 10, 1.0), (1, 11, 3.0), (2, 10, 5.0), (3, 10, 9.0))
OWN = 100.0


@pytest.mark.parametrize(
    ("asked", "delay", "expected"),
    [
        pytest.param([(1, 10, 1)], None, [(Level.EXACT, 1.0)], id="its own"),
        pytest.param([(1, 12, 1)], None, [(Level.USER, 2.0)], id="the mean of its user's"),
        pytest.param([(9, 10, 1)], None, [(Level.NEIGHBOURS, 3.0)], id="the mean of its item's likeliest two"),
        pytest.param([(9, 12, 1)], None, [(Level.ZERO, 0.0)], id="nothing"),
        pytest.param([(9, 12, 1), (9, 12, 2)], None, [(Level.ZERO, 0.0)] * 2, id="misses are not computed"),
        pytest.param([(9, 12, 1), (9, 12, 2)], 60, [(Level.ZERO, 0.0), (Level.EXACT, OWN)], id="a miss is computed"),
        pytest.param([(9, 12, 1), (9, 12, 2)], 2 * 3_600, [(Level.ZERO, 0.0)] * 2, id="not there yet"),
        pytest.param([(9, 12, 1), (9, 13, 2)], 60, [(Level.ZERO, 0.0), (Level.USER, OWN)], id="stands for others"),
        pytest.param([(9, 12, 1), (8, 12, 2)], 60, [(Level.ZERO, 0.0), (Level.NEIGHBOURS, OWN)], id="and for users"),
        pytest.param([(9, 12, 2), (9, 12, 1)], 60, [(Level.EXACT, OWN + 1), (Level.ZERO, 0.0)], id="out of order"),
    ],
)
def test_a_request_is_served_the_best_there_is(
    asked: list[tuple[int, int, int]], delay: float | None, expected: list[tuple[Level, float]]
) -> None:
    own = np.repeat((OWN + np.arange(len(asked))).astype(np.float16)[:, None], WIDTH, axis=1)
    served, _ = serve(AHEAD, requests(*asked), own, model=MODEL, delay_seconds=delay)
    assert [(Level(level), float(vector[0])) for level, vector in zip(served.levels, served.vectors, strict=True)] == (
        expected
    )
    assert served.num_refreshed == (0 if delay is None else len({pair[:2] for pair in asked} - {(1, 10)}))


def test_means_alone_are_served_from_the_same_store() -> None:
    own = np.full((2, WIDTH), 7, np.float16)
    asked = requests((1, 10, 1), (9, 12, 1))
    (shown, after), (served, stored_after) = (
        serve(AHEAD, asked, own, model=MODEL, delay_seconds=60, exact=exact) for exact in (True, False)
    )
    assert shown.levels.tolist() == [Level.EXACT, Level.ZERO]
    assert (served.levels.tolist(), served.vectors[0, 0]) == ([Level.USER, Level.ZERO], 2)
    assert len(after) == len(stored_after) == len(AHEAD) + 1


def test_what_outlived_its_time_is_not_served_and_a_newer_one_replaces_it() -> None:
    old = stored((1, 10, 1.0), hours=-20)
    own = np.full((2, WIDTH), 7, np.float16)
    served, after = serve(old, requests((1, 10, 3), (1, 10, 5)), own, model=MODEL, delay_seconds=60)
    assert served.levels.tolist() == [Level.EXACT, Level.ZERO]
    assert served.age_hours[0] == 23
    assert np.isnan(served.age_hours[1])
    assert (len(after), after.vectors[0, 0]) == (1, 7)
    assert len(after.alive(2 * DAY_US, MODEL)) == 1
    assert len(old.alive(DAY_US + 4 * HOUR, MODEL)) == 0
    with pytest.raises(ValueError, match="a day at least"):
        serve(old, requests((1, 10, 3)), own, model=replace(MODEL, ttl_seconds=60), delay_seconds=None)


def test_of_two_the_one_that_was_written_later_is_kept_whoever_brings_it() -> None:
    early, late = stored((1, 10, 1.0), (1, 11, 2.0), hours=-2), stored((1, 10, 3.0), (2, 10, 4.0), hours=-1)
    for both in (early.with_newer(late), late.with_newer(early)):
        found = dict(zip(zip(both.user.tolist(), both.item.tolist(), strict=True), both.vectors[:, 0], strict=True))
        assert found == {(1, 10): 3, (1, 11): 2, (2, 10): 4}
    (again,) = stored((1, 10, 1.0)).with_newer(stored((1, 10, 5.0))).vectors[:, 0]
    assert again == 5
    assert len(Stored.empty(WIDTH).with_newer(Stored.empty(WIDTH))) == 0


def test_what_still_waits_when_the_day_ends_does_not_come_back() -> None:
    asked = requests((1, 1, 22), (1, 2, 23))
    own = np.ones((2, WIDTH), np.float16)
    _, after = serve(Stored.empty(WIDTH), asked, own, model=MODEL, delay_seconds=5_400)
    assert after.alive(2 * DAY_US, MODEL).item.tolist() == [1]


def test_misses_wait_for_the_budget() -> None:
    asked = requests((1, 1, 1), (1, 2, 1), (1, 1, 2), (1, 2, 2))
    slow = replace(MODEL, pairs_per_second=1 / 5_000)
    own = np.ones((4, WIDTH), np.float16)
    served, _ = serve(Stored.empty(WIDTH), asked, own, model=slow, delay_seconds=1)
    assert served.levels.tolist() == [Level.ZERO, Level.ZERO, Level.EXACT, Level.USER]


def one_by_one(ahead: Stored, asked: Impressions, own: np.ndarray, *, model: PairModel, delay_us: int) -> Served:
    """The same with a list of entries."""
    entries = list(
        zip(*(getattr(ahead, name).tolist() for name in ("user", "item", "written_us")), ahead.vectors, strict=True)
    )
    entries.sort(key=lambda entry: -entry[2])
    entries = [e for place, e in enumerate(entries) if sum(o[0] == e[0] for o in entries[:place]) < model.most_pairs]
    entries.reverse()  # of those written together, the likeliest last
    levels, vectors = [], []
    for place in np.argsort(asked.time_us, kind="stable").tolist():
        user, item, now = (int(getattr(asked, name)[place]) for name in ("user", "item", "time_us"))
        alive = [entry for entry in entries if entry[2] <= now < entry[2] + DAY_US]
        exact = [entry for entry in alive if entry[:2] == (user, item)]
        users = sorted((e for e in alive if e[0] == user), key=lambda e: e[2])[-model.most_pairs :]
        items = sorted((e for e in alive if e[1] == item), key=lambda e: e[2])[-model.most_neighbours :]
        level = next((level for level, found in enumerate((exact, users, items)) if found), 3)
        chosen = [exact[-1:], users, items, []][level]
        if not exact and not any(e[:2] == (user, item) and now < e[2] + DAY_US for e in entries):
            entries.append((user, item, now + delay_us, own[place]))
        mean = np.mean([e[3].astype(np.float32) for e in chosen], axis=0) if chosen else np.zeros(WIDTH)
        levels.append((place, level))
        vectors.append((place, mean.astype(np.float16)))
    return Served(
        levels=np.array([level for _, level in sorted(levels)], np.uint8),
        vectors=np.stack([vector for _, vector in sorted(vectors, key=lambda one: one[0])]),
        age_hours=np.empty(0, np.float32),
    )


@pytest.mark.parametrize("seed", range(3))
def test_it_is_what_a_walk_through_the_day_gives(seed: int) -> None:
    rng = np.random.default_rng(seed)
    size = 300
    asked = Impressions(
        user=rng.integers(12, size=size), item=rng.integers(15, size=size),
        time_us=DAY_US + rng.permutation(DAY_US // 1_000_000)[:size] * 1_000_000,
    )  # fmt: skip
    pairs = rng.permutation(12 * 15)[:25]
    vectors, own = (rng.normal(size=(count, WIDTH)).astype(np.float16) for count in (25, size))
    ahead = Stored(
        user=pairs // 15, item=pairs % 15, vectors=vectors,
        written_us=DAY_US - rng.integers(3, size=25) * 8 * HOUR,
    )  # fmt: skip
    served, _ = serve(ahead, asked, own, model=MODEL, delay_seconds=600)
    expected = one_by_one(ahead, asked, own, model=MODEL, delay_us=600_000_000)
    assert {0, 1, 2} <= set(served.levels.tolist())
    np.testing.assert_array_equal(served.levels, expected.levels)
    np.testing.assert_allclose(served.vectors, expected.vectors, atol=2e-3)


def test_an_arm_joins_a_vector_and_a_flag_per_level() -> None:
    own = np.ones((1, WIDTH), np.float16)
    served, _ = serve(AHEAD, requests((1, 12, 1)), own, model=MODEL, delay_seconds=None)
    vectors, flags = served.lookup(np.array([0, 0]))
    assert vectors.shape == (2, 1, WIDTH)
    assert flags.tolist() == [[0, 1, 0]] * 2
    assert served.without(Level.USER).lookup(np.array([0]))[1].tolist() == [[0, 0, 0]]
    assert Served.exactly(own, np.array([False])).lookup(np.array([0]))[0].abs().sum() == 0


def test_places_are_found_by_user_item_and_time() -> None:
    asked = requests((1, 10, 1), (1, 10, 2), (2, 10, 1))
    some = requests((2, 10, 1), (1, 10, 1))
    assert asked.places(some).tolist() == [2, 0]
    with pytest.raises(AssertionError, match="another day"):
        asked.places(requests((1, 11, 1)))
