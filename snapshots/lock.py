"""One writer at a time of a model: on this machine, and among machines that share object storage."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from uuid import uuid4

from infra.settings import Settings
from trainer.archive.archive import Archive
from trainer.archive.lease import leased
from trainer.locks import LockedError, file_lock

log = logging.getLogger(__name__)

_RETRY_SECONDS = 1.0


@contextmanager
def model_lock(settings: Settings, model: str) -> Iterator[Callable[[], None]]:
    """Held while a version of `model` is published or decided; waits for its turn, ends with its process (with that of
    another machine: two minutes later).

    What it gives is called before what others see is changed: LockedError where this process was stopped for so long
    that another machine took its turn.
    """
    with file_lock(settings.shared / "locks" / f"{model}.lock"), ExitStack() as held:
        yield _wait(held, settings, model)


def _wait(held: ExitStack, settings: Settings, model: str) -> Callable[[], None]:
    archive, token, told = Archive.of(settings), uuid4().hex[:12], False
    while True:
        try:
            lease = held.enter_context(leased(archive, settings.artifacts / model, token=token))
        except LockedError as error:
            if not told:
                log.info("waits: %s", error)
            told = True
            time.sleep(_RETRY_SECONDS)
        else:
            return (lambda: None) if lease is None else lease.check
