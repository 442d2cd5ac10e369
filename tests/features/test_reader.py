from __future__ import annotations

import threading
from dataclasses import replace
from datetime import date, timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from deltalake import WriterProperties

from features import reader
from features.batches import Batch, Encoder
from features.lake import Lake, Partition
from features.reader import DayReader
from features.schema import DenseFeature, Schema, SparseFeature, Table

DAY = date(2026, 1, 1)
SCHEMA = Schema(
    tables=(Table(name="t", num_rows=50),),
    sparse=(SparseFeature(name="ids", table="t"),),
    dense=(DenseFeature(name="row"),),
    tasks=("click",),
)
ENCODER = Encoder(SCHEMA, tasks=("click",))


def commit(lake: Lake, num_rows: int, *, rows_per_group: int = 100, row: pa.Array | None = None) -> Partition:
    """`row` numbers the rows from 0."""
    layout = pa.schema(
        [("ids", pa.list_(pa.int64())), ("row", pa.float32()), ("click", pa.int8()), ("unread", pa.string())]
    )
    table = pa.table(
        [
            pa.array([[i] * (i % 3) for i in range(num_rows)], pa.list_(pa.int64())),
            row if row is not None else pa.array(np.arange(num_rows), pa.float32()),
            pa.array(np.arange(num_rows) % 2, pa.int8()),
            pa.array(["x"] * num_rows, pa.string()),
        ],
        schema=layout,
    )
    writer = WriterProperties(max_row_group_size=rows_per_group)
    return lake.commit("examples/rows", DAY, table, fingerprint="ab" * 8, writer=writer)


def numbers(batch: Batch) -> list[int]:
    return batch.user_dense[batch.weights > 0, 0].long().tolist()


@pytest.mark.parametrize("world_size", [1, 2, 3, 4])
@pytest.mark.parametrize(
    ("num_rows", "batch_size", "window"),
    [
        pytest.param(1000, 32, 64, id="many-windows"),
        pytest.param(1000, 32, 65_536, id="one-window"),
        pytest.param(256, 32, 96, id="full-batches"),
        pytest.param(5, 4, 64, id="less-than-a-batch-each"),
        pytest.param(2, 4, 64, id="fewer-rows-than-ranks"),
    ],
)
def test_every_example_is_read_once_and_every_rank_works_equally(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    world_size: int,
    num_rows: int,
    batch_size: int,
    window: int,
) -> None:
    monkeypatch.setattr(reader, "WINDOW_ROWS", window)
    lake = Lake(tmp_path)
    partition = commit(lake, num_rows)
    seen: list[int] = []
    per_step: dict[int, int] = {}
    said: dict[int, float] = {}
    for rank in range(world_size):
        day = DayReader(lake, partition, ENCODER, batch_size=batch_size, rank=rank, world_size=world_size)
        batches = list(day)
        assert day.num_rows == num_rows
        assert len(batches) == day.num_batches == -(-num_rows // (world_size * batch_size))
        for step, batch in enumerate(batches):
            assert batch.weights.shape == (batch_size,)
            padding = batch.user_sparse["ids"].lengths()[batch.weights == 0]
            assert not padding.any()
            assert not batch.user_dense[batch.weights == 0].any()
            per_step[step] = per_step.get(step, 0) + int(batch.weights.sum())
            said[step] = batch.num_examples.item() * world_size
            seen += numbers(batch)
    assert sorted(seen) == list(range(num_rows))
    assert said == pytest.approx(per_step)
    if num_rows == 1000:
        assert seen != sorted(seen)


def test_the_order_follows_from_seed_and_day(tmp_path: Path) -> None:
    lake = Lake(tmp_path)
    partition = commit(lake, 500)
    other_day = lake.commit("examples/rows", DAY + timedelta(1), lake.read(partition), fingerprint="cd" * 8)

    def order(day: Partition, seed: int) -> list[list[int]]:
        return [numbers(batch) for batch in DayReader(lake, day, ENCODER, batch_size=64, seed=seed)]

    first = order(partition, 1)
    assert first == order(partition, 1)
    assert first != order(partition, 2)
    assert first != order(other_day, 1)


def test_features_and_labels_of_a_row_stay_together(tmp_path: Path) -> None:
    lake = Lake(tmp_path)
    for batch in DayReader(lake, commit(lake, 300), ENCODER, batch_size=64, rank=1, world_size=2):
        real = batch.weights > 0
        rows = batch.user_dense[real, 0].long()
        assert torch.equal(batch.user_sparse["ids"].lengths()[real].long(), rows % 3)
        assert torch.equal(batch.labels[real, 0].long(), rows % 2)


def test_an_empty_partition_is_refused(tmp_path: Path) -> None:
    lake = Lake(tmp_path)
    with pytest.raises(ValueError, match="examples/rows ds=2026-01-01 has no rows"):
        DayReader(lake, commit(lake, 0), ENCODER, batch_size=8)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        pytest.param({"rank": 2, "world_size": 2, "batch_size": 8}, "rank 2 is not one of 2", id="rank"),
        pytest.param({"batch_size": 0}, "batch_size is 0", id="batch-size"),
    ],
)
def test_wrong_arguments_are_refused(tmp_path: Path, options: dict[str, int], message: str) -> None:
    lake = Lake(tmp_path)
    with pytest.raises(ValueError, match=message):
        DayReader(lake, commit(lake, 10), ENCODER, **options)


def readers() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "day-reader"]


def test_an_error_of_the_background_thread_reaches_the_loop(tmp_path: Path) -> None:
    lake = Lake(tmp_path)
    values = np.arange(300, dtype=np.float32)
    values[123] = np.nan
    day = DayReader(lake, commit(lake, 300, row=pa.array(values)), ENCODER, batch_size=16)
    with pytest.raises(ValueError, match=r"examples/rows ds=2026-01-01 batch \d+: column row has the value nan"):
        list(day)
    assert not readers()


def test_stopping_early_stops_the_thread(tmp_path: Path) -> None:
    lake = Lake(tmp_path)
    batches = iter(DayReader(lake, commit(lake, 5000), ENCODER, batch_size=16))
    next(batches)
    batches.close()
    assert not readers()


@pytest.mark.parametrize(("rank", "world_size", "num_rows"), [(0, 1, 1000), (1, 2, 999), (2, 3, 2)])
def test_a_day_goes_on_from_any_batch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rank: int, world_size: int, num_rows: int
) -> None:
    monkeypatch.setattr(reader, "WINDOW_ROWS", 96)
    lake = Lake(str(tmp_path))
    day = DayReader(lake, commit(lake, num_rows), ENCODER, batch_size=32, rank=rank, world_size=world_size)
    whole = list(day)
    assert len(whole) == day.num_batches
    for position in range(day.num_batches + 1):
        rest = list(day.read_from(position))
        assert len(rest) == day.num_batches - position
        for found, expected in zip(rest, whole[position:], strict=True):
            assert torch.equal(found.user_dense, expected.user_dense)
            assert torch.equal(found.weights, expected.weights)
            assert torch.equal(found.num_examples, expected.num_examples)


def test_what_was_read_before_is_not_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reader, "WINDOW_ROWS", 96)
    lake = Lake(str(tmp_path))
    day = DayReader(lake, commit(lake, 960), ENCODER, batch_size=32)
    windows: list[tuple[int, int]] = []
    read = reader.Windows.read

    def counted(self: reader.Windows, start: int, stop: int) -> pa.Table:
        windows.append((start, stop))
        return read(self, start, stop)

    monkeypatch.setattr(reader.Windows, "read", counted)
    assert len(list(day.read_from(28))) == 2
    assert windows == [(864, 960)]


@pytest.mark.parametrize("optional", [False, True])
def test_a_day_built_before_a_feature_was_is_not_learnt_from_in_silence(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, optional: bool
) -> None:
    lake = Lake(str(tmp_path))
    old = commit(lake, 50)
    newer = lake.read(old).append_column("speed", pa.array([1.0] * 50, pa.float32()))
    lake.commit(old.table, DAY + timedelta(days=1), newer, fingerprint="b" * 20)
    partition = lake.get(old.table, old.ds)  # the table has the column now; this day reads null
    schema = replace(SCHEMA, dense=(*SCHEMA.dense, DenseFeature(name="speed", optional=optional)))
    encoder = Encoder(schema, tasks=("click",))
    if not optional:
        with pytest.raises(ValueError, match=rf"{old.ds} was built without the columns \['speed'\].*mark the features"):
            DayReader(lake, partition, encoder, batch_size=32)
        return
    assert all(not batch.user_dense[:, -1].any() for batch in DayReader(lake, partition, encoder, batch_size=32))
    assert "lacks the optional columns ['speed']" in caplog.text


def test_a_day_built_again_without_a_feature_is_not_learnt_from_in_silence(tmp_path: Path) -> None:
    """delta-rs writes the table's column, with nulls; one null among values is none of that."""
    lake = Lake(str(tmp_path))
    old = commit(lake, 50)
    rows = lake.read(old)
    age = pa.array([None, *rows["row"].to_pylist()[1:]], pa.float32())
    place = rows.schema.get_field_index("row")
    lake.commit(old.table, DAY, rows.set_column(place, "row", age), fingerprint="b" * 20)
    encoder = Encoder(SCHEMA, tasks=("click",))
    assert DayReader(lake, lake.get(old.table, DAY), encoder, batch_size=32).num_rows == 50
    lake.commit(old.table, DAY, rows.drop_columns(["row"]), fingerprint="c" * 20)
    with pytest.raises(ValueError, match=r"was built without the columns \['row'\]"):
        DayReader(lake, lake.get(old.table, DAY), encoder, batch_size=32)
