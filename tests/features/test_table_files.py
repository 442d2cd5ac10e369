"""Files written before their commit: a day of them is as whole, as checked and as readable as any other."""

from __future__ import annotations

from collections.abc import Callable
from datetime import date, timedelta
from multiprocessing.synchronize import Barrier
from pathlib import Path

import duckdb
import numpy as np
import polars as pl
import pyarrow as pa
import pytest

from features.fingerprint import fingerprint
from features.lake import DamagedTableError, Lake, Partition
from features.storage import table_files
from features.table_files import TableFile, file_metadata, is_written
from infra.settings import get_settings
from tests.forked import FORK_SERVER

TABLE = "vectors/test"
DAY = date(2026, 1, 1)
NEXT = DAY + timedelta(days=1)
LIST = pa.list_(pa.float32())
SCHEMA = pa.schema([pa.field("id", pa.int64(), nullable=False), pa.field("vector", LIST, metadata={b"dim": b"2"})])
VECTOR = "vector.list.element"
OPTIONS = {
    "compression": "zstd",
    "use_dictionary": ["id"],
    "column_encoding": {VECTOR: "BYTE_STREAM_SPLIT"},
}


def _rows(first: int, num_rows: int = 3, schema: pa.Schema = SCHEMA) -> pa.Table:
    ids = np.arange(first, first + num_rows)
    columns = {"id": pa.array(ids), "vector": pa.array(np.stack([ids, -ids], 1).tolist(), LIST)}
    columns |= {name: pa.array(ids, pa.int64()) for name in set(schema.names) - set(columns)}
    return pa.table([columns[name] for name in schema.names], schema=schema)


def _write(lake: Lake, ds: date, name: str, *rows: pa.Table, schema: pa.Schema = SCHEMA) -> str:
    with TableFile(lake.uri(TABLE), ds, name, schema=schema, options=OPTIONS) as file:
        for group in rows:
            file.write(group)
    return name


def _commit(lake: Lake, ds: date, *names: str, key: str = "a", schema: pa.Schema = SCHEMA) -> Partition:
    return lake.commit_files(TABLE, ds, names, schema=schema, fingerprint=fingerprint(key), metadata={"by": key})


def _ids(lake: Lake, partition: Partition) -> list[int]:
    return sorted(Lake(lake.root).read(partition, columns=["id"])["id"].to_pylist())


@pytest.fixture(params=["folder", "object storage"])
def lake(request: pytest.FixtureRequest, tmp_path: Path) -> Lake:
    """Wherever its tables lie."""
    return Lake(tmp_path if request.param == "folder" else request.getfixturevalue("bucket"))


def test_files_are_a_day_from_their_commit_on(lake: Lake) -> None:
    names = [_write(lake, DAY, "a.parquet", _rows(0), _rows(3, 5)), _write(lake, DAY, "b.parquet", _rows(8))]
    assert lake.find(TABLE, DAY) is None
    partition = _commit(lake, DAY, *names)
    assert lake.get(TABLE, DAY) == partition
    assert lake.read(partition).sort_by("id").equals(_rows(0, 11))
    assert [uri.rpartition("/")[2] for uri in lake.files(partition)] == names
    footer = file_metadata(lake.uri(TABLE), DAY, "a.parquet")
    assert footer.schema.to_arrow_schema().names == ["id", "vector"]
    assert footer.num_row_groups == 2
    assert "BYTE_STREAM_SPLIT" in footer.row_group(0).column(1).encodings
    actions = pa.table(lake.open(TABLE).get_add_actions(flatten=True)).to_pylist()
    found = {action["path"]: (action["num_records"], action["min.id"], action["max.id"]) for action in actions}
    assert found == {f"ds={DAY}/a.parquet": (8, 0, 7), f"ds={DAY}/b.parquet": (3, 8, 10)}
    assert lake.open(TABLE).history(1)[0]["usermodel.by"] == "a"
    assert _commit(lake, DAY, "never-looked-at.parquet") == partition, "one commit per fingerprint"


def test_every_reader_reads_both_kinds_of_days(tmp_path: Path) -> None:
    lake = Lake(tmp_path)
    lake.commit(TABLE, DAY, _rows(0), fingerprint=fingerprint("whole"))
    _commit(lake, NEXT, _write(lake, NEXT, "a.parquet", _rows(10)), _write(lake, NEXT, "b.parquet", _rows(13)))
    lake.commit(TABLE, NEXT + timedelta(1), _rows(20), fingerprint=fingerprint("whole"))
    uri, ids = lake.uri(TABLE), [0, 1, 2, *range(10, 16), 20, 21, 22]
    frame = pl.read_delta(uri).sort("id")
    assert frame["id"].to_list() == ids
    assert frame["vector"].to_list() == [[i, -i] for i in ids]
    assert pl.scan_delta(uri).filter(pl.col("ds") == str(NEXT), pl.col("id") > 12).collect()["id"].to_list() == [
        13,
        14,
        15,
    ]
    files = lake.files(lake.get(TABLE, NEXT))
    query = f"select id, vector[2], ds::varchar from read_parquet({files!r}) order by id"  # noqa: S608
    assert duckdb.sql(query).fetchall() == [(i, -i, str(NEXT)) for i in range(10, 16)]
    delta = lake.open(TABLE)
    assert delta is not None
    assert delta.count() == 12
    assert sorted(delta.to_pyarrow_table()["id"].to_pylist()) == ids
    assert delta.schema().fields[1].metadata == {"dim": "2"}


def test_a_day_is_replaced_and_emptied_and_its_old_version_stays_readable(lake: Lake) -> None:
    whole = lake.commit(TABLE, DAY, _rows(0), fingerprint=fingerprint("whole"))
    _commit(lake, NEXT, _write(lake, NEXT, "other.parquet", _rows(90)))
    names = [_write(lake, DAY, f"{n}.parquet", _rows(10 * n)) for n in (1, 2, 3)]
    files = _commit(lake, DAY, *names[:2], key="files")
    kept = _commit(lake, DAY, *names[1:], key="one of them stays")
    none = _commit(lake, DAY, key="nothing")
    back = _commit(lake, DAY, *names[:2], key="again")
    again = lake.commit(TABLE, DAY, _rows(0, 2), fingerprint=fingerprint("whole again"))
    found = [_ids(lake, partition) for partition in (whole, files, kept, none, back, again)]
    assert found == [[0, 1, 2], [10, 11, 12, 20, 21, 22], [20, 21, 22, 30, 31, 32], [], found[1], [0, 1]]
    assert _ids(lake, lake.get(TABLE, NEXT)) == [90, 91, 92]
    for line in (lake.open(TABLE, version=kept.version), lake.open(TABLE, version=back.version)):
        assert line is not None
        assert len(set(line.file_uris())) == len(line.file_uris()) == 3


def _unwritten(lake: Lake) -> tuple[str, pa.Schema]:
    return "nowhere.parquet", SCHEMA


def _without_checksum(lake: Lake) -> tuple[str, pa.Schema]:
    name = _write(lake, DAY, "a.parquet", _rows(0))
    (Path(lake.root) / TABLE / "_checksums" / f"ds={DAY}" / "a.parquet.sha256").unlink()
    return name, SCHEMA


def _of_other_columns(lake: Lake) -> tuple[str, pa.Schema]:
    return _write(lake, DAY, "a.parquet", _rows(0)), SCHEMA.append(pa.field("more", pa.int64()))


def _of_another_type(lake: Lake) -> tuple[str, pa.Schema]:
    _commit(lake, NEXT, _write(lake, NEXT, "a.parquet", _rows(0)))
    schema = pa.schema([pa.field("id", pa.int32(), nullable=False), SCHEMA.field("vector")])
    return _write(lake, DAY, "b.parquet", _rows(0).cast(schema), schema=schema), schema


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        pytest.param(_unwritten, "nowhere.parquet was not written", id="unwritten"),
        pytest.param(_without_checksum, "a.parquet was not written, or has no checksum", id="no checksum"),
        pytest.param(_of_other_columns, "a.parquet has the columns", id="other columns"),
        pytest.param(_of_another_type, "column id is .*long.* in the table and .*integer", id="another type"),
    ],
)
def test_what_cannot_be_committed_is_named(
    tmp_path: Path, damage: Callable[[Lake], tuple[str, pa.Schema]], words: str
) -> None:
    lake = Lake(tmp_path)
    name, schema = damage(lake)
    with pytest.raises(ValueError, match=words):
        _commit(lake, DAY, name, schema=schema)
    assert lake.find(TABLE, DAY) is None


@pytest.mark.parametrize("name", ["../a.parquet", "a", ".a.parquet", "a b.parquet", ""])
def test_a_file_is_named_plainly(tmp_path: Path, name: str) -> None:
    with pytest.raises(ValueError, match="names no file of a table"):
        _write(Lake(tmp_path), DAY, name, _rows(0))
    with pytest.raises(ValueError, match="named twice"):
        _commit(Lake(tmp_path), DAY, "a.parquet", "a.parquet")


def test_a_table_gains_a_column(lake: Lake) -> None:
    _commit(lake, DAY, _write(lake, DAY, "a.parquet", _rows(0)))
    wider = SCHEMA.append(pa.field("more", pa.int64()))
    partition = _commit(lake, NEXT, _write(lake, NEXT, "b.parquet", _rows(5, schema=wider), schema=wider), schema=wider)
    assert lake.read(partition)["more"].to_pylist() == [5, 6, 7]
    assert lake.read(lake.get(TABLE, DAY))["more"].to_pylist() == [None] * 3


def _fail(lake: Lake) -> None:
    with TableFile(lake.uri(TABLE), DAY, "a.parquet", schema=SCHEMA, options=OPTIONS) as file:
        file.write(_rows(0))
        raise RuntimeError("no more")


def test_a_writer_that_fails_leaves_nothing(lake: Lake) -> None:
    with pytest.raises(RuntimeError, match="no more"):
        _fail(lake)
    assert not is_written(lake.uri(TABLE), DAY, "a.parquet")
    assert list(table_files(lake.uri(TABLE)).list("")) == []
    assert [path for path in get_settings().home.rglob("cache/**/*") if path.is_file()] == []


@pytest.mark.parametrize("place", [0.1, 0.5, 0.99])
def test_a_flipped_bit_is_found(tmp_path: Path, place: float) -> None:
    lake = Lake(tmp_path)
    partition = _commit(lake, DAY, _write(lake, DAY, "a.parquet", _rows(0, 500)))
    path = tmp_path / TABLE / f"ds={DAY}/a.parquet"
    content = bytearray(path.read_bytes())
    content[int(place * len(content))] ^= 4
    path.write_bytes(content)
    with pytest.raises(DamagedTableError, match=r"a\.parquet"):
        lake.read(partition)


def _race(root: Path, ds: date, first: int, key: str, barrier: Barrier) -> None:
    lake = Lake(root)
    name = _write(lake, ds, f"{key}-{first}.parquet", _rows(first, 100))
    barrier.wait()
    _commit(lake, ds, name, key=key)


def _race_whole(root: Path, ds: date, first: int, key: str, barrier: Barrier) -> None:
    barrier.wait()
    Lake(root).commit(TABLE, ds, _rows(first, 100), fingerprint=fingerprint(key))


@pytest.mark.parametrize("exists", [False, True], ids=["new table", "day exists"])
def test_whoever_else_commits_every_day_is_one_writers(tmp_path: Path, exists: bool) -> None:
    """Two writers of one content, one of another by `commit`, one of another day, at the same time."""
    lake = Lake(tmp_path)
    if exists:
        _commit(lake, DAY, _write(lake, DAY, "old.parquet", _rows(7000)), key="old")
    arguments = [(DAY, 0, "same"), (DAY, 0, "same"), (DAY, 300, "whole"), (NEXT, 600, "next")]
    barrier = FORK_SERVER.Barrier(len(arguments))
    workers = [
        FORK_SERVER.Process(target=_race_whole if key == "whole" else _race, args=(tmp_path, ds, first, key, barrier))
        for ds, first, key in arguments
    ]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(120)
    assert [worker.exitcode for worker in workers] == [0] * len(workers)
    assert _ids(lake, lake.get(TABLE, NEXT)) == list(range(600, 700))
    (first, *_) = ids = _ids(lake, lake.get(TABLE, DAY))
    assert ids == list(range(first, first + 100))
    assert first in {0, 300}
