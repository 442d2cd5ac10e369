"""The lake's promises: whole partitions, once per content, in order, whoever else is writing."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import date, timedelta
from multiprocessing.synchronize import Barrier
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.fs as pafs
import pytest

from features.fingerprint import fingerprint
from features.lake import DamagedTableError, Lake, MissingPartitionError
from tests.forked import FORK_SERVER

TABLE = "examples/test"
DAY = date(2026, 1, 1)
NEXT = DAY + timedelta(days=1)


@pytest.fixture(params=["folder", "object storage"])
def lake(request: pytest.FixtureRequest, tmp_path: Path) -> Lake:
    """Wherever its tables lie."""
    return Lake(tmp_path if request.param == "folder" else request.getfixturevalue("bucket"))


def _rows(first: int, num_rows: int = 3) -> pa.Table:
    return pa.table({"value": pa.array(np.arange(first, first + num_rows))})


def _values(lake: Lake, ds: date) -> list[int]:
    values: list[int] = lake.read(lake.get(TABLE, ds))["value"].to_pylist()
    return values


def test_a_committed_day_is_read_back_without_ds(lake: Lake) -> None:
    partition = lake.commit(TABLE, DAY, _rows(0), fingerprint=fingerprint("a"))
    assert lake.find(TABLE, DAY) == partition
    assert partition.fingerprint == fingerprint("a")[:15]
    assert lake.read(partition).column_names == ["value"]
    assert _values(lake, DAY) == [0, 1, 2]
    assert lake.days(TABLE) == [DAY]
    assert len(lake.files(partition)) == 1


def test_a_local_day_is_read_without_python_in_arrows_threads(tmp_path: Path) -> None:
    # A file that needs the interpreter when Arrow lets go of it aborted one of five processes as they ended.
    lake = Lake(tmp_path)
    dataset = lake.dataset(lake.commit(TABLE, DAY, _rows(0), fingerprint=fingerprint("a")))
    assert isinstance(dataset.filesystem, pafs.SubTreeFileSystem)
    assert isinstance(dataset.filesystem.base_fs, pafs.LocalFileSystem)


def test_a_missing_day_is_named(lake: Lake) -> None:
    assert lake.find(TABLE, DAY) is None
    assert lake.days(TABLE) == []
    with pytest.raises(MissingPartitionError, match=f"{TABLE} has no partition ds={DAY}"):
        lake.get(TABLE, DAY)


def test_the_same_fingerprint_commits_once(lake: Lake) -> None:
    first = lake.commit(TABLE, DAY, _rows(0), fingerprint=fingerprint("a"))
    again = lake.commit(TABLE, DAY, _rows(100), fingerprint=fingerprint("a"))
    assert again == first
    assert _values(lake, DAY) == [0, 1, 2]


def test_another_fingerprint_replaces_the_day_and_only_the_day(lake: Lake) -> None:
    old = lake.commit(TABLE, DAY, _rows(0), fingerprint=fingerprint("a"))
    lake.commit(TABLE, NEXT, _rows(10), fingerprint=fingerprint("b"))
    lake.commit(TABLE, DAY, _rows(20, 2), fingerprint=fingerprint("c"))
    assert _values(lake, DAY) == [20, 21]
    assert _values(lake, NEXT) == [10, 11, 12]
    assert lake.read(old)["value"].to_pylist() == [0, 1, 2], "an old version stays readable"
    assert lake.days(TABLE) == [DAY, NEXT]


def test_a_version_stays_readable_when_its_commit_is_older_than_a_checkpoint(lake: Lake) -> None:
    """By default delta-rs deletes commits of 30 days ago once a checkpoint is written."""
    first = lake.commit(TABLE, DAY, _rows(0), fingerprint=fingerprint("a"))
    delta = lake.open(TABLE)
    assert delta is not None
    assert delta.metadata().configuration["delta.enableExpiredLogCleanup"] == "false"
    lake.commit(TABLE, DAY, _rows(5), fingerprint=fingerprint("b"))
    delta.update_incremental()
    delta.create_checkpoint()
    assert Lake(lake.root).read(first)["value"].to_pylist() == [0, 1, 2]
    assert _values(Lake(lake.root), DAY) == [5, 6, 7]


def test_a_feature_may_come_and_go(lake: Lake) -> None:
    first = lake.commit(TABLE, DAY, _rows(0), fingerprint=fingerprint("a"))
    more = _rows(10).append_column("speed", pa.array([1.0, 2.0, 3.0]))
    second = lake.commit(TABLE, NEXT, more, fingerprint=fingerprint("b"))
    third = lake.commit(TABLE, NEXT + timedelta(1), more.drop_columns(["value"]), fingerprint=fingerprint("c"))
    assert lake.read(first).to_pydict() == {"value": [0, 1, 2]}
    assert lake.read(second).to_pydict() == {"value": [10, 11, 12], "speed": [1.0, 2.0, 3.0]}
    assert lake.read(third).to_pydict() == {"value": [None] * 3, "speed": [1.0, 2.0, 3.0]}
    assert lake.read(lake.get(TABLE, DAY))["speed"].to_pylist() == [None] * 3
    assert lake.find_all(TABLE, [DAY, NEXT, DAY - timedelta(1)]).keys() == {DAY, NEXT}
    with pytest.raises(Exception, match=r"(?i)cast"):
        lake.commit(TABLE, DAY, pa.table({"value": [["a list"]]}), fingerprint=fingerprint("d"))


def test_a_day_without_rows_is_committed(lake: Lake) -> None:
    partition = lake.commit(TABLE, DAY, _rows(0, 0), fingerprint=fingerprint("a"))
    assert lake.get(TABLE, DAY) == partition
    assert lake.dataset(partition).count_rows() == 0
    lake.commit(TABLE, DAY, _rows(5), fingerprint=fingerprint("b"))
    lake.commit(TABLE, DAY, _rows(0, 0), fingerprint=fingerprint("c"))
    assert lake.read(lake.get(TABLE, DAY)).num_rows == 0


@pytest.mark.parametrize("batch_rows", [1_000, 65_536], ids=["small batches", "a row group a batch"])
def test_rows_stay_in_the_order_they_were_given(tmp_path: Path, batch_rows: int) -> None:
    lake = Lake(tmp_path)
    for day in (DAY, NEXT):  # the first commit makes the table, the second overwrites by predicate
        rows = _rows(0, 400_000)
        reader = pa.RecordBatchReader.from_batches(rows.schema, rows.to_batches(max_chunksize=batch_rows))
        lake.commit(TABLE, day, reader, fingerprint=fingerprint(day))
        values = lake.read(lake.get(TABLE, day))["value"].to_numpy()
        assert (values == np.arange(400_000)).all()


def _write(root: Path, ds: date, first: int, key: str, barrier: Barrier) -> None:
    barrier.wait()
    Lake(root).commit(TABLE, ds, _rows(first, 1000), fingerprint=key)


def _together(*arguments: tuple[Path, date, int, str]) -> list[int | None]:
    barrier = FORK_SERVER.Barrier(len(arguments))
    workers = [FORK_SERVER.Process(target=_write, args=(*given, barrier)) for given in arguments]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
    return [worker.exitcode for worker in workers]


@pytest.mark.parametrize("exists", [False, True], ids=["new table", "table exists"])
@pytest.mark.parametrize("attempt", range(3))
def test_two_writers_of_the_same_content_leave_it_once(tmp_path: Path, exists: bool, attempt: int) -> None:
    lake = Lake(tmp_path)
    if exists:
        lake.commit(TABLE, NEXT, _rows(7), fingerprint=fingerprint("other"))
    key = fingerprint("same", attempt)
    assert _together((tmp_path, DAY, 0, key), (tmp_path, DAY, 0, key)) == [0, 0]
    assert _values(lake, DAY) == list(range(1000))
    if exists:
        assert _values(lake, NEXT) == [7, 8, 9]


@pytest.mark.parametrize("exists", [False, True], ids=["new table", "table exists"])
@pytest.mark.parametrize("attempt", range(3))
def test_two_writers_of_two_days_both_land(tmp_path: Path, exists: bool, attempt: int) -> None:
    lake = Lake(tmp_path)
    if exists:
        lake.commit(TABLE, NEXT + timedelta(days=1), _rows(7), fingerprint=fingerprint("other"))
    keys = fingerprint("left", attempt), fingerprint("right", attempt)
    assert _together((tmp_path, DAY, 0, keys[0]), (tmp_path, NEXT, 5000, keys[1])) == [0, 0]
    assert _values(lake, DAY) == list(range(1000))
    assert _values(lake, NEXT) == list(range(5000, 6000))


def _broken() -> Iterator[pa.RecordBatch]:
    yield from _rows(0).to_batches()
    raise RuntimeError("the source broke")


@pytest.mark.parametrize("exists", [False, True], ids=["new table", "table exists"])
def test_a_stream_that_breaks_commits_nothing(lake: Lake, exists: bool) -> None:
    if exists:
        lake.commit(TABLE, DAY, _rows(0), fingerprint=fingerprint("old"))
    before = lake.find(TABLE, DAY)
    reader = pa.RecordBatchReader.from_batches(_rows(0).schema, _broken())
    with pytest.raises(Exception, match="the source broke"):
        lake.commit(TABLE, DAY, reader, fingerprint=fingerprint("new"))
    assert lake.find(TABLE, DAY) == before


def test_files_without_a_checksum_are_read_and_get_one_from_the_next_run(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    Lake(tmp_path).commit(TABLE, DAY, _rows(0), fingerprint=fingerprint("a"))
    (checksum,) = (tmp_path / TABLE / "_checksums").rglob("*.sha256")
    checksum.unlink()
    assert _values(Lake(tmp_path), DAY) == [0, 1, 2]
    assert "has no checksum" in caplog.text
    Lake(tmp_path).commit(TABLE, DAY, _rows(0), fingerprint=fingerprint("a"))
    checksum.write_text("0" * 64)
    with pytest.raises(DamagedTableError, match=r"part-.*\.parquet'\] are not what was written"):
        _values(Lake(tmp_path), DAY)
