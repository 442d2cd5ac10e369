"""One trainer per (model, day) among machines that share an archive: `trainer.locks`, with objects for files.

A lease is a numbered object `leases/<name>/<number>`; the highest number holds. It is taken by putting the next number
where there is none, which the storage grants to one only; its owner renews it by putting it again, and one that was not
put for `expiry_seconds` of the storage's own clock may be taken. What decides in the end is that the manifest of a
folder is put once (`trainer.archive.upload`): a lease saves the second machine the work, and tells who does it.
"""

from __future__ import annotations

import json
import logging
import os
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from uuid import uuid4

from features.storage_errors import StorageError
from trainer.archive.archive import Archive
from trainer.archive.objects import Objects
from trainer.locks import EXPIRY_SECONDS, KeptError, LockedError, exclusive, kernel

log = logging.getLogger(__name__)

_RENEWALS_PER_EXPIRY = 6


@dataclass(frozen=True, kw_only=True)
class _Held:
    """The content of a lease."""

    host: str
    pid: int
    home: str
    """Which folder of which running machine: whoever has the lock there knows that an earlier holder of it is gone."""
    token: str
    since: str
    released: bool = False

    def describe(self) -> str:
        return f"pid {self.pid} on {self.host} since {self.since}"


class Lease:
    """What `leased` gives for its block."""

    def __init__(self, objects: Objects, folder: str, number: int, held: _Held, expiry_seconds: float) -> None:
        self._objects = objects
        self._folder = folder
        self._number = number
        self._held = held
        self._expiry_seconds = expiry_seconds
        self._stopped = threading.Event()
        self._renewer = threading.Thread(target=self._renew, name="archive-lease", daemon=True)

    def check(self) -> None:
        """LockedError unless the lease is still ours: nobody who was stopped for long commits over a successor."""
        number, newest, _ = _newest(self._objects, self._folder)
        if number != self._number or newest is None or newest.token != self._held.token:
            by = "nobody" if newest is None else newest.describe()
            raise LockedError(
                f"{self._objects.uri_of(self._folder)} was taken by {by}, for this attempt ({self._held.token}) had "
                "not renewed it; nothing is archived or decided: run the same again"
            )

    def __enter__(self) -> Lease:
        self._renewer.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._stopped.set()
        self._renewer.join()
        if kind is not None and issubclass(kind, KeptError):
            return
        try:
            self._put(replace(self._held, released=True))
        except StorageError as error:
            log.warning("the lease was not given back, and is over in %.0f s: %s", self._expiry_seconds, error)

    def _renew(self) -> None:
        while not self._stopped.wait(self._expiry_seconds / _RENEWALS_PER_EXPIRY):
            try:
                self._put(self._held)
            except Exception as error:  # whatever it is, the next one may do
                log.warning("%s could not be renewed: %s", self._objects.uri_of(self._folder), error)

    def _put(self, held: _Held) -> None:
        self._objects.put(_key(self._folder, self._number), json.dumps(asdict(held)).encode())


@contextmanager
def leased(
    archive: Archive | None, folder: Path, *, token: str, expiry_seconds: float = EXPIRY_SECONDS
) -> Iterator[Lease | None]:
    """Hold the name `folder` (`checkpoints/<model>/ds=<day>`) among machines for the block; None without an archive.

    The caller holds the lock on it on this machine: an earlier holder of the same home is succeeded at once, one of
    another after `expiry_seconds` without renewal. LockedError names who holds it, and since when. After a
    KeptError in the block it is not given back: this home may take it at once, another when it is over.
    """
    if archive is None:
        yield None
        return
    with _take(archive, f"leases/{archive.key_of(folder)}", token=token, expiry_seconds=expiry_seconds) as lease:
        yield lease


@contextmanager
def day_held(archive: Archive | None, day: Path, *, token: str) -> Iterator[Lease | None]:
    """Hold `day` (`checkpoints/<model>/ds=<day>`) for the block, on this machine and among those that share the
    archive: who trains it, or removes what is of it. LockedError names who holds it."""
    with exclusive(day.with_name(f"{day.name}.lock"), token=token), leased(archive, day, token=token) as lease:
        yield lease


def _take(archive: Archive, folder: str, *, token: str, expiry_seconds: float) -> Lease:
    objects = archive.objects
    number, newest, renewed = _newest(objects, folder)
    home = _home_id(archive)
    if newest is not None and not newest.released and newest.home != home:
        age_seconds = (_storage_time(objects, folder) - renewed).total_seconds()
        if age_seconds <= expiry_seconds:
            raise _locked(objects, folder, f"{newest.describe()} (renewed {age_seconds:.0f} s ago)")
        log.warning("%s was held by %s, who is gone for %.0f s", folder, newest.describe(), age_seconds)
    since = datetime.now(UTC).isoformat(timespec="seconds")  # for people; nothing is computed from it
    held = _Held(host=socket.gethostname(), pid=os.getpid(), home=home, token=token, since=since)
    if not objects.create(_key(folder, number + 1), json.dumps(asdict(held)).encode()):
        _, other, _ = _newest(objects, folder)
        if other is None or other.token != token:  # else our own, whose answer was lost
            raise _locked(objects, folder, "another process" if other is None else other.describe())
    objects.delete([one.key for one in objects.children(folder)[0] if one.key < _key(folder, number + 1)])
    return Lease(objects, folder, number + 1, held, expiry_seconds)


def _locked(objects: Objects, folder: str, by: str) -> LockedError:
    return LockedError(f"{objects.uri_of(folder)} is held by {by}; wait until it ends, or stop it there, and run again")


def _newest(objects: Objects, folder: str) -> tuple[int, _Held | None, datetime]:
    """(number, content, when it was renewed) of the lease that holds, or held last; number 0: none ever."""
    while True:
        leases = [one for one in objects.children(folder)[0] if one.key.rpartition("/")[2].isdigit()]
        if not leases:
            return 0, None, datetime.min.replace(tzinfo=UTC)
        newest = max(leases, key=lambda one: one.key)
        content = objects.get(newest.key)
        if content is not None:  # else its successor removed it
            number = int(newest.key.rpartition("/")[2])
            return number, _Held(**json.loads(bytes(content))), newest.modified


def _storage_time(objects: Objects, folder: str) -> datetime:
    """The clock that the objects' times are of: no two machines need agree on theirs."""
    probe = f"{folder}/clock-{uuid4().hex[:12]}"
    objects.put(probe, b"")
    try:
        found = objects.head(probe)
    finally:
        objects.delete([probe])
    if found is None:
        raise StorageError(f"{objects.uri_of(probe)} went while it was read; run the same again")
    return found.modified


def _home_id(archive: Archive) -> str:
    """Of this home alone, for as long as this machine runs: as far as its file locks reach. Nothing of it is kept, so
    a home that was copied to another machine, or beside itself, is another one."""
    archive.home.mkdir(parents=True, exist_ok=True)
    folder = archive.home.stat()
    return f"{kernel()}:{folder.st_dev}:{folder.st_ino}"


def _key(folder: str, number: int) -> str:
    return f"{folder}/{number:09}"
