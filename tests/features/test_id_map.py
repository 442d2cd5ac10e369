"""Who owns which row, day after day."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import date, timedelta
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pydantic import TypeAdapter

from features.fingerprint import canonical_json
from features.hashing import hash_ids
from features.id_counts import IdCounts
from features.id_map import NONE, IdMap, next_day
from features.rows import MappedRows, rows_of
from features.schema import HASHED, Managed, Schema, SparseFeature, Table
from features.table_use import compact, table_use

DAY = date(2026, 1, 1)
SMALL = Table(name="t", num_rows=4, ids=Managed(overflow_rows=1, half_life_days=1.0))


def counted(of: dict[int, int]) -> IdCounts:
    ids = sorted(of)
    return IdCounts(ids=np.array(ids, dtype=np.int64), counts=np.array([of[i] for i in ids], dtype=np.int64))


def owners(found: IdMap) -> dict[int, int]:
    return {int(i): int(row) for i, row in zip(found.ids, found.rows, strict=True) if row != NONE}


def after(*days: dict[int, int], table: Table = SMALL) -> list[IdMap]:
    """The map of each day."""
    maps = [IdMap.empty()]
    for index, counts in enumerate(days):
        maps.append(next_day(maps[-1], counted(counts), DAY + timedelta(index), table).map)
    return maps[1:]


@pytest.mark.parametrize(
    ("policy", "days", "expected"),
    [
        pytest.param(Managed(), [{1: 1, 2: 1}], {1, 2}, id="all that fit"),
        pytest.param(
            Managed(), [{1: 9, 2: 8, 3: 7}, {1: 1, 2: 1, 3: 1, 4: 50}], {1, 2, 3}, id="today's counts do not count"
        ),
        pytest.param(Managed(admit_after=3), [{1: 1, 2: 3}, {1: 1, 2: 1}], {2}, id="often enough"),
        pytest.param(Managed(admit_after=3), [{1: 1}, {1: 2}, {1: 1}], {1}, id="often enough over days"),
        pytest.param(Managed(admit_after=4), [{1: 3, 2: 9}, {2: 1}, {1: 1}], {2}, id="occurrences fade"),
        pytest.param(Managed(evict_after_days=1), [{1: 9}, {2: 1}, {2: 1}], {2}, id="unseen for too long"),
        pytest.param(Managed(evict_after_days=1), [{1: 9}, {2: 1}], {1, 2}, id="not yet"),
        pytest.param(Managed(), [{1: 9, 2: 8, 3: 7}, {2: 1, 3: 1, 4: 1}], {2, 3, 4}, id="who is unseen goes first"),
        pytest.param(Managed(), [{1: 1, 2: 6, 3: 7}, {4: 4}], {2, 3, 4}, id="of the unseen the lightest"),
        pytest.param(Managed(), [{1: 9, 2: 1, 3: 1}, {2: 1, 3: 1}, {4: 1}], {2, 3, 4}, id="unseen for longest first"),
        pytest.param(Managed(), [{1: 9, 2: 8, 3: 7}, {4: 9}, {4: 1}], {1, 2, 4}, id="who waits comes back heavier"),
    ],
)
def test_who_has_a_row(policy: Managed, days: list[dict[int, int]], expected: set[int]) -> None:
    assert set(owners(after(*days, table=replace(SMALL, ids=policy))[-1])) == expected


def test_an_id_keeps_its_row_and_a_row_has_one_owner() -> None:
    rng = np.random.default_rng(0)
    table = Table(name="t", num_rows=50, ids=Managed(half_life_days=1.0, evict_after_days=3, overflow_rows=5))
    days = [{int(i): int(rng.integers(1, 9)) for i in rng.integers(day * 10, day * 10 + 90, 60)} for day in range(20)]
    maps = after(*days, table=table)
    for before, now in pairwise(maps):
        mine, theirs = owners(now), owners(before)
        assert len(set(mine.values())) == len(mine) <= 45
        assert all(0 <= row < 45 for row in mine.values())
        assert all(mine[i] == theirs[i] for i in mine.keys() & theirs.keys())
        assert sorted(now.newcomers) == sorted(row for i, row in mine.items() if i not in theirs)
        assert now.ids.size <= 2 * 45
        assert np.all(np.diff(now.ids) > 0)


def test_changes_are_counted() -> None:
    before = next_day(IdMap.empty(), counted({1: 5, 2: 6, 3: 7}), DAY, SMALL)
    weak = next_day(before.map, counted({}), DAY + timedelta(4), SMALL)
    found = next_day(weak.map, counted({4: 4}), DAY + timedelta(5), SMALL)
    assert (before.admitted, before.evicted) == (3, 0)
    assert (found.admitted, found.evicted) == (1, 1)


def test_a_gap_counts_its_days() -> None:
    before = next_day(IdMap.empty(), counted({1: 8}), DAY, SMALL).map
    found = next_day(before, counted({1: 1}), DAY + timedelta(3), SMALL).map
    assert found.weights.tolist() == [2.0]


@pytest.mark.parametrize("num_ids", [0, 1, 7, 5_000])
@pytest.mark.parametrize("overflow_rows", [1, 13])
def test_lookup_is_the_map_and_the_rest_overflows_by_hash(num_ids: int, overflow_rows: int) -> None:
    rng = np.random.default_rng(num_ids)
    ids = np.unique(rng.integers(0, 2**62, num_ids))
    table = Table(name="t", num_rows=max(ids.size, 1) + overflow_rows, ids=Managed(overflow_rows=overflow_rows))
    found = next_day(IdMap.empty(), counted(dict.fromkeys(ids.tolist(), 1)), DAY, table).map
    asked = rng.permutation(np.concatenate([ids, ids, rng.integers(0, 2**62, 20_000), [0, 2**63 - 1]]))
    overflow = asked.copy()
    hash_ids(overflow, overflow_rows)
    own = owners(found)
    first = table.num_rows - overflow_rows
    expected = [own.get(i, first + shared) for i, shared in zip(asked.tolist(), overflow.tolist(), strict=True)]
    rows_of(table, {"t": found})(asked)
    assert asked.tolist() == expected


def test_an_id_whose_hash_is_the_empty_slots() -> None:
    last = 2**64 - 1  # the hash; undo the finaliser's steps
    for shift, inverse in ((31, 0x319642B2D24D8EC3), (27, 0x96DE1B173F119089), (30, None)):
        undone = last
        for _ in range(3):
            undone = last ^ (undone >> shift)
        last = undone if inverse is None else undone * inverse % 2**64
    of = np.array([last], dtype=np.uint64).view(np.int64)
    asked = of.copy()
    nothing = IdMap.empty()
    MappedRows(nothing, num_rows=3, overflow_rows=1)(asked)
    assert asked.tolist() == [2]
    owned = replace(nothing, ids=of, rows=np.array([1]), seen=np.array([1]), since=np.array([1]), weights=np.ones(1))
    MappedRows(owned, num_rows=3, overflow_rows=1)(of)
    assert of.tolist() == [1]


def test_a_map_is_read_as_it_was_written(tmp_path: Path) -> None:
    found = after({1: 5, 2: 6, 3: 7, 4: 1}, {9: 3})[-1]
    found.write(tmp_path / "map.parquet")
    read = IdMap.read(tmp_path / "map.parquet")
    assert read.day == found.day
    for name in ("ids", "rows", "seen", "since", "weights"):
        np.testing.assert_array_equal(getattr(read, name), getattr(found, name))


@pytest.mark.parametrize("write", [lambda p: p.write_bytes(b"PAR1 or not"), lambda p: pq.write_table(pa.table({}), p)])
def test_another_file_is_no_map(write: object, tmp_path: Path) -> None:
    write(tmp_path / "map.parquet")  # type: ignore[operator]
    with pytest.raises(ValueError, match="is no id map"):
        IdMap.read(tmp_path / "map.parquet")


def test_a_managed_table_needs_its_map() -> None:
    with pytest.raises(ValueError, match="table t is managed, but no id map of it was given"):
        rows_of(SMALL, {})


def test_a_map_of_a_larger_table_is_refused() -> None:
    found = after({1: 5, 2: 6, 3: 7})[-1]
    with pytest.raises(ValueError, match="the table has 2, of which 1 are nobody's"):
        MappedRows(found, num_rows=2, overflow_rows=1)


def test_use_of_a_hashed_table() -> None:
    counts = counted(dict.fromkeys(range(3), 2))
    use = table_use(Table(name="t", num_rows=1), counts)
    assert (use.num_lookups, use.num_ids, use.occupancy, use.collision_share) == (6, 3, 1.0, 1.0)
    assert use.managing is None
    assert set(use.metrics) == {f"tables/t/{n}" for n in ("ids", "occupancy", "collision_share", "collision_lookups")}


def test_use_of_a_managed_table() -> None:
    before = next_day(IdMap.empty(), counted({1: 9, 2: 9, 3: 1}), DAY, SMALL).map
    counts = counted({1: 1, 6: 3, 7: 3, 8: 3, 9: 3})
    use = table_use(SMALL, counts, next_day(before, counts, DAY + timedelta(1), SMALL))
    assert use.managing is not None
    assert use.managing.staleness_days["p50"] == 0
    assert (use.managing.admitted, use.managing.evicted, use.managing.waiting) == (2, 2, 3)
    assert (use.managing.overflow_share, use.managing.newcomer_share) == pytest.approx((6 / 13, 6 / 13))
    assert (use.occupancy, use.collision_share, use.collision_lookups) == pytest.approx((0.75, 0.4, 6 / 13))
    assert "overflow 46.2% of lookups, +2 -2" in use.sentence


def test_a_line_per_managed_table_and_one_for_the_rest() -> None:
    counts = counted({1: 1, 2: 1})
    managed = table_use(SMALL, counts, next_day(IdMap.empty(), counts, DAY, SMALL))
    hashed = [table_use(Table(name=f"h{rows}", num_rows=rows), counts) for rows in (1000, 1, 1000)]
    first, second = compact([*hashed, managed])
    assert first.startswith("managed t: 2 ids in 4 rows")
    assert second.startswith("3 hashed, colliding most h1: 2 ids in 1 rows, occupied 100%, colliding 100%")


def schema(table: Table) -> Schema:
    return Schema(tables=(table,), sparse=(SparseFeature(name="f", table=table.name),), dense=(), tasks=("click",))


def test_a_hashed_table_has_the_fingerprint_of_before() -> None:
    assert canonical_json(Table(name="t", num_rows=4)) == '{"name":"t","num_rows":4,"type":"Table"}'
    assert json.loads(canonical_json(SMALL))["ids"]["type"] == "Managed"


@pytest.mark.parametrize("table", [SMALL, Table(name="t", num_rows=9)], ids=["managed", "hashed"])
def test_a_schema_survives_json(table: Table) -> None:
    adapter = TypeAdapter(Schema)
    assert adapter.validate_json(adapter.dump_json(schema(table))) == schema(table)
    assert schema(table).managed == ((table,) if table.ids != HASHED else ())


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        pytest.param(lambda: Managed(admit_after=0), "admit_after of managed ids is 0", id="admit_after"),
        pytest.param(lambda: Managed(evict_after_days=0), "evict_after_days of managed", id="evict_after_days"),
        pytest.param(lambda: Managed(overflow_rows=0), "overflow_rows of managed ids is 0", id="overflow_rows"),
        pytest.param(lambda: Managed(half_life_days=0.0), "half_life_days of managed ids is 0", id="half_life_days"),
        pytest.param(lambda: Table(name="t", num_rows=1, ids=Managed()), "leave none to ids", id="no row left"),
        pytest.param(
            lambda: schema(SMALL).with_tables((Table(name="u", num_rows=1),)), r"\['u'\] are none", id="unknown"
        ),
    ],
)
def test_what_makes_no_sense_is_refused(wrong: object, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        wrong()  # type: ignore[operator]
