"""One writer at a time on this machine: per model, or of whatever a file stands for."""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from infra.settings import Settings


@contextmanager
def model_lock(settings: Settings, model: str) -> Iterator[None]:
    """Held while a version of `model` is published or decided; waits for its turn, ends with its process."""
    with file_lock(settings.home / "locks" / f"{model}.lock"):
        yield


@contextmanager
def file_lock(path: Path) -> Iterator[None]:
    """The kernel's lock on a file that is made where it is missing; waits for its turn, ends with its process."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
