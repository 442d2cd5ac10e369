from __future__ import annotations

from collections.abc import Iterator
from datetime import date
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch

from features import reader, schema
from features.arrow import examples_schema, user_features_schema
from features.batches import Batch, Encoder
from features.columns import Ids
from features.examples import build_examples, read_state
from features.lake import Lake, Partition
from features.packing import pack, packed_features, unpack
from features.reader import DayReader
from features.schema import EVENT_TIME, USER_ID, DenseFeature, Schema, SparseFeature, Table
from tests.features.worlds import TINY, settings_in

DAY = date(2026, 1, 1)
WIDE = Schema(
    tables=(Table(name="a", num_rows=97), Table(name="b", num_rows=1000)),
    sparse=(
        *(SparseFeature(name=f"u{i}", table="ab"[i % 2]) for i in range(5)),
        SparseFeature(name="i0", table="b", side="item"),
    ),
    dense=(
        *(DenseFeature(name=f"d{i}", transform=("identity", "log1p")[i % 2]) for i in range(4)),
        DenseFeature(name="item_dense", side="item"),
    ),
    tasks=("click",),
)


@pytest.fixture
def packed_users(monkeypatch: pytest.MonkeyPatch) -> None:
    """The user side of WIDE is packed, its item side is not."""
    monkeypatch.setattr(schema, "PACKED_FROM", 9)


def rows(num_rows: int = 200, *, nulls: bool = True) -> pa.Table:
    """A column per feature: empty lists, and null ones and null values if asked for."""
    rng = np.random.default_rng(0)

    def lists() -> list[list[int] | None]:
        drawn = [rng.integers(0, 2**63 - 1, rng.integers(0, 5)).tolist() for _ in range(num_rows)]
        return [None if nulls and index % 7 == 3 else ids for index, ids in enumerate(drawn)]

    def values() -> list[float | None]:
        return [None if nulls and index % 5 == 2 else float(v) for index, v in enumerate(rng.random(num_rows))]

    data: dict[str, object] = {USER_ID: np.arange(num_rows), EVENT_TIME: np.arange(num_rows)}
    data |= {f.name: lists() for f in WIDE.sparse} | {f.name: values() for f in WIDE.dense}
    data |= {"click": rng.integers(0, 2, num_rows)}
    layout = examples_schema(WIDE)
    return pa.table([pa.array(data[field.name], field.type) for field in layout], schema=layout)


def packed(table: pa.Table) -> pa.Table:
    return pa.Table.from_batches([pack(table, examples_schema(WIDE, stored=True))])


def same(left: Batch, right: Batch) -> bool:
    """Every tensor, bit by bit."""
    tensors = ("user_dense", "item_dense", "labels", "weights", "num_examples")
    ids = [(getattr(left, name), getattr(right, name)) for name in ("user_sparse", "item_sparse")]
    return all(torch.equal(getattr(left, name), getattr(right, name)) for name in tensors) and all(
        a.keys() == b.keys() and torch.equal(a.values(), b.values()) and torch.equal(a.lengths(), b.lengths())
        for a, b in ids
    )


@pytest.mark.usefixtures("packed_users")
def test_a_wide_side_is_stored_in_three_columns_that_name_their_features() -> None:
    layout = examples_schema(WIDE, stored=True)
    assert layout.names == [
        *(USER_ID, EVENT_TIME, "i0", "item_dense"),
        *("user_packed_ids", "user_packed_lengths", "user_packed_dense", "click"),
    ]
    assert packed_features(layout.field("user_packed_ids")) == [f"u{i}" for i in range(5)]
    assert packed_features(layout.field("user_packed_dense")) == [f"d{i}" for i in range(4)]
    assert user_features_schema(WIDE, stored=True).names[-3:] == layout.names[-4:-1]


@pytest.mark.usefixtures("packed_users")
@pytest.mark.parametrize(
    ("begin", "length"), [pytest.param(0, 200, id="all"), pytest.param(11, 40, id="slice"), pytest.param(9, 0, id="no")]
)
def test_unpacking_gives_the_columns_back(begin: int, length: int) -> None:
    table = rows()
    given = packed(table).slice(begin, length)
    found = unpack(given).select(table.schema.names).to_pylist()
    expected = table.slice(begin, length).to_pylist()
    lists = {feature.name for feature in WIDE.sparse_of("user")}
    for row in expected:
        row |= {name: row[name] or [] for name in lists}  # a null list is stored as an empty one
    assert found == expected


@pytest.mark.usefixtures("packed_users")
@pytest.mark.parametrize("nulls", [True, False])
@pytest.mark.parametrize("features", [None, frozenset({"u3", "u1", "d2", "i0"}), frozenset({"d1"})])
@pytest.mark.parametrize("cut", [(0, 200), (11, 40), (5, 0)])
def test_both_layouts_give_the_same_batches(nulls: bool, features: frozenset[str] | None, cut: tuple[int, int]) -> None:
    encoder = Encoder(WIDE, tasks=("click",), features=features)
    order = np.random.default_rng(1).permutation(cut[1])
    table = rows(nulls=nulls)
    stored = packed(table).slice(*cut).select(encoder.columns)
    found = list(encoder.batches(stored, order=order, batch_size=16))
    assert len(found) == max(-(-cut[1] // 16), 1)
    by_name = list(encoder.batches(table.slice(*cut), order=order, batch_size=16))
    one_by_one = [
        encoder.encode(table.slice(*cut).take(pa.array(order[start : start + 16])), num_rows=16)
        for start in range(0, max(cut[1], 1), 16)
    ]
    assert all(map(same, found, by_name))
    assert all(map(same, found, one_by_one))


@pytest.mark.usefixtures("packed_users")
def test_features_are_found_by_name_not_by_place() -> None:
    """A snapshot of yesterday knows another order, or fewer features, than the table of today."""
    table = packed(rows())
    shuffled = Schema(tables=WIDE.tables, sparse=WIDE.sparse[3::-1], dense=WIDE.dense[::-1], tasks=WIDE.tasks)
    found = Encoder(shuffled).encode(table)
    expected = Encoder(WIDE).encode(table)
    assert torch.equal(found.user_sparse["u2"].values(), expected.user_sparse["u2"].values())
    assert torch.equal(found.user_dense[:, 0], expected.user_dense[:, 3])


@pytest.mark.usefixtures("packed_users")
@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        pytest.param("user_packed_ids", -4, "column u1 has the id -4", id="negative-id"),
        pytest.param("user_packed_ids", None, "column u1 has 1 null ids", id="null-id"),
        pytest.param("user_packed_dense", np.nan, "column d1 has the value nan", id="nan"),
        pytest.param("user_packed_lengths", 7, "does not hold what user_packed_lengths says", id="lengths-disagree"),
    ],
)
def test_errors_name_the_feature(column: str, value: object, message: str) -> None:
    table = rows(1, nulls=False)
    for name in WIDE.sparse_of("user"):
        index = table.schema.get_field_index(name.name)
        table = table.set_column(index, table.schema.field(index), pa.array([[1]], pa.list_(pa.int64())))
    stored = packed(table)
    index = stored.schema.get_field_index(column)
    values = stored.column(column).to_pylist()
    values[0][1] = value
    poisoned = stored.set_column(index, stored.schema.field(index), pa.array(values, stored.schema.field(index).type))
    with pytest.raises(ValueError, match=message):
        Encoder(WIDE).encode(poisoned)


def commit(lake: Lake, table: pa.Table, name: str) -> Partition:
    return lake.commit(f"examples/{name}", DAY, table, fingerprint="ab" * 8)


@pytest.mark.usefixtures("packed_users")
@pytest.mark.parametrize("world_size", [1, 3])
def test_the_reader_gives_the_same_batches_of_both(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, world_size: int
) -> None:
    monkeypatch.setattr(reader, "WINDOW_ROWS", 48)
    lake, table, encoder = Lake(tmp_path), rows(), Encoder(WIDE, tasks=WIDE.tasks)
    stored = commit(lake, packed(table), "packed")
    users: list[float] = []
    for rank in range(world_size):
        found = list(DayReader(lake, stored, encoder, batch_size=16, rank=rank, world_size=world_size))
        with monkeypatch.context() as unpacked:
            unpacked.setattr(schema, "PACKED_FROM", 1000)
            plain = commit(lake, table, "plain")
            expected = list(DayReader(lake, plain, encoder, batch_size=16, rank=rank, world_size=world_size))
        assert len(found) == len(expected)
        assert all(map(same, found, expected))
        users += [value for batch in found for value in batch.user_dense[batch.weights > 0, 0].tolist()]
    assert sorted(users) == sorted(np.nan_to_num(table["d0"].to_numpy()).tolist())


@pytest.mark.usefixtures("packed_users")
def test_a_table_keeps_the_features_that_it_was_made_for(tmp_path: Path) -> None:
    lake = Lake(tmp_path)
    commit(lake, packed(rows()), "packed")
    renamed = Schema(tables=WIDE.tables, sparse=WIDE.sparse[::-1], dense=WIDE.dense, tasks=WIDE.tasks)
    other = pa.Table.from_batches([pack(rows(), examples_schema(renamed, stored=True))])
    with pytest.raises(ValueError, match="column user_packed_ids was made for other features"):
        lake.commit("examples/packed", DAY, other, fingerprint="cd" * 8)


class Watching(Encoder):
    """Keeps the size of every window that it was given."""

    def __init__(self) -> None:
        super().__init__(WIDE, tasks=WIDE.tasks)
        self.window_bytes: list[int] = []

    def batches(self, rows: pa.RecordBatch | pa.Table, *, order: Ids, batch_size: int) -> Iterator[Batch]:
        self.window_bytes.append(rows.nbytes)
        return super().batches(rows, order=order, batch_size=batch_size)


def test_windows_shrink_to_their_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lake, encoder = Lake(tmp_path), Watching()
    monkeypatch.setattr(reader, "WINDOW_BYTES", 16_384)
    day = DayReader(lake, commit(lake, rows(), "plain"), encoder, batch_size=16)
    assert sum(int(batch.weights.sum()) for batch in day) == 200
    assert len(encoder.window_bytes) > 1
    assert max(encoder.window_bytes) <= 16_384


def test_a_window_holds_a_batch_at_least(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lake = Lake(tmp_path)
    monkeypatch.setattr(reader, "WINDOW_BYTES", 1)
    day = DayReader(lake, commit(lake, rows(), "plain"), Watching(), batch_size=64)
    assert [int(batch.weights.sum()) for batch in day] == [64, 64, 64, 8]


def test_a_built_day_is_packed_and_its_state_is_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(schema, "PACKED_FROM", 5)
    settings = settings_in(tmp_path)
    built = build_examples(TINY, DAY, settings=settings, reject_max_share=0.1)
    lake = Lake(settings.lake)
    assert lake.read(built.examples).schema.names == examples_schema(TINY.schema, stored=True).names
    state = read_state(lake, [built.user_features])
    assert state is not None
    assert set(state.schema.names) == set(user_features_schema(TINY.schema).names)
    assert len(list(DayReader(lake, built.examples, Encoder(TINY.schema, tasks=TINY.schema.tasks), batch_size=512))) > 1
