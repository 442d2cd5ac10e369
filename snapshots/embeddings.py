"""The table `user_embeddings/<model>`: one row per active user, K computed and K pooled vectors of D.

Values are float32 that a float16 holds exactly (the paper stores fp16, section 5.3; Delta has no such type),
so that DuckDB, Polars and Spark read plain numbers. D stands in the metadata of every vector column.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from features.arrow import TIME
from features.schema import USER_ID

if TYPE_CHECKING:
    from deltalake import DeltaTable
    from numpy.typing import NDArray

FEATURE_TIME = "feature_time"
VERSION = "version"
NUM_POOLED = "num_pooled"
DIM_KEY = b"usermodel.dim"

POOLINGS = ("embedding", "pooled")
"""Column prefixes: the computed vectors and the pooled ones."""


def table_of(model: str) -> str:
    """The consumers' table: the embeddings of promoted days."""
    return f"user_embeddings/{model}"


def candidates_table_of(model: str) -> str:
    """Where a day is embedded before anybody has judged it."""
    return f"candidate_embeddings/{model}"


def embeddings_schema(*, num_embeddings: int, dim: int, model: str) -> pa.Schema:
    """user_id, embedding_0..K-1, pooled_0..K-1 (lists of D floats), num_pooled, version, feature_time."""
    metadata = {
        DIM_KEY: str(dim),
        b"usermodel.num_embeddings": str(num_embeddings),
        b"usermodel.model": model,
    }
    vectors = [
        pa.field(f"{prefix}_{k}", pa.list_(pa.float32()), metadata=metadata)
        for prefix in POOLINGS
        for k in range(num_embeddings)
    ]
    return pa.schema(
        [
            pa.field(USER_ID, pa.int64(), nullable=False),
            *vectors,
            pa.field(NUM_POOLED, pa.int8(), nullable=False),
            pa.field(VERSION, pa.int32(), nullable=False),
            pa.field(FEATURE_TIME, TIME, nullable=False),
        ]
    )


def file_options(schema: pa.Schema) -> dict[str, Any]:
    """For pyarrow's writer. Zstd over byte-stream-split floats: half the bytes of float32, as their last 13 bits are 0.
    Ids and times are written as differences. Statistics only where readers prune by them."""
    vectors = [f"{field.name}.list.element" for field in schema if pa.types.is_list(field.type)]
    repeated = [NUM_POOLED, VERSION]
    return {
        "compression": "zstd",
        "compression_level": 1,
        "use_dictionary": repeated,
        "column_encoding": dict.fromkeys(vectors, "BYTE_STREAM_SPLIT")
        | dict.fromkeys([USER_ID, FEATURE_TIME], "DELTA_BINARY_PACKED"),
        "write_statistics": [USER_ID, FEATURE_TIME, *repeated],
    }


def require_layout(delta: DeltaTable, schema: pa.Schema) -> None:
    """ValueError where the table holds vectors of another K or D than `schema`: they cannot be pooled."""
    found = {field.name: field.metadata.get(DIM_KEY.decode()) for field in delta.schema().fields}
    if more := sorted(name for name, dim in found.items() if dim is not None and name not in schema.names):
        raise ValueError(
            f"{delta.table_uri}: the table has {more}, which the recipe's tower does not give; rename the recipe"
        )
    for field in schema:
        if field.metadata and found.get(field.name) != field.metadata[DIM_KEY].decode():
            raise ValueError(
                f"{delta.table_uri}: column {field.name} has dim {found.get(field.name)} in the table and "
                f"{field.metadata[DIM_KEY].decode()} in the recipe; rename the recipe"
            )


def fp16_exact(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    """`vectors` rounded to the nearest float16 values, kept as float32; what overflows becomes inf."""
    with np.errstate(over="ignore", invalid="ignore"):
        return vectors.astype(np.float16).astype(np.float32)


def to_lists(vectors: NDArray[np.float32]) -> pa.ListArray:
    """[N, D] float32 as N lists of D (one copy at most)."""
    num_rows, dim = vectors.shape
    offsets = pa.array(np.arange(num_rows + 1, dtype=np.int32) * dim)
    return pa.ListArray.from_arrays(offsets, pa.array(np.ascontiguousarray(vectors).reshape(-1)))


def to_vectors(lists: pa.ListArray | pa.ChunkedArray, *, dim: int) -> NDArray[np.float32]:
    """N lists of D as [N, D] float32; ValueError where a list is null or of another length."""
    array = lists.combine_chunks() if isinstance(lists, pa.ChunkedArray) else lists
    values = array.flatten()  # honours slices, unlike .values
    lengths = np.diff(array.offsets.to_numpy())
    if array.null_count or values.null_count or not bool((lengths == dim).all()):
        raise ValueError(f"{len(array)} vectors hold nulls or lengths other than {dim}; the partition is damaged")
    vectors: NDArray[np.float32] = values.to_numpy(zero_copy_only=False).reshape(len(array), dim)
    return vectors


def stack(columns: pa.Table | pa.RecordBatch, prefix: str, *, num_embeddings: int, dim: int) -> NDArray[np.float32]:
    """The vectors `<prefix>_0..K-1` as [N, K, D]."""
    return np.stack([to_vectors(columns.column(f"{prefix}_{k}"), dim=dim) for k in range(num_embeddings)], axis=1)
