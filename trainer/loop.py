"""One pass over a day: score each batch, then learn from it."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence

import torch
import torch.distributed as dist

from features.reader import DayReader
from trainer.metrics import ProgressiveMetrics
from trainer.sharding import ShardedModel

log = logging.getLogger(__name__)

PROGRESS_SECONDS = 5.0


class NonFiniteLossError(FloatingPointError):
    """The loss of a batch is NaN or infinite; nothing was learnt from it."""


def learn(
    sharded: ShardedModel, reader: DayReader, *, tasks: Sequence[str], cold_start: bool
) -> dict[str, dict[str, float]]:
    """Learn the day; the metrics are of predictions made before each batch was learnt (section 6.1.2).

    A collective. NonFiniteLossError on every rank, before any of them changes a weight.
    """
    metrics = ProgressiveMetrics(tasks)
    progress = _Progress(reader, tasks=tasks)
    agreement = _Agreement()
    sharded.module.train()
    for step, batch in enumerate(reader):
        sharded.dense.zero_grad(set_to_none=True)
        loss, (detached, logits, labels, weights) = sharded.module(batch)
        mean_loss, report = agreement.reach(detached, step=step, wants_report=progress.is_due())
        metrics.update(logits, labels, weights)
        loss.backward()  # the tables are updated in here
        sharded.dense.step()
        if cold_start and step == 0:
            sharded.core.mix_tower.set_prior(_positive_rates(labels, weights))
        progress.passed(step, loss=mean_loss)
        if report:
            progress.report(metrics.compute())
    values = metrics.compute()
    progress.report(values)
    return values


def _positive_rates(labels: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """[T] over all ranks: from there, rare tasks need not spend a day walking down from 1/2."""
    sums = torch.cat([weights @ labels, weights.sum().view(1)])
    dist.all_reduce(sums)
    return sums[:-1] / sums[-1]


class _Agreement:
    """What ranks tell each other every step, in one small reduction: loss, trouble, time for a report."""

    def __init__(self) -> None:
        self._rank, self._world_size = dist.get_rank(), dist.get_world_size()
        self._message = torch.zeros(2 + self._world_size)

    def reach(self, loss: torch.Tensor, *, step: int, wants_report: bool) -> tuple[float, bool]:
        """(mean loss over ranks, whether to report): the same on every rank."""
        value = float(loss)
        finite = abs(value) < float("inf")
        self._message.zero_()
        self._message[0] = value / self._world_size if finite else 0.0
        self._message[1] = float(wants_report and self._rank == 0)
        self._message[2 + self._rank] = float(not finite)
        dist.all_reduce(self._message)
        mean_loss, report, *trouble = self._message.tolist()
        if any(trouble):
            ranks = [rank for rank, flag in enumerate(trouble) if flag]
            raise NonFiniteLossError(
                f"the loss of batch {step} is not finite on rank(s) {ranks}; nothing was learnt from it. "
                "Lower the learning rates, or look for extreme values in that batch"
            )
        return mean_loss, bool(report)


class _Progress:
    """Lines for a person who waits, from rank 0."""

    def __init__(self, reader: DayReader, *, tasks: Sequence[str]) -> None:
        self._reader = reader
        self._tasks = tasks
        self._started = self._last = time.monotonic()
        self._step = 0
        self._loss = float("nan")

    def is_due(self) -> bool:
        """Whether the last line is old enough."""
        return time.monotonic() - self._last >= PROGRESS_SECONDS

    def passed(self, step: int, *, loss: float) -> None:
        """A step is done."""
        self._step, self._loss = step + 1, loss

    def report(self, values: dict[str, dict[str, float]]) -> None:
        """Log one line; `values` are over all ranks."""
        self._last = time.monotonic()
        seconds = self._last - self._started
        share = self._step / self._reader.num_batches
        examples = values[self._tasks[0]]["examples"]
        if dist.get_rank() == 0:
            log.info(
                "ds=%s step=%d/%d examples=%d (%.0f %%) %.0f examples/s eta=%.0fs loss=%.4f %s",
                self._reader.partition.ds,
                self._step,
                self._reader.num_batches,
                examples,
                100 * share,
                examples / seconds,
                seconds / share - seconds,
                self._loss,
                " ".join(f"ne[{task}]={values[task]['ne']:.4f}" for task in self._tasks),
            )
