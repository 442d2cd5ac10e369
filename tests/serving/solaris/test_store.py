"""What the store keeps of a user's pairs, whatever arrives, in whatever order, from however many."""

from __future__ import annotations

import itertools
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from serving.record import RecordError
from serving.solaris.interfaces import Likely
from serving.solaris.record import PairRecord, header
from serving.solaris.store import PairStore, Represented, values_of
from tests.serving.servers import Server
from tests.serving.solaris.world import MODEL, NOW_MS, WIDTH, give_features, kept, with_model, write

Arrival = tuple[int, int, int, int, int]
"""Item, feature time, version, priority, value."""
ITEMS = (-(2**63), -1, 0, 1, 2**32, 2**63 - 1)
MOST = 3


def expected(arrivals: Sequence[Arrival], most: int = MOST) -> list[tuple[int, int, int, float, float]]:
    """Of each item the newest features, then the newest version; its last computation, at the highest priority that it
    was given. Of these the newest, of the same features and version those of the highest priority."""
    best: dict[int, tuple[int, int, int, int]] = {}
    for item, feature_ms, version, priority, value in arrivals:
        known = best.get(item)
        if known and known[:2] == (feature_ms, version):
            best[item] = feature_ms, version, max(priority, known[2]), value
        elif not known or (feature_ms, version) > known[:2]:
            best[item] = feature_ms, version, priority, value
    ranked = sorted(best.items(), key=lambda one: ([-number for number in one[1][:3]], one[0]))
    return [(item, f, v, float(p), float(value)) for item, (f, v, p, value) in ranked[:most]]


ARRIVALS = st.lists(
    st.tuples(
        st.sampled_from(ITEMS),
        st.sampled_from((-5, 0, NOW_MS - 1, NOW_MS)),
        st.sampled_from((0, 1, 2**32 - 1)),
        st.integers(-2, 2),
        st.integers(0, 9),
    ),
    max_size=12,
)


def arrive(store: PairStore, user: int, arrivals: Sequence[Arrival], *, together: bool = False) -> None:
    """One by one, or in one write."""
    parts = [arrivals] if together else [[one] for one in arrivals]
    for part in parts:
        if part:
            given = Represented.of(
                [Likely(user, one[0], one[3]) for one in part],
                np.array([[one[4]] * WIDTH for one in part], np.float16),
                version=0,
                feature_ms=np.array([one[1] for one in part]),
            )
            given.entries["version"] = [one[2] for one in part]
            store.write(given)


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(ARRIVALS, st.sampled_from((0, -1, 2**63 - 1, -(2**63))), st.booleans())
def test_what_is_kept_is_the_oracles(store: PairStore, arrivals: list[Arrival], user: int, together: bool) -> None:
    store = with_model(store, most_pairs=MOST)
    store.redis.flushall()
    arrive(store, user, arrivals, together=together)
    assert kept(store, user) == expected(arrivals)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(ARRIVALS, st.randoms())
def test_arrivals_commute_and_may_repeat(store: PairStore, arrivals: list[Arrival], random: Any) -> None:
    """But for the value of a computation that is repeated with another outcome: there is no such one."""
    store = with_model(store, most_pairs=MOST)
    store.redis.flushall()
    alike = [(*one[:4], 0) for one in arrivals]
    arrive(store, 1, alike)
    random.shuffle(alike)
    arrive(store, 2, [*alike, *alike[:4]])
    assert kept(store, 1) == kept(store, 2)


def test_a_full_record_loses_the_oldest_features_then_the_lowest_priority(store: PairStore) -> None:
    store = with_model(store, most_pairs=3)
    write(store, 7, 1, feature_ms=NOW_MS - 10, priority=9.0)
    write(store, 7, 2, priority=0.2)
    write(store, 7, 3, priority=0.3)
    assert [one[0] for one in kept(store, 7)] == [3, 2, 1]
    write(store, 7, 4, priority=0.1)
    assert [one[0] for one in kept(store, 7)] == [3, 2, 4], "the oldest went, whatever its priority"
    assert write(store, 7, 5, priority=0.05) == (0, 0), "below all there are"
    write(store, 7, 6, priority=1.0)
    assert [one[0] for one in kept(store, 7)] == [6, 3, 2]


def test_the_same_computation_again_is_dated_anew_and_no_more(store: PairStore) -> None:
    write(store, 7, 1, 2)
    first = store.read(7)
    assert first is not None
    time.sleep(0.003)
    assert write(store, 7, 1) == (1, 0)
    again = store.read(7)
    assert again is not None
    assert again.entries["write_ms"][0] > first.entries["write_ms"][0]
    names = [name for name in first.entries.dtype.names or () if name != "write_ms"]
    assert [again.entries[name].tolist() for name in names] == [first.entries[name].tolist() for name in names]
    assert again.entries["write_ms"][1] == first.entries["write_ms"][1]


@pytest.mark.parametrize("feature_ms", [NOW_MS + 10**7, 2**62], ids=["hours", "far"])
def test_features_from_the_future_are_refused(store: PairStore, feature_ms: int) -> None:
    assert write(store, 7, 1, 2, feature_ms=feature_ms) == (0, 2)
    assert kept(store, 7) == []


@pytest.mark.parametrize(
    ("item", "priority", "feature_ms", "outcome"),
    [
        pytest.param(7, 0.4, NOW_MS, "outranked", id="lower"),
        pytest.param(7, 0.5, NOW_MS, "outranked", id="equal, of a higher id"),
        pytest.param(-7, 0.5, NOW_MS, "queued", id="equal, of a lower id"),
        pytest.param(7, 0.6, NOW_MS, "queued", id="higher"),
        pytest.param(7, 0.4, NOW_MS + 1, "queued", id="newer features"),
        pytest.param(7, 0.6, NOW_MS - 1, "outranked", id="older features"),
        pytest.param(2, 0.1, NOW_MS, "queued", id="in the record"),
    ],
)
def test_what_a_full_record_would_not_keep_is_not_computed(
    store: PairStore, item: int, priority: float, feature_ms: int, outcome: str
) -> None:
    small = with_model(store, most_pairs=2)
    write(small, 1, 1, priority=0.9)
    write(small, 1, 2, priority=0.5)
    give_features(small, [1], feature_ms=feature_ms)
    assert small.enqueue([Likely(1, item, priority)]) == Counter({outcome: 1})
    if item != 2:
        assert write(small, 1, item, priority=priority, feature_ms=feature_ms)[0] == (outcome == "queued"), "rightly"


@pytest.mark.parametrize(
    "changes", [{"most_pairs": 3}, {"most_pairs": 2, "ttl_seconds": 1e-3}], ids=["not full", "not fresh"]
)
def test_a_record_with_room_refuses_nothing(store: PairStore, changes: dict[str, float]) -> None:
    write(store, 1, 1, 2)
    time.sleep(0.005)
    assert with_model(store, **changes).enqueue([Likely(1, 7, 0.1)]) == Counter(queued=1)


def test_what_outlived_its_time_gives_way(store: PairStore) -> None:
    short = with_model(store, ttl_seconds=0.05, most_pairs=2)
    write(short, 7, 1, 2, feature_ms=NOW_MS)
    time.sleep(0.06)
    assert short.read(7) is None, "the record itself"
    write(with_model(store, most_pairs=2), 7, 1, 2, feature_ms=NOW_MS)
    time.sleep(0.06)
    write(short, 7, 3, feature_ms=NOW_MS - 10)
    assert [one[0] for one in kept(store, 7)] == [3], "newer features, but written too long ago"


def test_of_two_widths_the_newer_one_stays(store: PairStore) -> None:
    wide = with_model(store, width=8)
    write(store, 7, 1)
    assert write(wide, 7, 1, feature_ms=NOW_MS - 1, value=1.0) == (0, 0)
    assert write(wide, 7, 1, feature_ms=NOW_MS, version=2, value=1.0) == (1, 0)
    found = store.read(7)
    assert found is not None
    assert found.entries["vector"].shape == (1, 8)
    assert len(found.alive(now_ms=NOW_MS, ttl_seconds=60, width=WIDTH)) == 0


def test_an_item_keeps_the_users_of_the_newest_features(store: PairStore) -> None:
    store = with_model(store, most_neighbours=2)
    for user, feature_ms in ((1, NOW_MS - 30), (2, NOW_MS - 10), (3, NOW_MS - 20)):
        write(store, user, 5, feature_ms=feature_ms)
    (value,) = values_of(store.redis, [store.keys.item(5)])
    assert value is not None
    assert PairRecord.parse(value).entries["member"].tolist() == [2, 3]


@pytest.mark.parametrize(
    "lies_there",
    [b"", b"\x03", header(WIDTH), b"\xff" * 400, b"\x03\x00\x02\x00\x04\x00" + bytes(41), b"[1]"],
    ids=["nothing", "a byte", "no entry", "noise", "cut off", "text"],
)
def test_a_damaged_record_is_told_and_written_over(store: PairStore, lies_there: bytes) -> None:
    store.redis.set(store.keys.user(7), lies_there)
    with pytest.raises(RecordError):
        store.read(7)
    write(store, 7, 1)
    assert [one[0] for one in kept(store, 7)] == [1]


def test_a_value_of_another_type_is_written_over(store: PairStore) -> None:
    store.redis.rpush(store.keys.user(7), "x")
    write(store, 7, 1)
    assert [one[0] for one in kept(store, 7)] == [1]


def test_of_concurrent_writers_the_oracles_pairs_win(server: Server, store: PairStore) -> None:
    drawn = np.random.default_rng(0)
    arrivals = [
        (int(item), NOW_MS - int(age), int(version), int(priority), int(item) % 7)
        for item, age, version, priority in drawn.integers(0, [30, 20, 3, 5], (600, 4))
    ]

    def writer(number: int) -> None:
        with server.client() as client:
            own = PairStore(client, MODEL)
            order = np.random.default_rng(number).permutation(len(arrivals)).tolist()
            for begin in range(0, len(order), 20):
                arrive(
                    with_model(own, most_pairs=8), 7, [arrivals[at] for at in order[begin : begin + 20]], together=True
                )

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(writer, range(4)))
    assert kept(store, 7) == expected(arrivals, most=8)


def test_the_policy_says_what_is_wrong_with_it() -> None:
    for changes, words in (
        ({"width": 0}, "width is 0"),
        ({"refresh_share": 1.0}, "refresh_share is 1.0"),
        ({"most_pairs": 10**6}, "most_pairs is 1000000"),
        ({"pairs_per_second": float("nan")}, "pairs_per_second is nan"),
    ):
        with pytest.raises(ValueError, match=words):
            with_model(PairStore(None, MODEL), **changes)  # type: ignore[arg-type]


def test_every_order_of_a_few(store: PairStore) -> None:
    """Where a record is full, replacing an entry must never have evicted another for nothing."""
    arrivals = [(1, NOW_MS, 1, 5, 0), (1, NOW_MS + 1, 1, 0, 0), (2, NOW_MS, 1, 3, 0), (3, NOW_MS, 2, 0, 0)]
    small = with_model(store, most_pairs=2)
    for user, order in enumerate(itertools.permutations(arrivals)):
        arrive(small, user, order)
        assert kept(small, user) == expected(arrivals, most=2), order
