"""The packed layout of wide schemas: three list columns per side instead of one column per feature.

A side of `schema.PACKED_FROM` features or more is stored as `<side>_packed_ids` (the ids of all its lists, one list
after the other), `<side>_packed_lengths` (how many ids each list has) and `<side>_packed_dense` (its dense values).
The order of the features is written beside each column, as the metadata `features` of its field: a reader finds a
feature by name, never by its place in a schema. A null list becomes an empty one; dense nulls stay.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from features.columns import IdLists, column_of, concatenated
from features.schema import SIDES, DenseFeature, Schema, Side, SparseFeature, packed_columns

IDS = pa.list_(pa.int64())
LENGTHS = pa.list_(pa.int32())
VALUES = pa.list_(pa.float32())
_FEATURES = b"features"


def feature_fields(
    schema: Schema, sparse: tuple[SparseFeature, ...], dense: tuple[DenseFeature, ...], *, pack: bool
) -> list[pa.Field]:
    """The columns of these features: one per feature, or packed where `pack` and the schema say so."""
    packed = [side for side in SIDES if pack and schema.is_packed(side)]
    fields = [pa.field(f.name, IDS) for f in sparse if f.side not in packed]
    fields += [pa.field(f.name, pa.float32()) for f in dense if f.side not in packed]
    for side in packed:
        fields += packed_fields(
            side,
            sparse=[f.name for f in sparse if f.side == side],
            dense=[f.name for f in dense if f.side == side],
        )
    return fields


def packed_fields(side: Side, *, sparse: list[str], dense: list[str]) -> list[pa.Field]:
    """The columns of a packed side: ids and lengths where it has lists, values where it has any."""
    ids, lengths, values = packed_columns(side)
    fields = [_packed_field(ids, IDS, sparse), _packed_field(lengths, LENGTHS, sparse)] if sparse else []
    return [*fields, _packed_field(values, VALUES, dense)] if dense else fields


def _packed_field(name: str, kind: pa.DataType, features: list[str]) -> pa.Field:
    return pa.field(name, kind, nullable=False, metadata={_FEATURES: ",".join(features).encode()})


def packed_features(field: pa.Field) -> list[str]:
    """The features of a packed column, in the order in which every row holds them."""
    metadata = field.metadata or {}
    if _FEATURES not in metadata:
        raise ValueError(
            f"column {field.name} does not say which features it holds (metadata `features` of its field); "
            "read the table through `features.lake`, or build the day again"
        )
    names: str = metadata[_FEATURES].decode()
    return names.split(",")


def pack(rows: pa.RecordBatch | pa.Table, layout: pa.Schema) -> pa.RecordBatch:
    """Rows with a column per feature, in `layout` (of `features.arrow`); the columns of both are passed on.

    ValueError names a column with a null inside a list.
    """
    columns: dict[str, pa.Array] = {}
    for field in layout:
        if field.name in rows.schema.names:
            columns[field.name] = column_of(rows, field.name)
        elif field.type == IDS:
            columns |= _packed_lists(rows, field.name, layout)
        elif field.type == VALUES:
            columns[field.name] = _packed_values(rows, packed_features(field))
    return pa.RecordBatch.from_arrays([columns[field.name] for field in layout], schema=layout)


def _packed_lists(rows: pa.RecordBatch | pa.Table, column: str, layout: pa.Schema) -> dict[str, pa.Array]:
    ids_name, lengths_name, _ = next(names for side in SIDES if column in (names := packed_columns(side)))
    features = packed_features(layout.field(column))
    num_rows = rows.num_rows
    lists = concatenated([IdLists.of_column(column_of(rows, name), name) for name in features])
    by_row = np.arange(len(features) * num_rows, dtype=np.int64).reshape(len(features), num_rows).T.reshape(-1)
    ids, starts = lists.take(lists.places(by_row))
    return {
        ids_name: _lists(starts[:: len(features)], pa.array(ids)),
        lengths_name: _lists(np.arange(num_rows + 1) * len(features), pa.array(np.diff(starts).astype(np.int32))),
    }


def _packed_values(rows: pa.RecordBatch | pa.Table, features: list[str]) -> pa.Array:
    num_rows = rows.num_rows
    columns = pa.concat_arrays([column_of(rows, name) for name in features])
    by_row = np.arange(len(features) * num_rows).reshape(len(features), num_rows).T.reshape(-1)
    return _lists(np.arange(num_rows + 1) * len(features), columns.take(pa.array(by_row)))


def _lists(offsets: npt.NDArray[np.int64], values: pa.Array) -> pa.Array:
    return pa.ListArray.from_arrays(pa.array(offsets.astype(np.int32)), values)


def unpack(table: pa.Table) -> pa.Table:
    """The table with a column per feature, packed or not: for people, and for code that wants names."""
    for side in SIDES:
        ids_name, lengths_name, values_name = packed_columns(side)
        if ids_name in table.schema.names:
            for name, lists in packed_lists(table, side).items():
                ids, starts = lists.take(lists.places(np.arange(table.num_rows)))
                table = table.append_column(pa.field(name, IDS), _lists(starts, pa.array(ids)))
            table = table.drop_columns([ids_name, lengths_name])
        if values_name in table.schema.names:
            names = packed_features(table.schema.field(values_name))
            values = _flat(column_of(table, values_name), values_name, num_features=len(names))
            for index, name in enumerate(names):
                places = np.arange(index, len(values), len(names))
                table = table.append_column(pa.field(name, pa.float32()), values.take(pa.array(places)))
            table = table.drop_columns([values_name])
    return table


def packed_lists(rows: pa.RecordBatch | pa.Table, side: Side) -> dict[str, IdLists]:
    """The side's id lists by feature. ValueError names a feature with a null id, or columns that disagree."""
    ids_name, lengths_name, _ = packed_columns(side)
    features = packed_features(rows.schema.field(ids_name))
    ids = column_of(rows, ids_name)
    lengths: npt.NDArray[np.int32] = _flat(
        column_of(rows, lengths_name), lengths_name, num_features=len(features)
    ).to_numpy()
    starts = ids.offsets.to_numpy().astype(np.int64) if len(ids) else np.zeros(1, dtype=np.int64)
    offsets = np.full(lengths.size + 1, starts[0])
    np.add(np.cumsum(lengths, dtype=np.int64), starts[0], out=offsets[1:])
    if ids.null_count or not np.array_equal(offsets[:: len(features)], starts):
        raise ValueError(f"column {ids_name} does not hold what {lengths_name} says; build the day again")
    blobs = IdLists.of_offsets(ids.values, offsets, names=features)
    return {name: IdLists(blobs=blobs.blobs, first=i, stride=len(features)) for i, name in enumerate(features)}


def packed_matrix(rows: pa.RecordBatch | pa.Table, side: Side, names: list[str]) -> npt.NDArray[np.float32]:
    """[rows, names] float32: the side's dense values as they are stored, nulls as 0."""
    column = packed_columns(side)[2]
    features = packed_features(rows.schema.field(column))
    places = {name: place for place, name in enumerate(features)}
    missing = [name for name in names if name not in places]
    if missing:
        raise ValueError(f"column {column} lacks the features {missing}; it holds {features}")
    values = _flat(column_of(rows, column), column, num_features=len(features))
    filled = values.fill_null(0) if values.null_count else values
    matrix: npt.NDArray[np.float32] = filled.to_numpy().reshape(rows.num_rows, len(features))
    return matrix if names == features else matrix[:, [places[name] for name in names]]


def _flat(column: pa.Array, name: str, *, num_features: int) -> pa.Array:
    values = column.flatten()
    if column.null_count or len(values) != num_features * len(column):
        raise ValueError(f"column {name} does not hold {num_features} values in every row; build the day again")
    return values
