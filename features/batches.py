"""Arrow rows as the tensors of a training step: KeyedJaggedTensors for ids, matrices for dense values."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor
from torchrec.streamable import Pipelineable

from features.columns import IdLists, Ids, column_of
from features.id_map import IdMap
from features.packing import packed_lists, packed_matrix
from features.rows import rows_of
from features.schema import SIDES, DenseFeature, Schema, Side, SparseFeature, packed_columns

Floats = npt.NDArray[np.float32]


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
    """Projects, hashes and transforms the columns of the lake, packed or not, into `Batch`es.

    tasks: the label columns, in the order of `labels`; none when there is nothing to learn from (inference).
    sides: a side left out is empty in every batch.
    features: restricts both sides to these names.
    maps: of the managed tables that are looked up, by name.
    """

    def __init__(
        self,
        schema: Schema,
        *,
        tasks: tuple[str, ...] = (),
        sides: tuple[Side, ...] = ("user", "item"),
        features: frozenset[str] | None = None,
        maps: Mapping[str, IdMap] | None = None,
    ) -> None:
        known = {f.name for f in schema.sparse} | {f.name for f in schema.dense}
        unknown = sorted((features or frozenset()) - known) + [task for task in tasks if task not in schema.tasks]
        if unknown:
            raise ValueError(
                f"{unknown} are no features or tasks of the schema; it has {sorted(known)}, {schema.tasks}"
            )
        self._schema = schema
        self._tasks = tasks

        def kept(feature: SparseFeature | DenseFeature, side: Side) -> bool:
            return feature.side == side and side in sides and (features is None or feature.name in features)

        self._sparse: dict[Side, tuple[SparseFeature, ...]] = {
            side: tuple(f for f in schema.sparse if kept(f, side)) for side in SIDES
        }
        self._dense: dict[Side, tuple[DenseFeature, ...]] = {
            side: tuple(f for f in schema.dense if kept(f, side)) for side in SIDES
        }
        used = {feature.table for side in SIDES for feature in self._sparse[side]}
        self._to_rows = {table.name: rows_of(table, maps or {}) for table in schema.tables if table.name in used}

    @property
    def columns(self) -> list[str]:
        """The columns of the lake that a batch is made of; nothing else need be read."""
        names: list[str] = []
        for side in SIDES:
            sparse, dense = self._sparse[side], self._dense[side]
            if self._schema.is_packed(side):
                ids, lengths, values = packed_columns(side)
                names += ([ids, lengths] if sparse else []) + ([values] if dense else [])
            else:
                names += [f.name for f in sparse] + [f.name for f in dense]
        return [*names, *self._tasks]

    @property
    def optional(self) -> frozenset[str]:
        """The columns that a day may lack."""
        features: tuple[SparseFeature | DenseFeature, ...] = (*self._schema.sparse, *self._schema.dense)
        return frozenset(feature.name for feature in features if feature.optional)

    def encode(self, rows: pa.RecordBatch | pa.Table, *, num_rows: int | None = None) -> Batch:
        """`rows` as one batch, padded to `num_rows` (default: not padded). Errors: as `batches`."""
        length = rows.num_rows if num_rows is None else num_rows
        if length < rows.num_rows:
            raise ValueError(f"{rows.num_rows} rows do not fit into a batch of {length}")
        return next(self.batches(rows, order=np.arange(rows.num_rows), batch_size=length))

    def batches(self, rows: pa.RecordBatch | pa.Table, *, order: Ids, batch_size: int) -> Iterator[Batch]:
        """`rows` in this `order`, cut into batches of `batch_size`; the last is padded, and one without rows is
        nothing but padding. Every row is checked and encoded before the first batch is handed out.

        ValueError names the column for a negative id, a null inside a list, a null label, a dense value that
        is not finite. A null list is empty, a null dense value 0.
        """
        num_batches = max(-(-order.size // max(batch_size, 1)), 1)
        length = num_batches * batch_size
        sparse = {side: self._encode_sparse(rows, side, order, length) for side in SIDES}
        dense = {side: self._encode_dense(rows, side, order, length) for side in SIDES}
        labels = _encode_labels(rows, self._tasks, order, length)
        weights = np.zeros(length, dtype=np.float32)
        weights[: order.size] = 1

        def cut(index: int) -> Batch:
            begin, end = index * batch_size, (index + 1) * batch_size
            return Batch(
                user_sparse=sparse["user"].slice(begin, end),
                user_dense=torch.from_numpy(dense["user"][begin:end]),
                item_sparse=sparse["item"].slice(begin, end),
                item_dense=torch.from_numpy(dense["item"][begin:end]),
                labels=torch.from_numpy(labels[begin:end]),
                weights=torch.from_numpy(weights[begin:end]),
                num_examples=torch.tensor(float(max(min(order.size, end) - begin, 0))),
            )

        return map(cut, range(num_batches))

    def largest(self, batch: Batch) -> tuple[str, float]:
        """The dense column with the largest absolute value, and that value, transformed; ("", 0) without any."""
        names = [feature.name for side in SIDES for feature in self._dense[side]]
        values = torch.cat([batch.user_dense, batch.item_dense], dim=1)
        if not values.numel():
            return "", 0.0
        place = int(values.abs().argmax())
        return names[place % len(names)], float(values.flatten()[place])

    def _encode_sparse(self, rows: pa.RecordBatch | pa.Table, side: Side, order: Ids, length: int) -> _Jagged:
        features = self._sparse[side]
        lists = _id_lists(rows, side, features)
        offsets = np.zeros((len(features), length + 1), dtype=np.int64)
        ids: list[Ids] = []
        places = lists[0].places(order) if lists else pa.array([], pa.int64())
        for index, feature in enumerate(features):
            taken, starts = lists[index].take(places)
            if taken.size and taken.min() < 0:
                raise ValueError(
                    f"column {feature.name} has the id {taken.min()}; ids are not negative: quarantine such rows"
                )
            self._to_rows[feature.table](taken)
            offsets[index, : order.size + 1] = starts
            offsets[index, order.size + 1 :] = taken.size  # padding has empty lists
            ids.append(taken)
        return _Jagged(keys=[f.name for f in features], ids=ids, offsets=offsets)

    def _encode_dense(self, rows: pa.RecordBatch | pa.Table, side: Side, order: Ids, length: int) -> Floats:
        features = self._dense[side]
        stored = _dense_values(rows, side, features)
        values = np.zeros((length, len(features)), dtype=np.float32)
        np.take(stored, order, axis=0, out=values[: order.size], mode="clip")  # "raise" would copy `out`
        logged = [index for index, feature in enumerate(features) if feature.transform == "log1p"]
        if logged:
            with np.errstate(invalid="ignore", divide="ignore"):
                values[:, logged] = np.log1p(values[:, logged])
        finite = np.isfinite(values)
        if not finite.all():
            row, index = np.argwhere(~finite)[0]
            feature = features[index]
            raise ValueError(
                f"column {feature.name} has the value {stored[order[row], index]} ({feature.transform}), which gives "
                "no finite number; quarantine such rows"
            )
        return values


@dataclass(frozen=True, kw_only=True)
class _Jagged:
    """Table rows of F features over W examples, to be cut into KeyedJaggedTensors."""

    keys: list[str]
    ids: list[Ids]
    """Per feature, example by example."""
    offsets: Ids
    """[F, W + 1]: where each example's ids begin within its feature's."""

    def slice(self, begin: int, end: int) -> KeyedJaggedTensor:
        """Examples [begin, end)."""
        lengths = np.diff(self.offsets[:, begin : end + 1]).astype(np.int32)
        bounds = self.offsets[:, [begin, end]].tolist()
        parts = [ids[first:last] for ids, (first, last) in zip(self.ids, bounds, strict=True)]
        return KeyedJaggedTensor(
            keys=self.keys,
            values=torch.from_numpy(np.concatenate(parts) if parts else np.empty(0, dtype=np.int64)),
            lengths=torch.from_numpy(lengths.reshape(-1)),
            stride=end - begin,
        )


def _id_lists(rows: pa.RecordBatch | pa.Table, side: Side, features: Sequence[SparseFeature]) -> list[IdLists]:
    """The features' id lists, however the table stores them."""
    if not features or packed_columns(side)[0] not in rows.schema.names:
        return [IdLists.of_column(column_of(rows, feature.name), feature.name) for feature in features]
    packed = packed_lists(rows, side)
    if missing := [feature.name for feature in features if feature.name not in packed]:
        raise ValueError(f"column {packed_columns(side)[0]} lacks the features {missing}; it holds {sorted(packed)}")
    return [packed[feature.name] for feature in features]


def _dense_values(rows: pa.RecordBatch | pa.Table, side: Side, features: Sequence[DenseFeature]) -> Floats:
    """[rows, features] as stored, nulls as 0."""
    if features and packed_columns(side)[2] in rows.schema.names:
        return packed_matrix(rows, side, [feature.name for feature in features])
    values = np.empty((len(features), rows.num_rows), dtype=np.float32)
    for index, feature in enumerate(features):
        column = column_of(rows, feature.name)
        filled = column.fill_null(0) if column.null_count else column
        values[index] = filled.to_numpy(zero_copy_only=False)
    return values.T


def _encode_labels(rows: pa.RecordBatch | pa.Table, tasks: Sequence[str], order: Ids, length: int) -> Floats:
    labels = np.zeros((length, len(tasks)), dtype=np.float32)
    for index, task in enumerate(tasks):
        column = column_of(rows, task)
        if column.null_count:
            raise ValueError(f"label {task} has {column.null_count} nulls; a label is 0 or 1")
        labels[: order.size, index] = column.to_numpy(zero_copy_only=False)[order]
    return labels
