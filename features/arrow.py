"""The Arrow layouts of the lake's tables that hold features."""

from __future__ import annotations

import pyarrow as pa

from features.packing import IDS, feature_fields
from features.schema import EVENT_TIME, USER_ID, Schema

__all__ = ["IDS", "REJECTED", "TIME", "examples_schema", "user_features_schema"]

TIME = pa.timestamp("us", tz="UTC")

REJECTED = pa.schema([("file", pa.string()), ("line", pa.int64()), ("reason", pa.string()), ("raw", pa.string())])
_KEYS = (pa.field(USER_ID, pa.int64(), nullable=False), pa.field(EVENT_TIME, TIME, nullable=False))


def examples_schema(schema: Schema, *, stored: bool = False) -> pa.Schema:
    """`examples/<source>`: user id, event time, every feature, one int8 0/1 label per task (without `ds`).

    stored: as in the lake, where a wide side is packed (`features.packing`); else a column per feature.
    """
    labels = [pa.field(task, pa.int8()) for task in schema.tasks]
    return pa.schema([*_KEYS, *feature_fields(schema, schema.sparse, schema.dense, pack=stored), *labels])


def user_features_schema(schema: Schema, *, stored: bool = False) -> pa.Schema:
    """`user_features/<source>`: user id, time of the user's last event, the user-side features."""
    sparse, dense = schema.sparse_of("user"), schema.dense_of("user")
    return pa.schema([*_KEYS, *feature_fields(schema, sparse, dense, pack=stored)])
