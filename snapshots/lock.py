"""One writer at a time per model on this machine."""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager

from infra.settings import Settings


@contextmanager
def model_lock(settings: Settings, model: str) -> Iterator[None]:
    """Held while a version of `model` is published or decided; waits for its turn, ends with its process."""
    folder = settings.home / "locks"
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / f"{model}.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
