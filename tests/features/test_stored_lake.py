"""A lake in object storage: what it costs in requests, what goes wrong, and that nothing is lost by it."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import duckdb
import numpy as np
import polars as pl
import pyarrow as pa
import pytest

from features.fingerprint import fingerprint
from features.lake import DamagedTableError, Lake
from features.object_store import access_options, object_store
from features.storage import table_files
from features.storage_errors import StorageError
from features.sweep import sweep
from features.table_files import TableFile
from features.unfinished_uploads import unfinished_uploads
from infra.settings import get_settings
from tests.object_store import Fault, ObjectServer, impatient

TABLE, DAY = "examples/test", date(2026, 1, 1)
OLD, NEW = fingerprint("old"), fingerprint("new")
FOREVER = 10_000


def rows(first: int, num_rows: int = 3) -> pa.Table:
    return pa.table({"value": pa.array(np.arange(first, first + num_rows))})


def values(bucket: str) -> list[int]:
    lake = Lake(bucket)
    found: list[int] = lake.read(lake.get(TABLE, DAY))["value"].to_pylist()
    return found


def commits(bucket: str) -> list[str]:
    """Fingerprints, in their order."""
    delta = Lake(bucket).open(TABLE)
    assert delta is not None
    found = [commit["usermodel.fingerprint"] for commit in delta.history() if "usermodel.fingerprint" in commit]
    return found[::-1]


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        pytest.param(Fault(status=503), "it is overloaded; run the step again later", id="overloaded"),
        pytest.param(Fault(status=500, code="InternalError"), "it fails within", id="broken"),
        pytest.param(Fault(status=403, code="AccessDenied"), "the keys may not do this; allow them", id="denied"),
        pytest.param(Fault(status=403, code="ExpiredToken"), "does not know the keys", id="expired"),
        pytest.param(Fault(status=403, code="RequestTimeTooSkewed"), "this machine's clock", id="clock"),
        pytest.param(Fault(delay_seconds=6), "it does not answer; see whether the server", id="silent"),
        pytest.param(Fault(cut=True), "it does not answer; see whether the server", id="cut-off"),
    ],
)
@pytest.mark.parametrize("at", ["GET", "PUT"])
def test_what_the_storage_refuses_is_named_and_the_day_is_as_it_was(
    bucket: str, object_storage: ObjectServer, fault: Fault, at: str, words: str
) -> None:
    Lake(bucket).commit(TABLE, DAY, rows(0), fingerprint=OLD)
    object_storage.fail(Fault(**(vars(fault) | {"method": at, "times": FOREVER, "path": r"\.json$|\.parquet$"})))
    with impatient(), pytest.raises(StorageError, match=words) as caught:
        Lake(bucket).commit(TABLE, DAY, rows(10), fingerprint=NEW)
    assert "AKID" not in str(caught.value)
    object_storage.fail()
    if fault.cut and at == "PUT":
        assert values(bucket) in ([0, 1, 2], [10, 11, 12])
    else:
        assert values(bucket) == [0, 1, 2]
    Lake(bucket).commit(TABLE, DAY, rows(10), fingerprint=NEW)
    assert (values(bucket), commits(bucket)) == ([10, 11, 12], [OLD[:15], NEW[:15]])


def test_a_wrong_bucket_and_wrong_keys_are_named(
    monkeypatch: pytest.MonkeyPatch, bucket: str, object_storage: ObjectServer
) -> None:
    """And no reader takes them for a table without days."""
    Lake(bucket).commit(TABLE, DAY, rows(0), fingerprint=OLD)
    with pytest.raises(StorageError, match=r"s3://no-bucket/a/.*: there is no such bucket; make it"):
        Lake("s3://no-bucket/a").find(TABLE, DAY)
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "another")
        with pytest.raises(StorageError, match="does not know the keys"):
            Lake(bucket).find(TABLE, DAY)
        object_storage.use(monkeypatch)
    assert values(bucket) == [0, 1, 2]


@pytest.mark.parametrize("kind", ["refused", "answer lost"])
def test_a_fault_that_passes_costs_nothing(bucket: str, object_storage: ObjectServer, kind: str) -> None:
    """Of every seventh request of a commit (of each: `infra/faults answers-lost`). One whose answer was lost may have
    been done: no day is committed twice, and whoever is told of an error finds the day done, or does it."""
    Lake(bucket).commit(TABLE, DAY, rows(0), fingerprint=OLD)
    object_storage.requests()
    Lake(bucket).commit(TABLE, DAY, rows(1), fingerprint=fingerprint(0))
    requests = object_storage.requests()
    chosen = range(1, len(requests), 7)
    for number in chosen:
        key = fingerprint(number)
        object_storage.fail(Fault(skip=number, cut=kind == "answer lost", status=0 if kind == "answer lost" else 503))
        try:
            Lake(bucket).commit(TABLE, DAY, rows(number), fingerprint=key)
        except StorageError:
            assert kind == "answer lost", f"request {number}, {requests[number]}, was not asked for again"
            Lake(bucket).commit(TABLE, DAY, rows(number), fingerprint=key)
        assert (values(bucket)[0], commits(bucket)[-1]) == (number, key[:15])
    found = commits(bucket)
    assert len(found) == len(set(found)) == 2 + len(chosen)


@pytest.mark.parametrize("exists", [False, True], ids=["new table", "table exists"])
def test_whoever_else_commits_every_day_is_one_writers(bucket: str, exists: bool) -> None:
    """Two writers of one content, one of another, two of other days, at the same time, each with connections of its
    own: threads here, processes in `infra/faults`."""
    if exists:
        Lake(bucket).commit(TABLE, DAY, rows(7000), fingerprint=OLD)
    given = [(0, 0, "same"), (0, 0, "same"), (0, 300, "other"), (1, 600, "next"), (2, 900, "after")]
    barrier = threading.Barrier(len(given))

    def write(day: int, first: int, key: str) -> None:
        barrier.wait(60)
        Lake(bucket).commit(TABLE, DAY + timedelta(day), rows(first, 100), fingerprint=fingerprint(key))

    with ThreadPoolExecutor(len(given)) as pool:
        list(pool.map(write, *zip(*given, strict=True)))
    lake = Lake(bucket)
    for day, first in ((1, 600), (2, 900)):
        found = lake.read(lake.get(TABLE, DAY + timedelta(day)))["value"].to_pylist()
        assert found == list(range(first, first + 100))
    first, *_ = found = values(bucket)
    assert found == list(range(first, first + 100))
    assert first in {0, 300}


def test_a_server_that_stops_and_goes_on_is_waited_for(bucket: str, object_storage: ObjectServer) -> None:
    Lake(bucket).commit(TABLE, DAY, rows(0), fingerprint=OLD)
    with object_storage.paused(), impatient(), pytest.raises(StorageError, match="it does not answer"):
        Lake(bucket).commit(TABLE, DAY, rows(10), fingerprint=NEW)
    Lake(bucket).commit(TABLE, DAY, rows(10), fingerprint=NEW)
    assert values(bucket) == [10, 11, 12]


def test_a_second_machine_has_the_day_and_fetches_it_once(
    monkeypatch: pytest.MonkeyPatch, bucket: str, object_storage: ObjectServer, tmp_path: Path
) -> None:
    Lake(bucket).commit(TABLE, DAY, rows(0), fingerprint=OLD)
    monkeypatch.setenv("USERMODEL_HOME", str(tmp_path / "second"))
    get_settings.cache_clear()
    fetched = []
    for _ in range(2):
        object_storage.requests()
        assert values(bucket) == [0, 1, 2]
        fetched.append([line for line in object_storage.requests() if line.startswith("GET") and "part-" in line])
    assert [sum("_checksums" not in line for line in lines) for lines in fetched] == [1, 0]


def test_a_damaged_copy_is_fetched_anew_and_a_damaged_object_is_refused(bucket: str) -> None:
    partition = Lake(bucket).commit(TABLE, DAY, rows(0), fingerprint=OLD)
    (copy,) = get_settings().home.rglob("cache/**/*.parquet")
    content = bytearray(copy.read_bytes())
    content[40] ^= 1
    copy.chmod(0o600)
    copy.write_bytes(content)
    assert values(bucket) == [0, 1, 2]
    (name,) = (file.path for file in table_files(f"{bucket}/{TABLE}").list(f"ds={DAY}"))
    object_store(f"{bucket}/{TABLE}").put(name, bytes(content))
    with pytest.raises(DamagedTableError, match=r"part-.*\.parquet'\] are not what was written"):
        Lake(bucket).read(partition)


def test_other_readers_read_it(bucket: str) -> None:
    lake = Lake(bucket)
    partition = lake.commit(TABLE, DAY, rows(0), fingerprint=OLD)
    uri = lake.uri(TABLE)
    assert pl.read_delta(uri, storage_options=access_options(uri))["value"].to_list() == [0, 1, 2]
    day = lake.dataset(partition)
    assert duckdb.from_arrow(day).filter("value > 0").fetchall() == [(1, str(DAY)), (2, str(DAY))]


def test_an_empty_commit_is_refused(bucket: str) -> None:
    Lake(bucket).commit(TABLE, DAY, rows(0), fingerprint=OLD)
    object_store(f"{bucket}/{TABLE}/_delta_log").put(f"{1:020}.json", b"")
    with pytest.raises(DamagedTableError, match=rf"has empty files \['{1:020}.json'\]"):
        Lake(bucket).find(TABLE, DAY)


def test_a_large_file_goes_in_parts_and_what_nobody_finished_is_swept(bucket: str) -> None:
    lake, schema = Lake(bucket), pa.schema([("value", pa.float64())])
    large = pa.table({"value": np.random.default_rng(0).random(2_300_000)}, schema=schema)
    with TableFile(lake.uri(TABLE), DAY, "a.parquet", schema=schema, options={"compression": "none"}) as file:
        file.write(large)
    partition = lake.commit_files(TABLE, DAY, ["a.parquet"], schema=schema, fingerprint=OLD)
    for copy in get_settings().home.rglob("cache/**/*.parquet"):
        copy.unlink()
    assert lake.read(partition).equals(large)
    object_store(bucket).put(f"{TABLE}/ds={DAY}/orphan.parquet", b"of a writer that was killed")
    begin_upload(f"{bucket}/{TABLE}", f"ds={DAY}/killed.parquet")
    later = datetime.now(UTC) + timedelta(seconds=5)
    for dry_run in (True, False):
        swept = sweep(lake, TABLE, keep=[], before=later, dry_run=dry_run)
        assert swept.files == (f"ds={DAY}/orphan.parquet",)
        assert [key.rpartition("/")[2] for key in swept.uploads] == ["killed.parquet"]
    assert list(unfinished_uploads(f"{bucket}/{TABLE}")) == []
    assert lake.read(partition).num_rows == large.num_rows


def begin_upload(uri: str, path: str) -> None:
    """And go away: the writer's parts are dropped with it, as by a kill."""
    import obstore

    writer = obstore.open_writer(object_store(uri), path, buffer_size=2**20)
    for _ in range(6):
        writer.write(b"x" * 2**20)
    writer.flush()
