from __future__ import annotations

import math
from dataclasses import fields

import numpy as np
import pyarrow as pa
import pytest
import torch

from features.batches import Encoder
from features.hashing import hash_ids
from features.schema import DenseFeature, Schema, SparseFeature, Table

SCHEMA = Schema(
    tables=(Table(name="a", num_rows=97), Table(name="b", num_rows=1000)),
    sparse=(
        SparseFeature(name="u1", table="a"),
        SparseFeature(name="u2", table="b"),
        SparseFeature(name="i1", table="b", side="item"),
    ),
    dense=(
        DenseFeature(name="plain"),
        DenseFeature(name="logged", transform="log1p"),
        DenseFeature(name="item_dense", side="item"),
    ),
    tasks=("click", "buy"),
)
IDS = pa.list_(pa.int64())


def rows(num_rows: int = 50) -> pa.Table:
    rng = np.random.default_rng(0)

    def lists() -> pa.Array:
        values = [rng.integers(0, 2**63 - 1, rng.integers(0, 5)).tolist() for _ in range(num_rows)]
        return pa.array([None if index % 7 == 3 else ids for index, ids in enumerate(values)], IDS)

    def dense() -> pa.Array:
        return pa.array([None if index % 5 == 2 else float(index) for index in range(num_rows)], pa.float32())

    columns = {
        "u1": lists(),
        "u2": lists(),
        "i1": lists(),
        "plain": dense(),
        "logged": dense(),
        "item_dense": dense(),
    }
    labels = {task: pa.array(rng.integers(0, 2, num_rows), pa.int8()) for task in SCHEMA.tasks}
    return pa.table(columns | labels)


def row_of(value: int, num_rows: int) -> int:
    """The hash in plain Python integers."""
    mask = 2**64 - 1
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & mask
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & mask
    return (value ^ (value >> 31)) % num_rows


def without_nulls(table: pa.Table) -> pa.Table:
    names = ("u1", "u2", "i1")
    for name in names:
        full = pa.array([ids or [] for ids in table.column(name).to_pylist()], IDS)
        table = table.set_column(table.schema.get_field_index(name), name, full)
    return table


@pytest.mark.parametrize(
    "given",
    [
        pytest.param(rows(), id="table"),
        pytest.param(rows().slice(11, 20), id="sliced"),
        pytest.param(without_nulls(rows()).slice(11, 20), id="sliced-without-nulls"),
        pytest.param(rows().to_batches()[0].slice(3, 9), id="sliced-record-batch"),
        pytest.param(pa.concat_tables([rows().slice(40), rows().slice(2, 5)]), id="chunked"),
        pytest.param(rows().slice(0, 0), id="empty"),
    ],
)
def test_a_batch_is_what_a_plain_loop_says(given: pa.Table | pa.RecordBatch) -> None:
    length = given.num_rows + 3
    batch = Encoder(SCHEMA, tasks=("buy", "click")).encode(given, num_rows=length)
    plain = given.to_pylist() + [{}] * 3
    for side, features in (("user", SCHEMA.sparse_of("user")), ("item", SCHEMA.sparse_of("item"))):
        found = getattr(batch, f"{side}_sparse").to_dict()
        assert list(found) == [feature.name for feature in features]
        for feature in features:
            size = SCHEMA.table(feature.table).num_rows
            expected = [[row_of(value, size) for value in row.get(feature.name) or []] for row in plain]
            assert [ids.tolist() for ids in found[feature.name].to_dense()] == expected
    user = [[row.get("plain") or 0.0, math.log1p(row.get("logged") or 0.0)] for row in plain]
    torch.testing.assert_close(batch.user_dense, torch.tensor(user))
    torch.testing.assert_close(batch.item_dense, torch.tensor([[row.get("item_dense") or 0.0] for row in plain]))
    assert batch.labels.tolist() == [[row.get("buy", 0), row.get("click", 0)] for row in plain]
    assert batch.weights.tolist() == [1.0] * given.num_rows + [0.0] * 3
    assert batch.num_examples.item() == given.num_rows


def test_ids_of_the_extremes_land_in_the_table() -> None:
    ids = np.array([0, 1, 2**63 - 1, 2**31, 5], dtype=np.int64)
    expected = [row_of(int(value), size) for value, size in zip(ids, [7, 7, 7, 1, 1], strict=True)]
    hash_ids(ids[:3], 7)
    hash_ids(ids[3:], 1)
    assert ids.tolist() == expected


def test_encoding_leaves_the_arrow_data_alone() -> None:
    table = without_nulls(rows())
    before = table.to_pylist()
    Encoder(SCHEMA).encode(table)
    assert table.to_pylist() == before


@pytest.mark.parametrize(
    ("options", "columns"),
    [
        pytest.param({}, ["u1", "u2", "plain", "logged", "i1", "item_dense"], id="everything"),
        pytest.param({"sides": ("user",)}, ["u1", "u2", "plain", "logged"], id="user-side"),
        pytest.param({"sides": ("item",), "tasks": ("click",)}, ["i1", "item_dense", "click"], id="item-side"),
        pytest.param({"features": frozenset({"u2", "item_dense"})}, ["u2", "item_dense"], id="some"),
    ],
)
def test_only_what_is_asked_for_is_projected(options: dict[str, object], columns: list[str]) -> None:
    encoder = Encoder(SCHEMA, **options)
    assert encoder.columns == columns
    batch = encoder.encode(rows().select(columns))
    assert [*batch.user_sparse.keys(), *batch.item_sparse.keys()] == [c for c in columns if c in ("u1", "u2", "i1")]
    assert batch.user_sparse.stride() == batch.item_sparse.stride() == 50
    assert batch.user_dense.shape[0] == batch.item_dense.shape[0] == batch.labels.shape[0] == 50


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        pytest.param("u2", [3, -4], "column u2 has the id -4", id="negative-id"),
        pytest.param("i1", [3, None], "column i1 has 1 null ids", id="null-id"),
        pytest.param("plain", math.nan, "column plain has the value nan", id="nan"),
        pytest.param("item_dense", math.inf, "column item_dense has the value inf", id="infinite"),
        pytest.param("logged", -1.0, "column logged has the value -1.0", id="no-logarithm"),
        pytest.param("click", None, "label click has 1 nulls", id="null-label"),
    ],
)
def test_what_cannot_be_learnt_from_is_refused_by_name(column: str, value: object, message: str) -> None:
    table = rows(10)
    index = table.schema.get_field_index(column)
    values = table.column(column).to_pylist()
    values[4] = value
    poisoned = table.set_column(index, table.schema.field(index), pa.array(values, table.schema.field(index).type))
    with pytest.raises(ValueError, match=message):
        Encoder(SCHEMA, tasks=SCHEMA.tasks).encode(poisoned)


def test_unknown_features_and_tasks_are_named() -> None:
    with pytest.raises(ValueError, match=r"\['nope', 'share'\] are no features or tasks"):
        Encoder(SCHEMA, features=frozenset({"nope"}), tasks=("share",))


def test_a_batch_moves_whole() -> None:
    batch = Encoder(SCHEMA, tasks=SCHEMA.tasks).encode(rows())
    moved = batch.to(torch.device("meta"))
    assert all(
        getattr(moved, field.name).device.type == "meta" for field in fields(moved) if "sparse" not in field.name
    )
    assert moved.user_sparse.values().device.type == "meta"
