"""What was served: logged as it was, taken into the lake once, and joined to the examples that it was served to."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from features.lake import Lake, Partition
from serving.solaris.answer import PairAnswer
from serving.solaris.impressions import Impressions
from serving.solaris.levels import Level
from serving.solaris.log import Entry, append, packed
from serving.solaris.mirror import mirror
from serving.solaris.reader import Options, PairReader
from serving.solaris.served import served_of
from serving.solaris.store import PairStore
from tests.serving.servers import Server, until
from tests.serving.solaris.world import MODEL, NOW_MS, WIDTH, vector, write

OPTIONS = Options(send_seconds=0.001, refresh_seconds=0.02, log_share=1.0)
NOW = datetime.fromtimestamp(NOW_MS / 1000, UTC)
TODAY = NOW.date()
OF_DAY = NOW - datetime(NOW.year, NOW.month, NOW.day, tzinfo=UTC)
BEGUN = OF_DAY - timedelta(hours=1)
"""With days that begin so, today has begun an hour ago."""


def mirrored(store: PairStore, lake: Lake, ds: date = TODAY, starts: timedelta = BEGUN) -> Partition | None:
    return mirror(store, lake, ds, day_starts_at=starts)


def rows_of(lake: Lake, partition: Partition | None) -> list[dict[str, Any]]:
    assert partition is not None
    rows = lake.read(partition).sort_by([("user_id", "ascending"), ("item_id", "ascending")])
    found: list[dict[str, Any]] = rows.to_pylist()
    return found


def log(store: PairStore, *reads: tuple[int, int, int], level: Level = Level.EXACT) -> None:
    """(user, item, served time in ms) each."""
    entries = []
    for number, (user, item, served_ms) in enumerate(reads):
        answer = PairAnswer(
            user=user, items=np.array([item]), vectors=np.array([vector(user, item)], np.float16),
            levels=np.array([level], np.uint8), ages_seconds=np.zeros(1, np.float32),
            versions=np.ones(1, np.uint32), outcome="found", served_ms=served_ms,
        )  # fmt: skip
        entries.append(Entry(user, packed(answer, reader=served_ms, number=number)))
    assert append(store, entries, longest=1_000) == [None] * len(reads)


def test_what_was_served_is_mirrored_into_the_lake(server: Server, store: PairStore, tmp_path: Path) -> None:
    """Exactly: the level, the version and the vector of every pair that was served, whatever its caller does with the
    arrays."""
    write(store, 7, 1, version=4)
    lake, items = Lake(tmp_path), np.array([1, 2])
    assert mirrored(store, lake) is None
    with PairReader(server.url, MODEL, OPTIONS) as reader:
        answers = [reader.read(7, items), reader.read(8, [5])]
        wanted = [answer.vectors.tolist() for answer in answers]
        for answer in answers:
            answer.vectors[:] = 9
        items[:] = 9
        assert reader.flush()
    made = mirrored(store, lake)
    rows = rows_of(lake, made)
    assert [(one["user_id"], one["item_id"], one["level"], one["version"]) for one in rows] == [
        (7, 1, Level.EXACT, 4), (7, 2, Level.USER, 0), (8, 5, Level.ZERO, 0),
    ]  # fmt: skip
    assert [one["vector"] for one in rows] == [*wanted[0], [0.0] * WIDTH]
    assert rows[0]["served_time"] == datetime.fromtimestamp(0, UTC) + timedelta(milliseconds=answers[0].served_ms)
    assert len({(one["reader"], one["read"]) for one in rows}) == 2
    assert mirrored(store, lake) == made


def test_mirroring_again_adds_what_came_and_keeps_what_the_stream_forgot(store: PairStore, tmp_path: Path) -> None:
    lake, stream = Lake(tmp_path), store.keys.log(0)
    log(store, (1, 1, NOW_MS), (2, 1, NOW_MS))
    assert [one["user_id"] for one in rows_of(lake, mirrored(store, lake))] == [1, 2]
    log(store, *((user, 1, NOW_MS + 1) for user in (3, 4, 5)))
    store.redis.xtrim(stream, maxlen=3, approximate=False)
    assert [one["user_id"] for one in rows_of(lake, mirrored(store, lake))] == [1, 2, 3, 4, 5]
    log(store, (6, 1, NOW_MS + 2))
    store.redis.xtrim(stream, maxlen=1, approximate=False)
    made = mirrored(store, lake)
    assert [one["user_id"] for one in rows_of(lake, made)] == [1, 2, 3, 4, 5, 6], "fewer than it has, and new"
    store.redis.delete(stream)
    assert mirrored(store, lake) == made


def test_a_read_that_was_appended_twice_is_mirrored_once(store: PairStore, tmp_path: Path) -> None:
    """As after a call that timed out although the store had done it; before the first mirroring, or after."""
    lake = Lake(tmp_path)
    for _ in range(2):
        log(store, (1, 1, NOW_MS), (1, 1, NOW_MS))
    made = mirrored(store, lake)
    assert len(rows_of(lake, made)) == 2, "two reads of the same pair at the same time"
    log(store, (1, 1, NOW_MS), (1, 1, NOW_MS))
    assert mirrored(store, lake) == made


def test_a_day_is_the_sources_and_of_when_it_was_served(store: PairStore, tmp_path: Path) -> None:
    lake, yesterday = Lake(tmp_path), TODAY - timedelta(days=1)
    log(store, (1, 1, NOW_MS - 60_000), (2, 1, NOW_MS + 1))
    found = {ds: rows_of(lake, mirrored(store, lake, ds, OF_DAY)) for ds in (yesterday, TODAY)}
    assert {ds: [one["user_id"] for one in rows] for ds, rows in found.items()} == {yesterday: [1], TODAY: [2]}


def test_entries_of_other_releases_are_left_out(store: PairStore, tmp_path: Path) -> None:
    others: list[Any] = [{b"r": b"short"}, {b"r": bytes(36 + 5)}, {b"other": b"x"}]
    for fields in others:
        store.redis.xadd(store.keys.log(0), fields)
    assert mirrored(store, Lake(tmp_path)) is None


def test_what_the_store_cannot_log_now_waits_and_what_it_never_can_is_counted(server: Server, store: PairStore) -> None:
    write(store, 7, 1)
    with PairReader(server.url, MODEL, OPTIONS) as reader:
        until(lambda: reader.read(0, []).outcome == "cold", seconds=20)
        assert reader.flush()
        written = reader.statistics.total("logged", outcome="written")
        store.redis.config_set("min-replicas-to-write", 1)
        try:
            reader.read(7, [1])
            assert not reader.flush(timeout_seconds=0.2)
        finally:
            store.redis.config_set("min-replicas-to-write", 0)
        assert reader.flush()
        assert reader.statistics.total("logged", outcome="written") == written + 1
        store.redis.set(store.keys.log(0), "no stream")
        reader.read(7, [1])
        assert reader.flush()
        assert reader.statistics.total("logged", outcome="dropped") == 1


def test_examples_are_joined_with_what_they_were_served(store: PairStore, tmp_path: Path) -> None:
    """The newest read of the pair that is not after the example nor long before it."""
    lake, second = Lake(tmp_path), 1_000
    log(store, (7, 1, NOW_MS), (7, 1, NOW_MS + 2 * second), (8, 1, NOW_MS), (7, 2, NOW_MS + second))
    log(store, (7, 3, NOW_MS + 3), level=Level.USER)
    made = mirrored(store, lake)
    assert made is not None
    asked = [
        (7, 1, -second), (7, 1, 0), (7, 1, second), (7, 1, 9 * second), (7, 1, 20 * second), (7, 2, second), (7, 3, 4),
        (9, 9, second), (6, 1, second),
    ]  # fmt: skip
    impressions = Impressions(
        user=np.array([one[0] for one in asked]),
        item=np.array([one[1] for one in asked]),
        time_us=np.array([1_000 * (NOW_MS + one[2]) for one in asked]),
    )
    served = served_of(lake, [made], impressions, width=WIDTH, within=timedelta(seconds=10))
    exact, user, zero = Level.EXACT, Level.USER, Level.ZERO
    assert served.levels.tolist() == [zero, exact, exact, exact, zero, exact, user, zero, zero]
    vectors, flags = served.lookup(np.array([3, 6, 7]))
    assert vectors.tolist() == [[vector(7, 1)], [vector(7, 3)], [[0.0] * WIDTH]]
    assert flags.tolist() == [[1, 0, 0], [0, 1, 0], [0, 0, 0]]
    assert served_of(lake, [], impressions, width=WIDTH).levels.tolist() == [zero] * len(asked)
    with pytest.raises(ValueError, match="another width than 3"):
        served_of(lake, [made], impressions, width=3)
