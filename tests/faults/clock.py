"""A clock that is wrong: libfaketime where it is installed, which every process and library of ours then sees, else
Python's `time.time` in the processes that ask for it."""

from __future__ import annotations

import time
from pathlib import Path

_LIBRARIES = ("/usr/lib/*/faketime/libfaketimeMT.so.1", "/usr/lib/faketime/libfaketimeMT.so.1")


def library() -> Path | None:
    """libfaketime, or None."""
    found = [path for pattern in _LIBRARIES for path in sorted(Path("/").glob(pattern.removeprefix("/")))]
    return found[0] if found else None


def environment(seconds: float) -> dict[str, str]:
    """For a process under libfaketime."""
    return {
        "LD_PRELOAD": str(library()),
        "FAKETIME": f"{seconds:+.0f}s",
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        "FAKETIME_DONT_RESET": "1",
    }


def shift(seconds: float) -> None:
    """Move this process's wall clock, as Python sees it."""
    real, real_ns = time.time, time.time_ns
    time.time = lambda: real() + seconds
    time.time_ns = lambda: real_ns() + int(seconds * 1e9)
