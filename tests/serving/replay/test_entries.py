"""The store in event time, against a store that is asked one request at a time."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from serving.record import Entry, Record, entry_type
from serving.replay.entries import NONE, Entries
from serving.replay.modes import MODES, Latency, Mode, ReplayConfig
from serving.replay.requests import Requests
from serving.replay.served import serve
from trainer.serving import Serving

VERSION = 7
DELAY_MS = 40
TTL_MS = 3_000


def some_entries(seed: int, *, num: int = 300) -> tuple[Entries, Requests]:
    """Random computations of few users, versions growing with time; the last third of the time is the day replayed,
    and every request of it was computed."""
    rng = np.random.default_rng(seed)
    users, times = rng.integers(8, size=num), np.sort(rng.integers(6_000, size=num))
    requests = Requests.of(users[times >= 4_000], times[times >= 4_000])
    versions = np.where(times >= 4_000, VERSION, times // 700)
    vectors = rng.normal(size=(num, 2, 4)).astype(np.float16)
    empty = Entries.empty(num_embeddings=2, dim=4)
    shuffled = rng.permutation(num)
    merged = empty.merged(users[shuffled], times[shuffled], versions[shuffled], vectors[shuffled])
    return merged, requests


def one_at_a_time(entries: Entries, user: int, now: int, mode: Mode, *, late: bool) -> list[int]:
    """What a live store would pool: places in `entries`."""
    mine = [i for i in range(len(entries.user)) if entries.user[i] == user]
    visible = [i for i in mine if entries.time_ms[i] < now - DELAY_MS]
    newest = sorted(visible, key=lambda i: (entries.time_ms[i], entries.version[i]), reverse=True)
    if newest and entries.time_ms[newest[0]] < now - TTL_MS:
        newest = []
    own = [i for i in mine if entries.time_ms[i] == now] if mode.waits and not late else []
    chosen: list[int] = own
    for i in newest:
        if mode.pool == "computations" or entries.version[i] not in {entries.version[j] for j in chosen}:
            chosen.append(i)
    return chosen[: mode.num_pooled]


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("num_pooled", [1, 2, 3])
@pytest.mark.parametrize("name", ["async", "async-versions", "realtime", "realtime-versions"])
def test_everyone_is_served_as_if_asked_alone(name: str, num_pooled: int, seed: int) -> None:
    entries, requests = some_entries(seed)
    mode = replace(MODES[name], delay_ms=DELAY_MS, num_pooled=num_pooled)
    config = ReplayConfig(
        modes=(mode,),
        latency=Latency(median_ms=30, p99_ms=60),
        serving=Serving(failover_seconds=TTL_MS / 1_000),
    )
    served = serve(mode, entries, requests, config=config, version=VERSION)
    assert served.late.any() == mode.waits
    assert not served.late.all()
    vectors, has = served.pooled(np.arange(len(requests)))
    for place in range(len(requests)):
        user, now = int(requests.user[place]), int(requests.time_ms[place])
        expected = one_at_a_time(entries, user, now, mode, late=bool(served.late[place]))
        assert [i for i in served.chosen[place] if i != NONE] == expected
        assert has[place] == bool(expected)
        if expected:
            assert vectors[place].tobytes() == as_the_live_store(entries, expected).tobytes()
        else:
            assert not vectors[place].any()


def as_the_live_store(entries: Entries, chosen: list[int]) -> np.ndarray:
    """What `serving.record` pools, as float32."""
    found = [
        Entry(version=int(entries.version[i]), feature_ms=int(entries.time_ms[i]), vectors=entries.vectors[i]).packed()
        for i in chosen
    ]
    return Record(np.frombuffer(b"".join(found), entry_type(2, 4))).pooled().astype(np.float32)


@pytest.mark.parametrize("seed", range(5))
def test_what_is_trimmed_nobody_misses(seed: int) -> None:
    entries, requests = some_entries(seed)
    trimmed = entries.trimmed(at_ms=4_000, delay_ms=DELAY_MS, ttl_ms=TTL_MS, count=3)
    assert len(trimmed.user) < len(entries.user)
    for name in ("async", "async-versions"):
        mode = replace(MODES[name], delay_ms=DELAY_MS)
        config = ReplayConfig(modes=(mode,), serving=Serving(failover_seconds=TTL_MS / 1_000))
        both = [
            serve(mode, kept, requests, config=config, version=VERSION).pooled(np.arange(len(requests)))
            for kept in (entries, trimmed)
        ]
        assert both[0][0].tobytes() == both[1][0].tobytes()


def test_a_redelivery_changes_nothing() -> None:
    entries, _ = some_entries(0)
    again = entries.merged(entries.user, entries.time_ms, entries.version, np.zeros_like(entries.vectors))
    assert again.vectors.tobytes() == entries.vectors.tobytes()
    assert again.user.tolist() == entries.user.tolist()


def test_of_one_instant_the_newer_version_comes_first() -> None:
    entries = Entries.empty(num_embeddings=1, dim=1).merged(
        np.array([3, 3]), np.array([10, 10]), np.array([2, 1]), np.array([[[2.0]], [[1.0]]], dtype=np.float16)
    )
    first = entries.newest(np.array([3]), np.array([11]))
    chain = entries.chain(first, count=3, pool="computations")[0]
    assert [int(entries.version[i]) for i in chain if i != NONE] == [2, 1]


@pytest.mark.parametrize("user", [-1, 0, 4, 99])
def test_nobody_else_is_served_for_an_unknown_user(user: int) -> None:
    entries = Entries.empty(num_embeddings=1, dim=1).merged(
        np.array([1, 3, 5]), np.array([10, 20, 30]), 1, np.ones((3, 1, 1), dtype=np.float16)
    )
    assert entries.newest(np.array([user]), np.array([100])).tolist() == [NONE]


@pytest.mark.parametrize(
    ("days", "pooled"),
    [
        pytest.param([10, 15, 20], [20, 15, 10], id="all within two weeks of the newest"),
        pytest.param([0, 10, 20], [20, 10], id="one is older than that"),
        pytest.param([0, 1, 20], [20], id="two are"),
        pytest.param([0, 1, 6], [], id="the record has expired"),
    ],
)
def test_what_is_pooled_lies_within_two_weeks(days: list[int], pooled: list[int]) -> None:
    entries = Entries.empty(num_embeddings=1, dim=1).merged(
        np.full(len(days), 3), 86_400_000 * np.array(days), 1, np.ones((len(days), 1, 1), dtype=np.float16)
    )
    requests = Requests.of(np.array([3]), np.array([86_400_000 * 20 + 2_000]))
    served = serve(MODES["async"], entries, requests, config=ReplayConfig(), version=1)
    assert [int(entries.time_ms[i]) // 86_400_000 for i in served.chosen[0] if i != NONE] == pooled
