"""A user's features as bytes: what a request brings, the store keeps, and the compute center makes batches of.

`layout u32, lengths i32 [F], dense f32 [M], ids i64`: the lists of the user-side sparse features one after the other,
and the dense values as the lake keeps them, in the schema's order. The layout is a hash of the features' names.
"""

from __future__ import annotations

import itertools
import struct
import zlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np
import pyarrow as pa

from features.packing import pack, packed_features, packed_fields, unpack
from features.schema import USER_ID, Schema, packed_columns

if TYPE_CHECKING:
    from numpy.typing import NDArray

MOST_IDS = 4_096
"""Of one user, over all features; where there are many features,"""
MOST_IDS_PER_FEATURE = 32
"""on average, if that is more."""
_COLUMNS = packed_columns("user")
_LARGEST = int(np.iinfo(np.int64).max)
_LARGEST_FLOAT = float(np.finfo(np.float32).max)


class FeatureCodec:
    """Of the user side of one schema."""

    def __init__(self, schema: Schema) -> None:
        self._sparse = [feature.name for feature in schema.sparse_of("user")]
        self._dense = [feature.name for feature in schema.dense_of("user")]
        lowest = [-1.0 if feature.transform == "log1p" else -float("inf") for feature in schema.dense_of("user")]
        self._lowest = lowest
        self._above = np.array(lowest, np.float32)
        """[M]: what the dense features' transforms have a value for is above it. They have one for 0."""
        self.most_ids = max(MOST_IDS, MOST_IDS_PER_FEATURE * len(self._sparse))
        self._tag = zlib.crc32(repr((self._sparse, self._dense)).encode())
        self._known = {*self._sparse, *self._dense}
        self._packed_head = struct.Struct(f"<I{len(self._sparse)}i{len(self._dense)}f")
        self._head = self._packed_head.size

    @property
    def names(self) -> list[str]:
        """Of the features that a request may have."""
        return [*self._sparse, *self._dense]

    @property
    def sparse(self) -> list[str]:
        """Of those, what is a list of ids."""
        return list(self._sparse)

    def encode(self, features: Mapping[str, Any]) -> bytes:
        """Lists of ids and numbers by feature; what is not given is an empty list or 0.

        ValueError names the feature for: an unknown name, an id that is no int64 of 0 or more, a number that float32
        cannot hold or whose transform has no value, more than `most_ids` ids.
        """
        if not features.keys() <= self._known:
            raise ValueError(f"{sorted(set(features) - self._known)[:5]} are no user features; known: {self.names}")
        lists = [_ids(name, features[name]) if name in features else () for name in self._sparse]
        if (total := sum(map(len, lists))) > self.most_ids:
            raise ValueError(f"{total} ids in all features; a user has {self.most_ids} at most: send the newest")
        dense = [
            _number(name, features[name], above=above) if name in features else 0.0
            for name, above in zip(self._dense, self._lowest, strict=True)
        ]
        head = self._packed_head.pack(self._tag, *map(len, lists), *dense)
        return head + struct.pack(f"<{total}q", *itertools.chain.from_iterable(lists))

    def encode_rows(self, rows: pa.RecordBatch) -> list[bytes]:
        """Of each row of `user_features/<source>`, in whatever layout. What the day lacks is an empty list or 0."""
        packed = self._packed(rows)
        ids, lengths, values = (packed.column(name) if name in packed.schema.names else None for name in _COLUMNS)
        heads = [np.broadcast_to(np.frombuffer(self._tag.to_bytes(4, "little"), np.uint8), (rows.num_rows, 4))]
        blob, ends = b"", np.zeros(rows.num_rows + 1, np.int64)
        if ids is not None and lengths is not None:
            heads.append(_bytes_of(lengths.flatten(), "<i4", (rows.num_rows, 4 * len(self._sparse))))
            blob = np.ascontiguousarray(ids.flatten().to_numpy(), "<i8").tobytes()
            ends = 8 * (ids.offsets.to_numpy().astype(np.int64) - ids.offsets[0].as_py())
        if values is not None:
            heads.append(_bytes_of(values.flatten().fill_null(0), "<f4", (rows.num_rows, 4 * len(self._dense))))
        head, size = np.concatenate(heads, axis=1).tobytes(), self._head
        bounds = zip(ends[:-1].tolist(), ends[1:].tolist(), strict=True)
        return [head[row * size : (row + 1) * size] + blob[begin:end] for row, (begin, end) in enumerate(bounds)]

    def columns(self, known: Sequence[str]) -> list[str]:
        """Of a table with the columns `known`, those that hold features."""
        return [name for name in known if name in _COLUMNS or name in self._sparse or name in self._dense]

    def _packed(self, rows: pa.RecordBatch) -> pa.RecordBatch:
        """As `pack` makes them, in this codec's order."""
        layout = pa.schema(packed_fields("user", sparse=self._sparse, dense=self._dense))
        if all(
            field.name in rows.schema.names and packed_features(rows.schema.field(field.name)) == packed_features(field)
            for field in layout
        ):
            return rows.select(layout.names)
        table = unpack(pa.Table.from_batches([rows]))
        lacking = {name: pa.list_(pa.int64()) for name in self._sparse} | dict.fromkeys(self._dense, pa.float32())
        for name, kind in lacking.items():
            if name not in table.schema.names:
                table = table.append_column(name, pa.nulls(rows.num_rows, kind))
        return pack(table, layout)

    def sound(self, payloads: Sequence[bytes]) -> NDArray[np.bool_]:
        """[N]: which of them `decode` reads, and a batch can be made of."""
        sizes = np.fromiter(map(len, payloads), np.int64, len(payloads))
        sound = sizes >= self._head
        heads = b"".join(payload[: self._head] for payload in payloads if len(payload) >= self._head)
        words = np.frombuffer(heads, "<i4").reshape(-1, self._head // 4)
        lengths, dense = words[:, 1 : 1 + len(self._sparse)], words[:, 1 + len(self._sparse) :].view("<f4")
        sound[sound] = (
            (words[:, 0].view("<u4") == self._tag)
            & (lengths.min(axis=1, initial=0) >= 0)
            & (sizes[sound] == self._head + 8 * lengths.sum(axis=1, dtype=np.int64))
            & ((dense > self._above) & (dense < np.inf)).all(axis=1)
        )
        ids = np.frombuffer(b"".join(payloads[row][self._head :] for row in np.flatnonzero(sound).tolist()), "<i8")
        if ids.size and ids.min() < 0:
            ends = np.cumsum(sizes[sound] - self._head) // 8
            sound[np.flatnonzero(sound)[np.searchsorted(ends, np.flatnonzero(ids < 0), side="right")]] = False
        return sound

    def decode(self, users: Sequence[int], payloads: Sequence[bytes]) -> pa.RecordBatch:
        """Rows for `snapshots.embedder.Embedder`, features packed. ValueError names a user whose payload is none."""
        sound = self.sound(payloads)
        if not sound.all():
            self._refuse(users[int(np.argmin(sound))], payloads[int(np.argmin(sound))])
        num_sparse, num_dense = len(self._sparse), len(self._dense)
        heads = np.frombuffer(b"".join(payload[4 : self._head] for payload in payloads), "<i4")
        heads = heads.reshape(len(payloads), num_sparse + num_dense)
        lengths = np.ascontiguousarray(heads[:, :num_sparse])
        dense = np.ascontiguousarray(heads[:, num_sparse:]).view("<f4")
        ids = np.frombuffer(b"".join(payload[self._head :] for payload in payloads), "<i8")
        columns: list[pa.Array] = []
        if num_sparse:
            ends = np.concatenate([[0], np.cumsum(lengths.sum(axis=1))]).astype(np.int32)
            columns += [pa.ListArray.from_arrays(ends, ids), _rows_of(lengths)]
        if num_dense:
            columns.append(_rows_of(dense))
        return pa.RecordBatch.from_arrays([pa.array(users, pa.int64()), *columns], schema=self._schema)

    @property
    def _schema(self) -> pa.Schema:
        fields = packed_fields("user", sparse=self._sparse, dense=self._dense)
        return pa.schema([pa.field(USER_ID, pa.int64(), nullable=False), *fields])

    def _refuse(self, user: int, payload: bytes) -> NoReturn:
        if int.from_bytes(payload[:4], "little") != self._tag:
            raise ValueError(f"user {user}: the stored features are of another schema; send them again")
        raise ValueError(f"user {user}: the stored features are damaged ({len(payload)} bytes); send them again")


def _bytes_of(values: pa.Array, kind: str, shape: tuple[int, int]) -> np.ndarray[Any, Any]:
    """[B * N] numbers as [B, bytes]."""
    return np.ascontiguousarray(values.to_numpy(), kind).view(np.uint8).reshape(shape)


def _rows_of(values: np.ndarray[Any, Any]) -> pa.ListArray:
    """[B, N] as a list of N per row."""
    ends = np.arange(len(values) + 1, dtype=np.int32) * values.shape[1]
    return pa.ListArray.from_arrays(ends, values.reshape(-1))


def _ids(name: str, given: Any) -> Sequence[int]:
    if not isinstance(given, (list, tuple)):
        raise ValueError(f"feature {name} is {_shown(given)}; it is a list of ids")
    for one in given:
        if not isinstance(one, int) or isinstance(one, bool) or not 0 <= one <= _LARGEST:
            raise ValueError(f"feature {name} has the id {_shown(one)}; an id is an integer from 0 to {_LARGEST}")
    return given


def _number(name: str, given: Any, *, above: float) -> float:
    if not isinstance(given, (int, float)) or isinstance(given, bool) or not abs(given) <= _LARGEST_FLOAT:
        raise ValueError(f"feature {name} is {_shown(given)}; it is a finite number that float32 holds")
    if not np.float32(given) > above:
        raise ValueError(f"feature {name} is {_shown(given)}; its transform takes what is above {above:g}")
    return float(given)


def _shown(value: Any) -> str:
    return repr(value)[:40]
