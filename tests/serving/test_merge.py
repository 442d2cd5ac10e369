"""What the store's scripts promise, whatever arrives, in whatever order, from however many, on whatever lies there."""

from __future__ import annotations

import struct
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import redis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from serving.calls import Script
from serving.connection import connect, connect_async
from serving.keys import Keys
from serving.record import KEPT, LOOKBACK_SECONDS, Entry, Record
from serving.seeds import Seeded, Seeding, entries_of, seed
from serving.served import Served
from serving.store import AsyncStore, Request, Store, Write
from snapshots.pooling import LOOKBACK_DAYS
from tests.serving.servers import Server, free_port, redis_server
from trainer.serving import Pool

K, D = 2, 4
LOOKBACK_MS = int(1000 * LOOKBACK_SECONDS)
NOW_MS = int(1000 * time.time())
TIMES = (-(2**40), 0, NOW_MS - LOOKBACK_MS - 1, NOW_MS - LOOKBACK_MS, NOW_MS - 5, NOW_MS - 1, NOW_MS)
VERSIONS = (0, 1, 2, 2**32 - 1)

Arrival = tuple[int, int, int, bool]
"""Version, feature time, value of the vectors, whether it was loaded and not computed."""


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with redis_server(tmp_path_factory.mktemp("redis")) as server:
        yield server


@pytest.fixture
def store(running: Server) -> Iterator[Store]:
    with running.client() as client:
        client.flushall()
        client.script_flush()
        yield Store(client)


def entry(version: int, feature_ms: int, value: float = 1.0, *, dim: int = D) -> Entry:
    return Entry(version=version, feature_ms=feature_ms, vectors=np.full((K, dim), value, np.float16))


def write(
    store: Store,
    *entries: Entry,
    user: int = 7,
    model: str = "m",
    ttl_seconds: float = 60.0,
    pool: Pool = "computations",
) -> list[int]:
    writes = [Write(user=user, entries={model: (one, ttl_seconds)}, future_seconds=60, pool=pool) for one in entries]
    return [places[model] for places in store.write(writes)]


def load(
    store: Store, *entries: Entry, user: int = 7, dropped: tuple[int, ...] = (), pool: Pool = "computations"
) -> Seeded:
    how = Seeding(model="m", ttl_seconds=60.0, future_seconds=60.0, pool=pool, dropped=dropped)
    columns = entries_of(
        np.stack([one.vectors for one in entries]).astype(np.float32),
        versions=np.array([one.version for one in entries], np.int64),
        feature_ms=np.array([one.feature_ms for one in entries]),
    )
    return seed(store, np.full(len(entries), user), columns, how=how)


def kept(store: Store, user: int = 7) -> list[tuple[int, int, float]]:
    (record,) = store.read(user, ("m",))
    if record is None:
        return []
    return [(int(e["version"]), int(e["feature_ms"]), float(e["vectors"][0, 0])) for e in record.entries]


def expected(arrivals: list[Arrival], pool: Pool = "computations") -> list[tuple[int, int, float]]:
    """The three newest by feature time, then version; the last computation of one and the same; no older than the
    newest one's lookback. Pooled over versions, the newest of each."""
    known: dict[tuple[int, int], float] = {}
    for version, feature_ms, value, loaded in arrivals:
        if not loaded or (feature_ms, version) not in known:
            known[feature_ms, version] = float(value)
    if pool == "versions":
        known = {(f, v): known[f, v] for v, f in {v: f for f, v in sorted(known)}.items()}
    newest = sorted(known, reverse=True)[:KEPT]
    return [(v, f, known[f, v]) for f, v in newest if f >= newest[0][0] - LOOKBACK_MS]


def test_the_lookback_is_that_of_batch_pooling() -> None:
    assert LOOKBACK_SECONDS == LOOKBACK_DAYS * 86_400


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(st.tuples(st.sampled_from(VERSIONS), st.sampled_from(TIMES), st.integers(1, 9), st.booleans())),
    st.sampled_from([0, -1, 2**63 - 1, -(2**63)]),
    st.sampled_from(get_args(Pool)),
)
def test_any_order_and_repetition_gives_the_record_of_the_oracle(
    store: Store, arrivals: list[Arrival], user: int, pool: Pool
) -> None:
    store.redis.delete(store.keys.record("m", user))
    for version, feature_ms, value, loaded in arrivals:
        (load if loaded else write)(store, entry(version, feature_ms, value), user=user, pool=pool)
    assert kept(store, user) == expected(arrivals, pool)


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(st.sampled_from(VERSIONS), st.sampled_from(TIMES)), min_size=1, max_size=6), st.randoms())
def test_arrivals_commute(store: Store, keys: list[tuple[int, int]], random: Any) -> None:
    arrivals = [entry(*key) for key in keys]
    store.redis.flushall()
    write(store, *arrivals, user=1)
    random.shuffle(arrivals)
    write(store, *arrivals, *arrivals[:3], user=2)
    assert kept(store, 1) == kept(store, 2)


def test_one_vector_of_each_version(store: Store) -> None:
    """Pooled over versions, a user who asks often in one day keeps the days before."""
    arrivals = [entry(1, 10), entry(2, 20), entry(3, 30), entry(3, 31), entry(3, 32), entry(3, 29), entry(2, 40)]
    assert write(store, *arrivals, pool="versions") == [1, 1, 1, 1, 1, 0, 1]
    assert [one[:2] for one in kept(store)] == [(2, 40), (3, 32), (1, 10)]
    assert write(store, entry(4, 50)) == [1], "of the other rule: begun anew"
    assert [one[:2] for one in kept(store)] == [(4, 50)]


def test_what_was_rolled_back_gives_way_to_another_shape(store: Store) -> None:
    write(store, entry(5, 50, dim=2 * D))
    assert load(store, entry(4, 40)).older == 1
    assert load(store, entry(4, 40), dropped=(5,)).written == 1
    assert [one[:2] for one in kept(store)] == [(4, 40)]


@pytest.mark.parametrize("writers", [2, 8])
def test_of_concurrent_writers_and_a_load_the_newest_win(running: Server, store: Store, writers: int) -> None:
    users, times = range(20), [NOW_MS - 1000 + at for at in range(40)]

    def writer(number: int) -> list[tuple[int, Arrival]]:
        order = np.random.default_rng(number).permutation(len(times) * len(users))[: 400 if number else None]
        mine = [(int(at) % len(users), (number, times[int(at) // len(users)], number + 1, number == 1)) for at in order]
        with running.client() as client:
            own = Store(client)
            for user, (version, feature_ms, value, loaded) in mine:
                (load if loaded else write)(own, entry(version, feature_ms, value), user=user)
        return mine

    with ThreadPoolExecutor(writers) as pool:
        arrivals = [one for of_writer in pool.map(writer, range(writers)) for one in of_writer]
    for user in users:
        assert kept(store, user) == expected([arrival for of, arrival in arrivals if of == user])


@pytest.mark.parametrize(
    "lies_there",
    [
        b"", b"\x01", b"\x02\x01\x02\x00\x04\x00" + bytes(36), b"\x01\x00\x02\x00\x04\x00", b"\xff" * 400,
        b"\x01\x03\x02\x00\x04\x00" + bytes(36), b"\x01\x01\x02\x00\x04\x00" + bytes(35), b"[1, 2]",
    ],
    ids=["nothing", "a byte", "another format", "no entry", "noise", "too few entries", "cut off", "text"],
)  # fmt: skip
@pytest.mark.parametrize("how", [write, load], ids=["computed", "loaded"])
def test_a_damaged_record_is_written_over(store: Store, lies_there: bytes, how: Any) -> None:
    store.redis.set(store.keys.record("m", 7), lies_there)
    how(store, entry(3, NOW_MS))
    assert kept(store) == [(3, NOW_MS, 1.0)]


@pytest.mark.parametrize("how", [write, load], ids=["computed", "loaded"])
def test_a_value_of_another_type_is_written_over(store: Store, how: Any) -> None:
    store.redis.rpush(store.keys.record("m", 7), "x")
    store.redis.rpush(store.keys.features("s", 7), "x")
    how(store, entry(3, NOW_MS))
    assert kept(store) == [(3, NOW_MS, 1.0)]
    assert store.enqueue([request()]) == [1]


@pytest.mark.parametrize("how", [write, load], ids=["computed", "loaded"])
def test_of_two_shapes_the_newer_one_stays(store: Store, how: Any) -> None:
    how(store, entry(1, 10), entry(1, 20))
    how(store, entry(2, 15, dim=8))
    assert kept(store) == [(1, 20, 1.0), (1, 10, 1.0)]
    how(store, entry(2, 30, dim=8))
    assert kept(store) == [(2, 30, 1.0)]


@pytest.mark.parametrize("feature_ms", [NOW_MS + 10**7, 2**62, 2**63 - 1], ids=["hours", "far", "farthest"])
def test_the_future_is_refused_however_far(store: Store, feature_ms: int) -> None:
    assert write(store, entry(1, feature_ms)) == [-1]
    assert load(store, entry(1, feature_ms)) == Seeded(future=1)
    assert store.enqueue([request(feature_ms=feature_ms)]) == [-3]
    assert kept(store) == []


def test_loading_leaves_what_is_there_and_drops_what_it_is_told(store: Store) -> None:
    write(store, entry(1, 10, 1), entry(2, 20, 2), entry(3, 30, 3))
    assert load(store, entry(2, 20, 9)) == Seeded(known=1)
    assert load(store, entry(1, 5)) == Seeded(older=1)
    assert kept(store) == [(3, 30, 3.0), (2, 20, 2.0), (1, 10, 1.0)]
    assert load(store, entry(1, 10, 9), dropped=(3, 77)) == Seeded(known=1)
    assert kept(store) == [(2, 20, 2.0), (1, 10, 1.0)]
    assert load(store, entry(1, 5), dropped=(3,)) == Seeded(written=1), "its place is free again"


def test_a_redelivery_is_dated_anew_and_a_load_is_not(store: Store) -> None:
    write(store, entry(1, 10))
    (first,) = store.read(7, ("m",))
    time.sleep(0.005)
    load(store, entry(1, 10))
    (loaded,) = store.read(7, ("m",))
    write(store, entry(1, 10))
    (again,) = store.read(7, ("m",))
    assert first is not None
    assert loaded is not None
    assert again is not None
    assert first.entries["write_ms"] == loaded.entries["write_ms"] < again.entries["write_ms"]


def test_records_expire(store: Store) -> None:
    write(store, entry(1, NOW_MS), ttl_seconds=0.05)
    write(store, entry(1, NOW_MS), user=8, ttl_seconds=float("inf"))
    write(store, entry(1, NOW_MS), user=9, ttl_seconds=1e-9)
    time.sleep(0.1)
    assert [kept(store, user) != [] for user in (7, 8, 9)] == [False, True, False]


def request(*, user: int = 7, feature_ms: int = 10, payload: bytes = b"x") -> Request:
    return Request(
        source="s", user=user, feature_ms=feature_ms, payload=payload, ttl_seconds=60, longest=5, future_seconds=60
    )  # fmt: skip


def test_scripts_are_loaded_when_the_server_lost_them(store: Store) -> None:
    write(store, entry(1, 10))
    store.redis.script_flush()
    assert write(store, entry(1, 20), entry(1, 5)) == [1, 3]
    store.redis.script_flush()
    assert store.enqueue([request(user=user) for user in (1, 2, 1)]) == [1, 1, 0]


def test_many_writes_are_one_round_trip(store: Store) -> None:
    write(store, entry(1, 10))
    store.redis.config_resetstat()
    write(store, *(entry(1, at) for at in range(100)))
    store.read(7, tuple("abcdefgh"))
    assert called(store.redis) == {"evalsha": 100, "mget": 1}, "nobody asks first whether a script is there"


def called(client: Any) -> dict[str, int]:
    """Commands from outside since the statistics were reset."""
    found = {name.removeprefix("cmdstat_"): of["calls"] for name, of in client.info("commandstats").items()}
    mine = {"config|resetstat", "config", "info", "command", "hello", "client|setinfo", "client", "cluster", "ping"}
    inner = {"get", "set", "time", "exists", "xadd", "xlen", "getrange"}
    return {name: calls for name, calls in found.items() if name not in mine | inner}


def test_a_script_that_fails_is_an_error_and_the_others_are_done(store: Store) -> None:
    script = Script("if ARGV[1] == 'no' then return redis.error_reply('it fails') end return tonumber(ARGV[1])")
    with pytest.raises(redis.ResponseError, match="it fails"):
        script.run(store.redis, [(["a"], [1]), (["a"], ["no"]), (["a"], [2])])
    assert script.run(store.redis, [(["a"], [1]), (["a"], [2])]) == [1, 2]


def test_a_restarted_server_is_empty_and_serves_on(tmp_path: Path) -> None:
    port = free_port()
    with redis_server(tmp_path, port=port) as server:
        store = Store(connect(server.url, timeout_seconds=1))
        write(store, entry(1, 10))
        assert kept(store) == [(1, 10, 1.0)]
    with pytest.raises(redis.ConnectionError):
        store.read(7, ("m",))
    with redis_server(tmp_path, port=port):
        assert kept(store) == []
        assert write(store, entry(1, 20)) == [1]
        store.redis.close()


def test_memory_that_runs_out_costs_whole_records(tmp_path: Path) -> None:
    options = ("--maxmemory", "4mb", "--maxmemory-policy", "volatile-ttl")
    served = Served(model="m", source="s", version=3, ds="2026-01-03", num_embeddings=K, dim=96)
    with redis_server(tmp_path, *options) as server, server.client() as client:
        store = Store(client)
        store.announce(served)
        for first in range(0, 4_000, 100):
            users = np.repeat(np.arange(first, first + 100), KEPT)  # a user's three in one script, which is atomic
            vectors = np.broadcast_to((users % 7).astype(np.float32)[:, None, None], (len(users), K, 96))
            versions = np.tile(np.arange(KEPT, dtype=np.int32), 100)
            entries = entries_of(vectors, versions=versions, feature_ms=NOW_MS + versions.astype(np.int64))
            seed(store, users, entries, how=Seeding(model="m", ttl_seconds=60.0, future_seconds=60.0))
        assert client.info("stats")["evicted_keys"] > 500
        found = [store.read(user, ("m",))[0] for user in range(4_000)]
        there = [(user, record) for user, record in enumerate(found) if record is not None]
        assert len(there) > 500
        for user, record in there:
            assert len(record.entries) == KEPT
            assert (record.entries["vectors"] == user % 7).all()
        assert store.served() == {"m": served}, "what has no TTL stays"


@pytest.mark.parametrize("protocol", [2, 3])
def test_both_protocols(running: Server, store: Store, protocol: int) -> None:
    other = Store(connect(f"{running.url}?protocol={protocol}", timeout_seconds=1))
    served = Served(model="m", source="s", version=3, ds="2026-01-03", num_embeddings=K, dim=D, withdrawn=(1, 2))
    other.announce(served)
    assert other.served() == {"m": served}
    assert write(other, entry(1, 10)) == [1]
    assert kept(other) == [(1, 10, 1.0)]
    other.require_layout()
    other.redis.close()


def test_a_client_that_decodes_is_refused(running: Server) -> None:
    client = connect(f"{running.url}?decode_responses=true", timeout_seconds=1)
    with pytest.raises(ValueError, match="leave decode_responses out"):
        Store(client)
    with pytest.raises(ValueError, match="leave decode_responses out"):
        AsyncStore(connect_async(f"{running.url}?decode_responses=true", timeout_seconds=1))


@pytest.mark.parametrize(
    "text", [b"{}", b"[]", b"7", b"\xff", b'{"model": "m"}'], ids=["empty", "list", "number", "noise", "incomplete"]
)
def test_what_is_served_is_refused_when_damaged(text: bytes) -> None:
    with pytest.raises(ValueError, match="announce it again"):
        Served.from_json(text)


def test_a_newer_release_may_say_more_of_what_is_served() -> None:
    served = Served(model="m", source="s", version=3, ds="2026-01-03", num_embeddings=K, dim=D)
    assert Served.from_json(served.to_json().replace("{", '{"more": 1, ', 1)) == served


@pytest.mark.parametrize("partitions", [1, 2, 16, 16_384])
def test_partitions_of_many_users_are_those_of_each(partitions: int) -> None:
    users = [0, 1, -1, 2**63 - 1, -(2**63), *np.random.default_rng(0).integers(-(2**62), 2**62, 200).tolist()]
    keys = Keys(partitions)
    assert keys.partitions_of(np.array(users)).tolist() == [keys.partition(user) for user in users]


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.sampled_from([0x0000, 0x8000, 0x0001, 0x8001, 0x3C00, 0xBC00, 0x7BFF, 0x1234]), min_size=1, max_size=3)
)
def test_pooling_has_the_bits_of_batch_pooling(bits: list[int]) -> None:
    from snapshots.pooling import History

    vectors = np.array(bits, np.uint16).view(np.float16).reshape(-1, 1, 1)
    values = struct.pack("<BBHH", 1, len(bits), 1, 1)
    values += b"".join(struct.pack("<Iqq", 1, 9 - at, 0) + one.tobytes() for at, one in enumerate(vectors))
    cached = np.zeros((1, 1, 1), np.float32)
    for one in vectors[1:]:
        cached += one
    history = History(ids=np.array([7]), num_cached=np.array([len(bits) - 1], np.int8), total=cached)
    pooled, _ = history.pool(np.array([7]), vectors[:1].astype(np.float32))
    assert Record.parse(values).pooled().tobytes() == pooled[0].astype(np.float16).tobytes()


def test_fewer_versions_are_pooled_where_the_recipe_says_so() -> None:
    entries = [entry(1, 9 - at, value) for at, value in enumerate((1, 2, 6))]
    value = struct.pack("<BBHH", 1, 3, K, D) + b"".join(one.packed() for one in entries)
    assert [float(Record.parse(value).pooled(most)[0, 0]) for most in (1, 2, 3)] == [1.0, 1.5, 3.0]
