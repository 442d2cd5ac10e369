"""A user's features as bytes: what a request brings, the store keeps, and the compute center makes batches of.

`layout u32, lengths i32 [F], dense f32 [M], ids i64`: the lists of the user-side sparse features one after the other,
and the dense values as the lake keeps them, in the schema's order. The layout is a hash of the features' names.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np
import pyarrow as pa

from features.packing import packed_fields
from features.schema import USER_ID, Schema

if TYPE_CHECKING:
    from numpy.typing import NDArray

MOST_IDS = 4_096
"""Of one user, over all features."""
_LARGEST = np.iinfo(np.int64).max


class FeatureCodec:
    """Of the user side of one schema."""

    def __init__(self, schema: Schema) -> None:
        self._sparse = [feature.name for feature in schema.sparse_of("user")]
        self._dense = [feature.name for feature in schema.dense_of("user")]
        self._tag = zlib.crc32(repr((self._sparse, self._dense)).encode())
        self._head = 4 + 4 * (len(self._sparse) + len(self._dense))

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
        cannot hold, more than MOST_IDS ids.
        """
        if unknown := sorted(set(features) - set(self._sparse) - set(self._dense)):
            raise ValueError(f"{unknown[:5]} are no user features; known: {self.names}")
        lists = [_ids(name, features.get(name, ())) for name in self._sparse]
        if (total := sum(map(len, lists))) > MOST_IDS:
            raise ValueError(f"{total} ids in all features; a user has {MOST_IDS} at most: send the newest")
        dense = [_number(name, features.get(name, 0.0)) for name in self._dense]
        return b"".join(
            [
                self._tag.to_bytes(4, "little"),
                np.array([len(ids) for ids in lists], "<i4").tobytes(),
                np.array(dense, "<f4").tobytes(),
                np.array([one for ids in lists for one in ids], "<i8").tobytes(),
            ]
        )

    def sound(self, payloads: Sequence[bytes]) -> NDArray[np.bool_]:
        """[N]: which of them `decode` reads."""
        sizes = np.fromiter(map(len, payloads), np.int64, len(payloads))
        sound = sizes >= self._head
        heads = b"".join(payload[: self._head] for payload in payloads if len(payload) >= self._head)
        words = np.frombuffer(heads, "<i4").reshape(-1, self._head // 4)
        lengths = words[:, 1 : 1 + len(self._sparse)]
        sound[sound] = (
            (words[:, 0].view("<u4") == self._tag)
            & (lengths.min(axis=1, initial=0) >= 0)
            & (sizes[sound] == self._head + 8 * lengths.sum(axis=1, dtype=np.int64))
        )
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


def _number(name: str, given: Any) -> float:
    if isinstance(given, (int, float)) and not isinstance(given, bool) and abs(given) <= np.finfo(np.float32).max:
        return float(given)
    raise ValueError(f"feature {name} is {_shown(given)}; it is a finite number that float32 holds")


def _shown(value: Any) -> str:
    return repr(value)[:40]
