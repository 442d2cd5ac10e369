"""Arrow rows as the tensors of a training step: KeyedJaggedTensors for ids, matrices for dense values."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from itertools import chain

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor
from torchrec.streamable import Pipelineable

from features.hashing import hash_ids
from features.schema import DenseFeature, Schema, Side, SparseFeature

Ids = npt.NDArray[np.int64]


@dataclass(kw_only=True)
class Batch(Pipelineable):  # type: ignore[misc]
    """B examples. Padding rows have empty lists, zeros and weight 0."""

    user_sparse: KeyedJaggedTensor
    user_dense: torch.Tensor
    """[B, Nu] float32, transformed."""
    item_sparse: KeyedJaggedTensor
    item_dense: torch.Tensor
    """[B, Ni] float32, transformed."""
    labels: torch.Tensor
    """[B, T] float32, 0 or 1."""
    weights: torch.Tensor
    """[B] float32: 1 for an example, 0 for padding."""
    num_examples: torch.Tensor
    """Scalar float32: examples in this step over all ranks, per rank; N of Eq. 8 once ranks are averaged."""

    def to(self, device: torch.device, non_blocking: bool = False) -> Batch:
        """The batch on `device`."""
        moved = {f.name: getattr(self, f.name).to(device=device, non_blocking=non_blocking) for f in fields(self)}
        return Batch(**moved)

    def record_stream(self, stream: torch.Stream) -> None:
        """Tell the CUDA allocator that `stream` uses the batch."""
        for field in fields(self):
            getattr(self, field.name).record_stream(stream)

    def pin_memory(self) -> Batch:
        """A copy in page-locked memory."""
        return Batch(**{f.name: getattr(self, f.name).pin_memory() for f in fields(self)})


class Encoder:
    """Projects, hashes and transforms the columns of the lake into a `Batch`.

    tasks: the label columns, in the order of `labels`; none when there is nothing to learn from (inference).
    sides: a side left out is empty in every batch.
    features: restricts both sides to these names.
    """

    def __init__(
        self,
        schema: Schema,
        *,
        tasks: tuple[str, ...] = (),
        sides: tuple[Side, ...] = ("user", "item"),
        features: frozenset[str] | None = None,
    ) -> None:
        known = {f.name for f in schema.sparse} | {f.name for f in schema.dense}
        unknown = sorted((features or frozenset()) - known) + [task for task in tasks if task not in schema.tasks]
        if unknown:
            raise ValueError(
                f"{unknown} are no features or tasks of the schema; it has {sorted(known)}, {schema.tasks}"
            )
        self._rows = {table.name: table.num_rows for table in schema.tables}
        self._tasks = tasks

        def kept(feature: SparseFeature | DenseFeature, side: Side) -> bool:
            return feature.side == side and side in sides and (features is None or feature.name in features)

        self._sparse: dict[Side, tuple[SparseFeature, ...]] = {
            side: tuple(f for f in schema.sparse if kept(f, side)) for side in _SIDES
        }
        self._dense: dict[Side, tuple[DenseFeature, ...]] = {
            side: tuple(f for f in schema.dense if kept(f, side)) for side in _SIDES
        }

    @property
    def columns(self) -> list[str]:
        """The columns that `encode` needs, and nothing else need be read."""
        features = [[f.name for f in self._sparse[side]] + [f.name for f in self._dense[side]] for side in _SIDES]
        return [*chain.from_iterable(features), *self._tasks]

    def encode(self, rows: pa.RecordBatch | pa.Table, *, num_rows: int | None = None) -> Batch:
        """`rows` as a batch, padded to `num_rows` (default: not padded).

        ValueError names the column for a negative id, a null inside a list, a null label, a dense value that
        is not finite. A null list is empty, a null dense value 0.
        """
        length = rows.num_rows if num_rows is None else num_rows
        if length < rows.num_rows:
            raise ValueError(f"{rows.num_rows} rows do not fit into a batch of {length}")
        weights = np.zeros(length, dtype=np.float32)
        weights[: rows.num_rows] = 1
        return Batch(
            user_sparse=self._encode_sparse(rows, self._sparse["user"], length),
            user_dense=_encode_dense(rows, self._dense["user"], length),
            item_sparse=self._encode_sparse(rows, self._sparse["item"], length),
            item_dense=_encode_dense(rows, self._dense["item"], length),
            labels=_encode_labels(rows, self._tasks, length),
            weights=torch.from_numpy(weights),
            num_examples=torch.tensor(float(rows.num_rows)),
        )

    def _encode_sparse(
        self, rows: pa.RecordBatch | pa.Table, features: Sequence[SparseFeature], length: int
    ) -> KeyedJaggedTensor:
        lengths = np.zeros((len(features), length), dtype=np.int32)
        parts: list[Ids] = []
        for index, feature in enumerate(features):
            column = _column(rows, feature.name)
            parts.append(_list_column(column, lengths[index, : rows.num_rows], feature.name))
        values = np.concatenate(parts) if parts else np.empty(0, dtype=np.int64)
        if values.size and values.min() < 0:
            raise ValueError(_name_negative(parts, features))
        hash_ids(values, [part.size for part in parts], [self._rows[f.table] for f in features])
        return KeyedJaggedTensor(
            keys=[f.name for f in features],
            values=torch.from_numpy(values),
            lengths=torch.from_numpy(lengths.reshape(-1)),
            stride=length,
        )


_SIDES: tuple[Side, Side] = ("user", "item")


def _column(rows: pa.RecordBatch | pa.Table, name: str) -> pa.Array:
    column = rows.column(name)
    if isinstance(column, pa.ChunkedArray):
        return (
            column.chunk(0)
            if column.num_chunks == 1
            else pa.concat_arrays(column.chunks or [pa.array([], column.type)])
        )
    return column


def _list_column(column: pa.Array, lengths: npt.NDArray[np.int32], name: str) -> Ids:
    """The column's ids; writes the length of each list. Right for slices, whose offsets do not begin at 0."""
    if column.null_count:
        values = column.flatten()
        lengths[:] = column.value_lengths().fill_null(0).to_numpy(zero_copy_only=False)
    else:
        offsets = column.offsets.to_numpy()
        np.subtract(offsets[1:], offsets[:-1], out=lengths, casting="unsafe")
        values = column.values[offsets[0] : offsets[-1]] if len(offsets) else column.values[:0]
    if values.null_count:
        raise ValueError(f"column {name} has {values.null_count} null ids inside its lists; leave them out")
    ids: Ids = values.to_numpy()
    return ids


def _name_negative(parts: Sequence[Ids], features: Sequence[SparseFeature]) -> str:
    part, feature = next((p, f) for p, f in zip(parts, features, strict=True) if p.size and p.min() < 0)
    return f"column {feature.name} has the id {part.min()}; ids are not negative: quarantine such rows"


def _encode_dense(rows: pa.RecordBatch | pa.Table, features: Sequence[DenseFeature], length: int) -> torch.Tensor:
    values = np.zeros((length, len(features)), dtype=np.float32)
    for index, feature in enumerate(features):
        column = _column(rows, feature.name)
        filled = column.fill_null(0) if column.null_count else column
        values[: rows.num_rows, index] = filled.to_numpy(zero_copy_only=False)
    logged = [index for index, feature in enumerate(features) if feature.transform == "log1p"]
    if logged:
        with np.errstate(invalid="ignore", divide="ignore"):
            values[:, logged] = np.log1p(values[:, logged])
    finite = np.isfinite(values)
    if not finite.all():
        row, index = np.argwhere(~finite)[0]
        feature = features[index]
        raw = _column(rows, feature.name)[int(row)]
        raise ValueError(
            f"column {feature.name} has the value {raw} ({feature.transform}), which gives no finite number; "
            "quarantine such rows"
        )
    return torch.from_numpy(values)


def _encode_labels(rows: pa.RecordBatch | pa.Table, tasks: Sequence[str], length: int) -> torch.Tensor:
    labels = np.zeros((length, len(tasks)), dtype=np.float32)
    for index, task in enumerate(tasks):
        column = _column(rows, task)
        if column.null_count:
            raise ValueError(f"label {task} has {column.null_count} nulls; a label is 0 or 1")
        labels[: rows.num_rows, index] = column.to_numpy(zero_copy_only=False)
    return torch.from_numpy(labels)
