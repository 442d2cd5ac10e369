"""One writer at a time of a model on this machine."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from infra.settings import Settings
from trainer.locks import file_lock


@contextmanager
def model_lock(settings: Settings, model: str) -> Iterator[None]:
    """Held while a version of `model` is published or decided; waits for its turn, ends with its process."""
    with file_lock(settings.shared / "locks" / f"{model}.lock"):
        yield
