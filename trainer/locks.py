"""One trainer per (model, day): a lease with its owner's name, an expiry, and the token that fences off orphans.

A lease is a numbered file beside the lock, `<lock>.<number>`; the highest number holds. It is taken by creating
the next number, which a shared filesystem grants to one process only; its owner renews it by touching it, and
one that was not touched for EXPIRY_SECONDS of the filesystem's own clock may be taken. On one machine the
kernel's file lock on `<lock>` adds what a lease cannot: it knows at once that its holder died.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import logging
import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO
from uuid import uuid4

from trainer.whole import draft, write_first

log = logging.getLogger(__name__)

EXPIRY_SECONDS = 120.0
_RENEWALS_PER_EXPIRY = 6
_BOOT = Path("/proc/sys/kernel/random/boot_id")


class LockedError(RuntimeError):
    """Somebody else holds the lock."""


class KeptError(RuntimeError):
    """Raised in the block of `exclusive`: what was begun there goes on, and keeps the lock under its token."""


@dataclass(frozen=True, kw_only=True)
class _Lease:
    """The content of a lease file."""

    pid: int
    host: str
    kernel: str
    """Whose file locks it shares: of one boot of one machine."""
    token: str
    released: bool = False

    def describe(self, age_seconds: float) -> str:
        return f"pid {self.pid} on {self.host} (renewed {age_seconds:.0f} s ago)"


@contextmanager
def exclusive(path: Path, *, token: str, expiry_seconds: float = EXPIRY_SECONDS) -> Iterator[None]:
    """Hold `path` for the block, under the name of `token`; LockedError names who holds it already.

    A holder that died is succeeded at once on its own machine, after `expiry_seconds` on another; one that was
    stopped for so long may be succeeded too, and then fails at its next `check_token`. Who has the holder's own
    token, of a job that outlives its submitter, succeeds it at once, unless a process of this machine holds it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        lease = _take(path, token=token, is_locked=_lock(file), expiry_seconds=expiry_seconds)
        stopped = threading.Event()
        renewer = threading.Thread(
            target=_renew, args=(path, lease, stopped, expiry_seconds), name="lease", daemon=True
        )
        renewer.start()
        kept = False
        try:
            yield
        except KeptError:
            kept = True
            raise
        finally:
            stopped.set()
            renewer.join()
            if not kept:
                _release(lease)


@contextmanager
def file_lock(path: Path) -> Iterator[None]:
    """The kernel's lock on a file that is made where it is missing; waits for its turn, ends with its process."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def check_token(path: Path, *, token: str, expiry_seconds: float = EXPIRY_SECONDS) -> None:
    """LockedError unless `token` holds `path` now: no duplicate and no orphan of an earlier attempt publishes."""
    number, lease, age_seconds = _newest(path)
    if lease is None or lease.token != token:
        raise LockedError(f"{path} was taken by another attempt since this one ({token}) began; nothing is published")
    if lease.released or age_seconds > expiry_seconds:
        raise LockedError(
            f"{path}.{number} of this attempt ({token}) was {'released' if lease.released else 'not renewed'}: who "
            "started it is gone; nothing is published"
        )


def keep_renewed(path: Path, *, token: str, expiry_seconds: float = EXPIRY_SECONDS) -> None:
    """Renew the lease of `token` for as long as this process lives and nobody took or released it: a job holds its
    day also while nobody waits for it. LockedError where it does not hold it now.
    """
    if not _renew_held(path, token):
        raise LockedError(f"{path} was taken or released since this attempt ({token}) was submitted; it does not run")

    def renew() -> None:
        while _renew_held(path, token):
            time.sleep(expiry_seconds / _RENEWALS_PER_EXPIRY)

    threading.Thread(target=renew, name="lease", daemon=True).start()


def release(path: Path, *, token: str) -> None:
    """Release what `token` holds, if it does."""
    number, lease, _ = _newest(path)
    if lease is not None and lease.token == token:
        _release(path.with_name(f"{path.name}.{number}"))


def _renew_held(path: Path, token: str) -> bool:
    """Whether `token` holds it; renewed then. A filesystem that cannot be asked for a while is no loss."""
    try:
        number, lease, _ = _newest(path)
        if lease is None or lease.token != token or lease.released:
            return False
        os.utime(path.with_name(f"{path.name}.{number}"))
    except OSError as error:
        log.warning("%s could not be renewed: %s", path, error)
    return True


def _lock(file: IO[str]) -> bool:
    """Whether this process has the kernel's lock; False too where the filesystem has none."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def _take(path: Path, *, token: str, is_locked: bool, expiry_seconds: float) -> Path:
    """Create the lease after the newest one, if that is over."""
    number, newest, age_seconds = _newest(path)
    ours = kernel()
    if newest is not None and not newest.released and age_seconds <= expiry_seconds:
        died = is_locked and newest.kernel == ours
        same = newest.token == token and (is_locked or newest.kernel != ours)
        if not died and not same:
            raise LockedError(_held(path, newest.describe(age_seconds)))
    lease = _Lease(pid=os.getpid(), host=socket.gethostname(), kernel=ours, token=token)
    taken = path.with_name(f"{path.name}.{number + 1}")
    if not write_first(taken, json.dumps(asdict(lease))):
        raise LockedError(_held(path, "another process"))
    for old, file in _leases(path).items():
        if old <= number:
            file.unlink(missing_ok=True)
    return taken


def _held(path: Path, owner: str) -> str:
    return f"{path} is held by {owner}; wait until it ends, or stop it, and run again"


def _renew(path: Path, lease: Path, stopped: threading.Event, expiry_seconds: float) -> None:
    while not stopped.wait(expiry_seconds / _RENEWALS_PER_EXPIRY):
        try:
            os.utime(lease)
        except FileNotFoundError:
            log.error("%s was taken by another process, for this one had not renewed it; it will not publish", path)
            return
        except OSError as error:
            log.warning("%s could not be renewed: %s", lease, error)


def _release(lease: Path) -> None:
    """Keep the number, so that no later lease has it again."""
    with contextlib.suppress(FileNotFoundError):
        content = _Lease(**json.loads(lease.read_text()))
        partial = draft(lease, json.dumps({**asdict(content), "released": True}))
        if lease.exists():
            partial.rename(lease)
        else:
            partial.unlink()


def _newest(path: Path) -> tuple[int, _Lease | None, float]:
    """(number, content, seconds since its renewal) of the lease that holds, or held last; number 0: none ever."""
    while True:
        leases = _leases(path)
        if not leases:
            return 0, None, 0.0
        number = max(leases)
        try:
            renewed = leases[number].stat().st_mtime
            content = json.loads(leases[number].read_text())
            lease = _Lease(**content)
        except FileNotFoundError:  # its successor removed it
            continue
        except (ValueError, TypeError):  # the machine stopped before it was on disk
            lease = _Lease(pid=0, host="an unknown machine", kernel="", token="")
        return number, lease, _filesystem_time(path) - renewed


def _leases(path: Path) -> dict[int, Path]:
    found = path.parent.glob(f"{path.name}.*")
    return {int(file.suffix[1:]): file for file in found if file.suffix[1:].isdigit()}


def _filesystem_time(path: Path) -> float:
    """The clock that the files' times are of: machines that share a filesystem need not agree on theirs."""
    probe = path.with_name(f".{path.name}-{uuid4().hex[:12]}")
    probe.touch()
    try:
        return probe.stat().st_mtime
    finally:
        probe.unlink()


def kernel() -> str:
    """What file locks reach: one boot of one machine."""
    return _BOOT.read_text().strip() if _BOOT.exists() else socket.gethostname()
