"""One trainer per (model, day): a file lock with its owner's name, and the token that fences off orphans."""

from __future__ import annotations

import fcntl
import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class LockedError(RuntimeError):
    """Somebody else holds the lock."""


@contextmanager
def exclusive(path: Path, *, token: str) -> Iterator[None]:
    """Hold `path` for the block, and leave `token` in it; LockedError names who holds it already.

    The kernel releases the lock when its holder dies, however it dies.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            raise LockedError(
                f"{path} is held by {_describe(file.read())}; wait until it ends, or stop it, and run again"
            ) from None
        owner = {"pid": os.getpid(), "host": socket.gethostname(), "token": token}
        file.truncate(0)
        file.write(json.dumps(owner))
        file.flush()
        try:
            yield
        finally:
            fcntl.flock(file, fcntl.LOCK_UN)


def _describe(text: str) -> str:
    try:
        owner = json.loads(text)
        return f"pid {owner['pid']} on {owner['host']}"
    except (ValueError, KeyError, TypeError):
        return "another process"


def check_token(path: Path, *, token: str) -> None:
    """LockedError unless the last to take the lock was `token`: no orphan of an earlier attempt publishes."""
    try:
        holder = json.loads(path.read_text())["token"]
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        holder = None
    if holder != token:
        raise LockedError(f"{path} was taken by another attempt since this one ({token}) began; nothing is published")
