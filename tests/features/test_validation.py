"""A landed log that somebody spoiled: the day fails with the column's name, or the row is quarantined."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import date, timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.features.worlds import TINY

DAY = date(2026, 1, 1)
Edit = Callable[[pa.Table], pa.Table]


def _spoil(landing: Path, edit: Edit) -> Path:
    (path,) = TINY.open(landing=landing, data_dir=None).log_files(DAY)
    pq.write_table(edit(pq.read_table(path, partitioning=None)), path)
    return path


def _put(name: str, row: int, value: object) -> Edit:
    def edit(log: pa.Table) -> pa.Table:
        place, field = log.schema.get_field_index(name), log.field(name)
        values = log[name].to_pylist()
        values[row] = value
        return log.set_column(place, field.with_nullable(True), pa.array(values, field.type))

    return edit


def _retype(name: str, to: pa.DataType) -> Edit:
    return lambda log: log.set_column(log.schema.get_field_index(name), name, log[name].cast(to))


def _rename(old: str, new: str) -> Edit:
    return lambda log: log.rename_columns([new if name == old else name for name in log.column_names])


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda log: log.drop_columns(["device"]), r"missing \['device'\]"),
        (_rename("hour", "our"), r"missing \['hour'\]; unexpected \['our'\]"),
        (lambda log: log.append_column("extra", log["click"]), r"unexpected \['extra'\]"),
        (_retype("user_id", pa.float64()), "user_id is double, expected int64"),
        (_retype("user_id", pa.uint64()), "user_id is uint64, expected int64"),
        (_retype("ids_000", pa.list_(pa.int32())), "ids_000 is list<.*int32>, expected list<.*int64>"),
        (_retype("dense_001", pa.float64()), "dense_001 is double, expected float"),
        (_retype("click", pa.int64()), "click is int64, expected int8"),
        (_retype("event_time", pa.timestamp("us")), "event_time is timestamp"),
        (lambda log: log.slice(0, 0), "has no rows"),
    ],
    ids=[
        "missing", "renamed", "extra", "ids as floats", "unsigned ids", "narrow lists", "wide dense",
        "wide label", "no time zone", "empty",
    ],
)  # fmt: skip
def test_a_log_not_of_the_schema_fails_the_day(tmp_path: Path, edit: Edit, message: str) -> None:
    path = _spoil(tmp_path, edit)
    with pytest.raises(ValueError, match=message) as raised:
        TINY.open(landing=tmp_path, data_dir=None).read(DAY)
    assert str(path) in str(raised.value)


def _flip(data: bytes) -> bytes:
    return data[:5_000] + bytes([data[5_000] ^ 1]) + data[5_001:]


@pytest.mark.parametrize(
    "harm",
    [lambda data: b"", lambda data: data[: len(data) // 2], lambda data: b"not Parquet", _flip],
    ids=["zero bytes", "cut off", "not Parquet", "one bit"],
)
def test_a_damaged_file_fails_the_day(tmp_path: Path, harm: Callable[[bytes], bytes]) -> None:
    reader = TINY.open(landing=tmp_path, data_dir=None)
    (path,) = reader.log_files(DAY)
    path.write_bytes(harm(path.read_bytes()))
    with pytest.raises(ValueError, match=r"log\.parquet cannot be read as Parquet"):
        reader.read(DAY)


NOON_TOMORROW = pa.scalar(1767355200000000 + 43_200_000_000, pa.timestamp("us", tz="UTC")).as_py()


@pytest.mark.parametrize(
    ("name", "value", "reason"),
    [
        ("user_id", None, "null:user_id"),
        ("user_id", -1, "negative:user_id"),
        ("event_id", None, "null:event_id"),
        ("event_time", None, "null:event_time"),
        ("event_time", NOON_TOMORROW, "wrong_day"),
        ("event_time", NOON_TOMORROW - timedelta(days=5), "wrong_day"),
        ("ids_000", None, "null:ids_000"),
        ("ids_000", [1, None], "null:ids_000"),
        ("ids_001", [4, -2], "negative:ids_001"),
        ("item", [-1], "negative:item"),
        ("dense_001", None, "null:dense_001"),
        ("dense_001", float("nan"), "not_finite:dense_001"),
        ("item_dense_0", float("inf"), "not_finite:item_dense_0"),
        ("click", 2, "label_not_0_or_1:click"),
        ("conversion", -1, "label_not_0_or_1:conversion"),
        ("click", None, "null:click"),
    ],
)
def test_a_bad_row_is_quarantined_with_its_reason(tmp_path: Path, name: str, value: object, reason: str) -> None:
    _spoil(tmp_path, _put(name, 7, value))
    landed = TINY.open(landing=tmp_path, data_dir=None).read(DAY)
    assert landed.accepted.num_rows == TINY.events_per_day - 1
    (row,) = landed.rejected.to_pylist()
    assert (row["file"], row["line"], row["reason"]) == ("log.parquet", 8, reason)
    assert name in json.loads(row["raw"])


def test_a_repeated_row_is_quarantined_and_the_first_stays(tmp_path: Path) -> None:
    _spoil(tmp_path, lambda log: pa.concat_tables([log, log.slice(3, 2)]))
    landed = TINY.open(landing=tmp_path, data_dir=None).read(DAY)
    assert landed.accepted.num_rows == TINY.events_per_day
    assert landed.rejected["reason"].to_pylist() == ["duplicate"] * 2
    assert landed.rejected["line"].to_pylist() == [TINY.events_per_day + 1, TINY.events_per_day + 2]


def test_rows_out_of_order_are_put_in_order(tmp_path: Path) -> None:
    _spoil(tmp_path, lambda log: log.take(pa.array(np.arange(log.num_rows)[::-1])))
    accepted = TINY.open(landing=tmp_path, data_dir=None).read(DAY).accepted
    assert (np.diff(accepted["event_time"].cast(pa.int64()).to_numpy()) >= 0).all()
