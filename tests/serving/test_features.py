"""A user's features as bytes: they give the batch that the lake's rows give, and nothing else goes in."""

from __future__ import annotations

import math
from dataclasses import fields
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from features import schema as schemas
from features.arrow import user_features_schema
from features.batches import Batch, Encoder
from features.packing import pack
from features.schema import DenseFeature, Schema, SparseFeature, Table
from serving.features import MOST_IDS, FeatureCodec
from tests.snapshots.world import TinySource

LARGEST = 2**63 - 1
WIDE = Schema(
    tables=(Table(name="a", num_rows=97), Table(name="b", num_rows=1000)),
    sparse=(
        *(SparseFeature(name=f"u{i}", table="ab"[i % 2]) for i in range(5)),
        SparseFeature(name="i0", table="b", side="item"),
    ),
    dense=(
        *(DenseFeature(name=f"d{i}", transform=("identity", "log1p")[i % 2]) for i in range(4)),
        DenseFeature(name="of_item", side="item"),
    ),
    tasks=("click",),
)
SPARSE_ALONE = Schema(tables=WIDE.tables, sparse=(SparseFeature(name="u0", table="a"),), dense=(), tasks=("click",))
DENSE_ALONE = Schema(tables=WIDE.tables, sparse=(), dense=(DenseFeature(name="d0"),), tasks=("click",))
SCHEMAS = {"tiny": TinySource().schema, "wide": WIDE, "sparse": SPARSE_ALONE, "dense": DENSE_ALONE}


def rows_of(schema: Schema, users: list[dict[str, Any]]) -> pa.Table:
    """As `user_features/<source>` has them; what is not given is null."""
    layout = user_features_schema(schema)
    given = [{"user_id": user, "event_time": 0, **features} for user, features in enumerate(users)]
    return pa.Table.from_pylist(given, schema=layout)


def batch_of(schema: Schema, rows: pa.Table | pa.RecordBatch) -> Batch:
    return Encoder(schema, sides=("user",)).encode(rows)


def same(a: Batch, b: Batch) -> bool:
    pairs = [(getattr(a, f.name), getattr(b, f.name)) for f in fields(Batch) if not f.name.endswith("sparse")]
    jagged = a.user_sparse.keys() == b.user_sparse.keys()
    jagged &= torch.equal(a.user_sparse.values(), b.user_sparse.values())
    jagged &= torch.equal(a.user_sparse.lengths(), b.user_sparse.lengths())
    return jagged and all(torch.equal(one, other) for one, other in pairs)


def users_of(schema: Schema) -> st.SearchStrategy[list[dict[str, Any]]]:
    ids = st.lists(st.integers(0, LARGEST), max_size=4)
    numbers = st.one_of(st.floats(0, 2**100, width=32), st.integers(0, 1000))
    optional = {f.name: ids for f in schema.sparse_of("user")} | {f.name: numbers for f in schema.dense_of("user")}
    return st.lists(st.fixed_dictionaries({}, optional=optional), min_size=1, max_size=5)


@pytest.mark.parametrize("name", SCHEMAS)
@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_stored_features_give_the_batch_of_the_lakes_rows(name: str, data: Any) -> None:
    schema, codec = SCHEMAS[name], FeatureCodec(SCHEMAS[name])
    users = data.draw(users_of(schema))
    payloads = [codec.encode(features) for features in users]
    rows = rows_of(schema, users)
    decoded = codec.decode(list(range(len(users))), payloads)
    assert decoded.column("user_id").to_pylist() == list(range(len(users)))
    assert same(batch_of(schema, decoded), batch_of(schema, rows))
    assert codec.encode_rows(rows.combine_chunks().to_batches()[0]) == payloads, "loaded as requested"


def many(num_users: int = 50) -> list[dict[str, Any]]:
    rng = np.random.default_rng(0)
    return [
        {f"u{i}": rng.integers(0, LARGEST, rng.integers(0, 5)).tolist() for i in range(5) if rng.random() < 0.8}
        | {f"d{i}": float(np.float32(rng.random())) for i in range(4) if rng.random() < 0.8}
        for _ in range(num_users)
    ]


def packed_rows(monkeypatch: pytest.MonkeyPatch, schema: Schema, users: list[dict[str, Any]]) -> pa.RecordBatch:
    monkeypatch.setattr(schemas, "PACKED_FROM", 3)
    return pack(rows_of(schema, users), user_features_schema(schema, stored=True))


@pytest.mark.parametrize("order", [1, -1], ids=["in order", "in another order"])
def test_packed_rows_are_encoded_as_requests_are(monkeypatch: pytest.MonkeyPatch, order: int) -> None:
    codec, users = FeatureCodec(WIDE), many()
    stored = Schema(tables=WIDE.tables, sparse=WIDE.sparse[::order], dense=WIDE.dense[::order], tasks=WIDE.tasks)
    rows = packed_rows(monkeypatch, stored, users)
    assert "user_packed_ids" in rows.schema.names
    wanted = [codec.encode(features) for features in users]
    assert codec.encode_rows(rows) == wanted
    assert codec.encode_rows(rows.slice(7, 20)) == wanted[7:27]
    assert codec.columns(rows.schema.names) == rows.schema.names[2:]


@pytest.mark.parametrize("packed", [False, True], ids=["columns", "packed"])
def test_what_a_day_lacks_is_empty(monkeypatch: pytest.MonkeyPatch, packed: bool) -> None:
    users = [{name: value for name, value in one.items() if name not in ("u4", "d3")} for one in many()]
    older = Schema(tables=WIDE.tables, sparse=WIDE.sparse[:4], dense=WIDE.dense[:3], tasks=WIDE.tasks)
    rows = packed_rows(monkeypatch, older, users) if packed else rows_of(older, users).to_batches()[0]
    codec = FeatureCodec(WIDE)
    assert codec.encode_rows(rows) == [codec.encode(one) for one in users]
    assert codec.encode_rows(rows.slice(3, 0)) == []


TINY = FeatureCodec(SCHEMAS["tiny"])


@pytest.mark.parametrize(
    ("features", "words"),
    [
        pytest.param({"place": [1]}, "no user features", id="of the item side"),
        pytest.param({"nobody": [1]}, "nobody", id="unknown"),
        pytest.param({"__class__": 1, "liked": [1]}, "__class__", id="no feature at all"),
        pytest.param({"liked": [-1]}, "-1", id="negative"),
        pytest.param({"liked": [LARGEST + 1]}, "from 0 to", id="beyond int64"),
        pytest.param({"liked": [10**400]}, "from 0 to", id="huge"),
        pytest.param({"liked": [True]}, "True", id="a bool"),
        pytest.param({"liked": [1.0]}, "1.0", id="a float"),
        pytest.param({"liked": ["1"]}, "'1'", id="a string"),
        pytest.param({"liked": [[1]]}, "integer", id="nested"),
        pytest.param({"liked": [None]}, "None", id="null in a list"),
        pytest.param({"liked": None}, "list of ids", id="null"),
        pytest.param({"liked": "123"}, "list of ids", id="text"),
        pytest.param({"liked": {"a": 1}}, "list of ids", id="an object"),
        pytest.param({"liked": 7}, "list of ids", id="a number"),
        pytest.param({"liked": [1] * (MOST_IDS + 1)}, str(MOST_IDS), id="too many"),
        pytest.param({"liked": [1] * MOST_IDS, "seen": [1]}, str(MOST_IDS), id="too many in all"),
        pytest.param({"age": math.nan}, "nan", id="NaN"),
        pytest.param({"age": math.inf}, "inf", id="inf"),
        pytest.param({"age": -math.inf}, "inf", id="-inf"),
        pytest.param({"age": 3.5e38}, "float32", id="beyond float32"),
        pytest.param({"age": 10**400}, "float32", id="a huge number"),
        pytest.param({"age": True}, "True", id="a bool for a number"),
        pytest.param({"age": "7"}, "'7'", id="text for a number"),
        pytest.param({"age": [7]}, "finite number", id="a list for a number"),
        pytest.param({"age": None}, "None", id="null for a number"),
        pytest.param({"age": -1}, "above -1", id="no logarithm"),
        pytest.param({"age": -1 + 1e-12}, "above -1", id="no logarithm once rounded"),
        pytest.param({"age": -5e30}, "above -1", id="far below"),
    ],
)
def test_hostile_features_are_refused_by_name(features: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words) as refused:
        TINY.encode(features)
    assert len(str(refused.value)) < 300, "what was sent is not sent back whole"


@pytest.mark.parametrize(
    "features",
    [{}, {"liked": [], "seen": []}, {"liked": (1, 2)}, {"age": 0}, {"age": -0.999}, {"liked": [LARGEST]},
     {"liked": [1] * MOST_IDS}, {"age": 3.4e38}],
    ids=["nothing", "empty", "a tuple", "zero", "just above -1", "the largest id", "as many as may be", "large"],
)  # fmt: skip
def test_what_is_taken_can_be_computed(features: dict[str, Any]) -> None:
    batch = batch_of(SCHEMAS["tiny"], TINY.decode([1], [TINY.encode(features)]))
    assert torch.isfinite(batch.user_dense).all()


def test_a_wide_schema_has_room_for_its_lists() -> None:
    wide = Schema(
        tables=WIDE.tables, sparse=tuple(SparseFeature(name=f"u{i}", table="a") for i in range(600)), dense=(),
        tasks=("click",),
    )  # fmt: skip
    codec = FeatureCodec(wide)
    payload = codec.encode({f"u{i}": list(range(12)) for i in range(600)})
    assert codec.decode([1], [payload]).num_rows == 1
    with pytest.raises(ValueError, match="19200 at most"):
        codec.encode({"u0": [1] * 19_201})


GOOD = TINY.encode({"liked": [1, 2], "seen": [3], "age": 4.0})


@pytest.mark.parametrize(
    ("payload", "words"),
    [
        pytest.param(b"", "of another schema", id="empty"),
        pytest.param(GOOD[:10], "damaged", id="cut within the head"),
        pytest.param(GOOD[:-1], "damaged", id="cut within the ids"),
        pytest.param(GOOD + b"\0" * 8, "damaged", id="longer"),
        pytest.param(FeatureCodec(WIDE).encode({}), "of another schema", id="another schema's"),
        pytest.param(GOOD[:4] + b"\xff\xff\xff\xff" + GOOD[8:], "damaged", id="a negative length"),
        pytest.param(GOOD[:-8] + b"\xff" * 8, "damaged", id="a negative id"),
        pytest.param(GOOD[:12] + np.float32(np.nan).tobytes() + GOOD[16:], "damaged", id="NaN"),
    ],
)
def test_damaged_payloads_are_refused_by_user(payload: bytes, words: str) -> None:
    with pytest.raises(ValueError, match=words) as refused:
        TINY.decode([6, 7], [GOOD, payload])
    assert "7" in str(refused.value)


def test_what_is_damaged_is_told_apart() -> None:
    bad = GOOD[:-8] + b"\xff" * 8
    low = GOOD[:12] + np.float32(-1).tobytes() + GOOD[16:]
    payloads = [bad, GOOD, TINY.encode({}), b"", low, GOOD, bad, TINY.encode({"seen": [1]})]
    assert TINY.sound(payloads).tolist() == [False, True, True, False, False, True, False, True]


def test_no_users_are_no_rows() -> None:
    assert TINY.decode([], []).num_rows == 0
