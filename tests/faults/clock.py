"""A clock that is wrong: Python's, in the processes that ask for it, and the times of the files that they find.

libfaketime would reach libraries too, but Python 3.11 under version 0.9.10 of it cannot sleep (EINVAL from
clock_nanosleep).
"""

from __future__ import annotations

import os
import time
from pathlib import Path


def shift(seconds: float) -> None:
    """Move this process's wall clock, as Python sees it."""
    real, real_ns = time.time, time.time_ns
    time.time = lambda: real() + seconds
    time.time_ns = lambda: real_ns() + int(seconds * 1e9)


def shift_files(folder: Path, seconds: float) -> None:
    """As if what is in `folder` had been written at another time."""
    for path in folder.rglob("*"):
        then = path.stat().st_mtime + seconds
        os.utime(path, (then, then))
