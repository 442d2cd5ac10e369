"""The Arrow layouts of the lake's tables that hold features."""

from __future__ import annotations

import pyarrow as pa

from features.schema import EVENT_TIME, USER_ID, DenseFeature, Schema, SparseFeature

IDS = pa.list_(pa.int64())
TIME = pa.timestamp("us", tz="UTC")

REJECTED = pa.schema([("file", pa.string()), ("line", pa.int64()), ("reason", pa.string()), ("raw", pa.string())])


def _fields(sparse: tuple[SparseFeature, ...], dense: tuple[DenseFeature, ...]) -> list[pa.Field]:
    return [
        pa.field(USER_ID, pa.int64(), nullable=False),
        pa.field(EVENT_TIME, TIME, nullable=False),
        *(pa.field(feature.name, IDS) for feature in sparse),
        *(pa.field(feature.name, pa.float32()) for feature in dense),
    ]


def examples_schema(schema: Schema) -> pa.Schema:
    """`examples/<source>`: user id, event time, every feature, one int8 0/1 label per task (without `ds`)."""
    labels = [pa.field(task, pa.int8()) for task in schema.tasks]
    return pa.schema(_fields(schema.sparse, schema.dense) + labels)


def user_features_schema(schema: Schema) -> pa.Schema:
    """`user_features/<source>`: user id, time of the user's last event, the user-side features."""
    return pa.schema(_fields(schema.sparse_of("user"), schema.dense_of("user")))
