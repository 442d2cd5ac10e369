"""One pass over a day: score each batch, then learn from it."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Sequence

import torch
import torch.distributed as dist

from features.batches import Batch
from features.reader import DayReader
from trainer.device import autocast
from trainer.heartbeat import Phase, beat
from trainer.metrics import ProgressiveMetrics
from trainer.model.multi_task import Outputs
from trainer.pipeline import build_pipeline
from trainer.profiling import StepProfiler
from trainer.sharding import ShardedModel
from trainer.spans import span

log = logging.getLogger(__name__)

PROGRESS_SECONDS = 5.0


class NonFiniteLossError(FloatingPointError):
    """The loss of a batch is NaN or infinite; nothing was learnt from it."""


def learn(
    sharded: ShardedModel,
    reader: DayReader,
    *,
    tasks: Sequence[str],
    cold_start: bool,
    profiler: StepProfiler | None = None,
) -> dict[str, dict[str, float]]:
    """Learn the day; the metrics are of predictions made before each batch was learnt (section 6.1.2).

    profiler: of the first steps, after which the pass ends. A collective.
    NonFiniteLossError on every rank, before any of them changes a weight.
    """
    scoring = Scoring(sharded, reader, tasks=tasks)
    pipeline = build_pipeline(sharded, scoring.forward)
    batches = scoring.watched(reader)
    sharded.module.train()
    num_steps = reader.num_batches if profiler is None else min(reader.num_batches, profiler.num_steps)
    for step in range(num_steps):
        _, _, labels, weights = pipeline.progress(batches)
        if cold_start and step == 0:
            sharded.core.set_prior(_positive_rates(labels, weights))
        scoring.report_when_due()
        if profiler is not None:
            profiler.step()
    beat(Phase.SUMMING)
    return scoring.finish()


class Scoring:
    """Forward with all that is done before anything is learnt: every rank's loss is finite, the batch is scored."""

    def __init__(self, sharded: ShardedModel, reader: DayReader, *, tasks: Sequence[str]) -> None:
        self._sharded = sharded
        self._metrics = ProgressiveMetrics(tasks, device=sharded.device)
        self._progress = _Progress(reader, tasks=tasks)
        self._agreement = _Agreement(sharded.device)
        self._step = 0
        self._report = False

    def watched(self, reader: DayReader) -> Iterator[Batch]:
        """The batches, with a heartbeat around the wait for each."""
        batches = iter(reader)
        for step in range(reader.num_batches):
            beat(Phase.READING, step)
            with span("read"):
                batch = next(batches)
            beat(Phase.LEARNING, step)
            yield batch

    def forward(self, batch: Batch) -> tuple[torch.Tensor, Outputs]:
        """Loss and outputs; NonFiniteLossError on every rank when one of them has no finite loss."""
        with span("forward"), autocast(self._sharded.device, self._sharded.compute):
            loss, outputs = self._sharded.module(batch)
        detached, logits, labels, weights = outputs
        with span("agree"):
            wants_report = self._progress.is_due()
            mean_loss, self._report = self._agreement.reach(detached, step=self._step, wants_report=wants_report)
        with span("score"):
            self._metrics.update(logits, labels, weights)
        self._progress.passed(self._step, loss=mean_loss)
        self._step += 1
        return loss, outputs

    def report_when_due(self) -> None:
        """A line of progress, now and then."""
        if self._report:
            self._progress.report(self._metrics.compute())

    def finish(self) -> dict[str, dict[str, float]]:
        """The metrics of the whole day."""
        values = self._metrics.compute()
        self._progress.report(values)
        return values


def _positive_rates(labels: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """[T] over all ranks: from there, rare tasks need not spend a day walking down from 1/2."""
    sums = torch.cat([weights @ labels, weights.sum().view(1)])
    dist.all_reduce(sums)
    return sums[:-1] / sums[-1]


class _Agreement:
    """What ranks tell each other every step, in one small reduction: loss, trouble, time for a report."""

    def __init__(self, device: torch.device) -> None:
        self._rank, self._world_size = dist.get_rank(), dist.get_world_size()
        self._message = torch.zeros(2 + self._world_size)
        self._device = device

    def reach(self, loss: torch.Tensor, *, step: int, wants_report: bool) -> tuple[float, bool]:
        """(mean loss over ranks, whether to report): the same on every rank."""
        value = float(loss)
        finite = abs(value) < float("inf")
        self._message.zero_()
        self._message[0] = value / self._world_size if finite else 0.0
        self._message[1] = float(wants_report and self._rank == 0)
        self._message[2 + self._rank] = float(not finite)
        message = self._message.to(self._device)
        dist.all_reduce(message)
        mean_loss, report, *trouble = message.tolist()
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
