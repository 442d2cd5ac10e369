"""Faults of object storage: an S3 server on loopback that stops, refuses, forgets to answer, and is written by two."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from multiprocessing.synchronize import Barrier, Event

import numpy as np
import pyarrow as pa
import pytest

from features.fingerprint import fingerprint
from features.lake import Lake
from features.storage_errors import StorageError
from features.sweep import sweep
from features.table_files import TableFile
from features.unfinished_uploads import unfinished_uploads
from infra.settings import get_settings
from tests.faults.scenario import Outcome, Trial
from tests.faults.writing import SPAWN, TABLE, kill_after, rows
from tests.object_store import BUCKET, Fault, ObjectServer, impatient
from tests.trainer.planted import DAY

_SCHEMA = pa.schema([("value", pa.int64())])
_ROWS = 2_300_000
"""18 MB, not compressed: uploaded in parts."""
_ALWAYS = Fault(times=1_000_000)
_REFUSALS = {
    "overloaded": replace(_ALWAYS, status=503),
    "broken": replace(_ALWAYS, status=500, code="InternalError"),
    "denied": replace(_ALWAYS, status=403, code="AccessDenied"),
    "keys ended": replace(_ALWAYS, status=403, code="ExpiredToken"),
    "clock off": replace(_ALWAYS, status=403, code="RequestTimeTooSkewed"),
    "no bucket": replace(_ALWAYS, status=404, code="NoSuchBucket"),
    "slow": replace(_ALWAYS, delay_seconds=6.0),
    "cut off": replace(_ALWAYS, cut=True),
}


@contextmanager
def _bucket(trial: Trial) -> Iterator[tuple[ObjectServer, str]]:
    """The server, and a place of the trial's own there; this process and its children reach it."""
    server = trial.world.object_storage
    with pytest.MonkeyPatch.context() as patch:
        server.use(patch, USERMODEL_HOME=str(trial.folder))
        try:
            yield server, f"s3://{BUCKET}/{trial.folder.name}-{trial.seed}"
        finally:
            server.fail()
    get_settings.cache_clear()


def _values(uri: str) -> list[int]:
    """Of the day, as a process without anything in memory reads it."""
    lake = Lake(uri)
    found: list[int] = lake.read(lake.get(TABLE, DAY))["value"].to_pylist()
    return found


def upload_many(uri: str, first: int, key: str, begun: Event) -> None:
    """Write and commit a day of two large files."""
    begun.set()
    lake, names = Lake(uri), [f"{key}-{number}.parquet" for number in range(2)]
    for number, name in enumerate(names):
        with TableFile(lake.uri(TABLE), DAY, name, schema=_SCHEMA, options={"compression": "none"}) as file:
            file.write(rows(first + number * _ROWS, _ROWS))
    lake.commit_files(TABLE, DAY, names, schema=_SCHEMA, fingerprint=key)


def upload_killed(trial: Trial) -> Outcome:
    """A writer to object storage killed at any moment: readers have the old day or the new; what it left is swept."""
    with _bucket(trial) as (_, uri):
        draw, lake, broken = trial.draw(), Lake(uri), []
        lake.commit(TABLE, DAY, rows(0, 3), fingerprint=fingerprint("first"))
        began = datetime.now(UTC)
        upload_many(uri, 0, fingerprint("timed"), SPAWN.Event())
        seconds = (datetime.now(UTC) - began).total_seconds()
        kills, old, left = trial.times(3, 30), (0, 2 * _ROWS), 0
        for number in range(kills):
            kill_after(upload_many, uri, number + 1, fingerprint("killed", number), seconds=draw.uniform(0, seconds))
            found = lake.read(lake.get(TABLE, DAY))["value"].to_numpy()
            left = max(left, len(list(unfinished_uploads(f"{uri}/{TABLE}"))))
            now = (int(found.min()), found.size)
            whole = np.array_equal(np.sort(found), np.arange(now[0], now[0] + 2 * _ROWS))
            if not whole or now not in (old, (number + 1, 2 * _ROWS)):
                broken.append(f"kill {number}: {now[1]} rows from {now[0]}; there were {old[1]} from {old[0]}")
            old = now
        swept = sweep(lake, TABLE, keep=[], before=datetime.now(UTC) + timedelta(minutes=1))
        assert list(unfinished_uploads(f"{uri}/{TABLE}")) == []
        assert lake.read(lake.get(TABLE, DAY)).num_rows == 2 * _ROWS
    return Outcome(
        injected=kills,
        broken=tuple(broken),
        lost=f"the killed uploads; {len(swept.files)} files and {len(swept.uploads)} unfinished uploads swept",
    )


def storage_refuses(trial: Trial) -> Outcome:
    """Object storage that refuses, is slow or cuts off: an error with its name, the day whole, the retry succeeds."""
    broken = []
    with _bucket(trial) as (server, uri):
        Lake(uri).commit(TABLE, DAY, rows(0, 3), fingerprint=fingerprint("first"))
        for number, (name, fault) in enumerate(_REFUSALS.items(), start=1):
            skip, key = trial.draw().randrange(8), fingerprint(name)
            server.fail(replace(fault, skip=skip))
            with impatient():
                told = _error(lambda n=number, key=key: Lake(uri).commit(TABLE, DAY, rows(n, 3), fingerprint=key))
            server.fail()
            if told is not None and not isinstance(told, StorageError):
                broken.append(f"{name} from request {skip} on: {type(told).__name__}: {told}")
            if (found := _values(uri)[0]) not in (number - 1, number):
                broken.append(f"{name}: the day begins with {found}")
            Lake(uri).commit(TABLE, DAY, rows(number, 3), fingerprint=key)
            assert _values(uri) == list(range(number, number + 3)), name
    return Outcome(injected=len(_REFUSALS), broken=tuple(broken), lost="the attempts")


def _error(action: Callable[[], object]) -> Exception | None:
    try:
        action()
    except Exception as error:
        return error
    return None


def storage_stopped(trial: Trial) -> Outcome:
    """An object storage that answers nothing (SIGSTOP): an error that says so in bounded time; then all goes on."""
    with _bucket(trial) as (server, uri):
        Lake(uri).commit(TABLE, DAY, rows(0, 3), fingerprint=fingerprint("first"))
        began = datetime.now(UTC)
        with server.paused(), impatient():
            told = _error(lambda: Lake(uri).commit(TABLE, DAY, rows(1, 3), fingerprint=fingerprint("second")))
        seconds = (datetime.now(UTC) - began).total_seconds()
        assert isinstance(told, StorageError), told
        assert "does not answer" in str(told), told
        assert seconds < 60, seconds
        Lake(uri).commit(TABLE, DAY, rows(1, 3), fingerprint=fingerprint("second"))
        assert _values(uri) == [1, 2, 3]
    return Outcome(injected=1, lost=f"the attempt, given up after {seconds:.1f} s")


def answers_lost(trial: Trial) -> Outcome:
    """Any answer of object storage lost on its way: the day is committed once, by that attempt or by the next."""
    broken, attempts = [], 0
    with _bucket(trial) as (server, uri):
        Lake(uri).commit(TABLE, DAY, rows(0, 3), fingerprint=fingerprint("first"))
        server.requests()
        Lake(uri).commit(TABLE, DAY, rows(0, 3), fingerprint=fingerprint("counted"))
        num_requests = len(server.requests())
        chosen = trial.draw().sample(range(num_requests), k=3) if trial.quick else range(num_requests)
        for number in chosen:
            key = fingerprint("lost", number)
            server.fail(Fault(skip=number, cut=True))
            told = _error(lambda number=number, key=key: Lake(uri).commit(TABLE, DAY, rows(number, 3), fingerprint=key))
            attempts += told is None
            Lake(uri).commit(TABLE, DAY, rows(number, 3), fingerprint=key)
            delta = Lake(uri).open(TABLE)
            assert delta is not None
            times = [commit.get("usermodel.fingerprint") for commit in delta.history()].count(key[:15])
            if times != 1 or _values(uri)[0] != number or not (told is None or isinstance(told, StorageError)):
                broken.append(f"request {number}: committed {times} times, {_values(uri)}, {told!r}")
    return Outcome(
        injected=len(chosen),
        broken=tuple(broken),
        lost=f"{len(chosen) - attempts} attempts of {len(chosen)}; the others asked again",
    )


def write_together(uri: str, day: int, first: int, key: str, barrier: Barrier) -> None:
    """Commit at the same time as others."""
    barrier.wait(120)
    Lake(uri).commit(TABLE, DAY + timedelta(day), rows(first, 1000), fingerprint=key)


def stored_by_two(trial: Trial) -> Outcome:
    """Two writers of a table in object storage, of one day and of two: every day is one writer's, none is lost."""
    rounds, broken = trial.times(1, 5), []
    with _bucket(trial) as (_, base):
        for number in range(rounds):
            uri, barrier = f"{base}/{number}", SPAWN.Barrier(4)
            given = [(0, 0, "left"), (0, 5000, "right"), (1, 0, "next"), (2, 0, "after")]
            workers = [
                SPAWN.Process(target=write_together, args=(uri, day, first, fingerprint(name, number), barrier))
                for day, first, name in given
            ]
            for worker in workers:
                worker.start()
            for worker in workers:
                worker.join(180)
            ended, lake = [worker.exitcode for worker in workers], Lake(uri)
            found = [lake.read(lake.get(TABLE, DAY + timedelta(day)))["value"].to_pylist() for day in range(3)]
            whole = [list(range(first, first + 1000)) for first in (0, 5000)]
            if ended != [0] * 4 or found[0] not in whole or found[1:] != [whole[0]] * 2:
                broken.append(f"round {number}: exit {ended}, {[len(values) for values in found]} rows")
    return Outcome(injected=4 * rounds, broken=tuple(broken))
