"""A rank whose storage hangs: what `run_ranks` starts in place of `trainer.worker:main`."""

from __future__ import annotations

import threading
from collections.abc import Iterator

from features.batches import Batch
from features.reader import DayReader
from infra.settings import torchrun_rank
from trainer import worker

HANGING_BATCH = 5


def main(assignment_path: str, hanging_rank: str) -> None:
    """Train as told, but on rank `hanging_rank` one batch never comes."""
    if torchrun_rank()[0] == int(hanging_rank):
        original = DayReader.batches

        def batches(self: DayReader, first: int = 0) -> Iterator[Batch]:
            for position, batch in enumerate(original(self, first), first):
                if position == HANGING_BATCH:
                    threading.Event().wait()
                yield batch

        DayReader.batches = batches  # type: ignore[method-assign]
    worker.main(assignment_path)
