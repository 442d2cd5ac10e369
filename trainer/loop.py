"""One pass over a day: score each batch, then learn from it."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from features.batches import Batch
from features.reader import DayReader
from trainer.anchor import Anchor
from trainer.device import autocast
from trainer.heartbeat import Phase, beat
from trainer.increments.touched import Touched
from trainer.metrics import ProgressiveMetrics
from trainer.model.multi_task import Outputs
from trainer.pipeline import build_pipeline
from trainer.profiling import StepProfiler
from trainer.resume import restore, state_of
from trainer.saver import SaveFailedError, WaypointSaver
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
    new_tasks: Sequence[str] = (),
    touched: Touched | None = None,
    anchor: Anchor | None = None,
    profiler: StepProfiler | None = None,
    saver: WaypointSaver | None = None,
    resume_from: tuple[Path, int] | None = None,
) -> dict[str, dict[str, float]]:
    """Learn the day; the metrics are of predictions made before each batch was learnt (section 6.1.2).

    new_tasks: those that the parent did not have; like all of a cold start, they begin from the positive rates of the
    first batch. touched: where the rows that are looked up are marked. anchor: what the model is kept near to.
    profiler: of the first steps, after which the pass ends. saver: of the pass, now and then. resume_from: a waypoint
    and its step, where the pass goes on to the bit; the model's state is taken from it. A collective.
    NonFiniteLossError on every rank, before any of them changes a weight; SaveFailedError, as soon, for a save
    that failed in the background.
    """
    first = 0 if resume_from is None else resume_from[1]
    scoring = Scoring(sharded, reader, tasks=tasks, first=first, saver=saver, touched=touched, anchor=anchor)
    batches = scoring.watched(reader)
    if resume_from is not None:
        batch = next(batches)
        beat(Phase.LOADING)
        restore(resume_from[0], sharded, scoring.own_state(), step=first, batch=scoring.ready(batch))
        batches = chain([batch], batches)
    if touched is not None:
        batches = touched.watch(batches)
    pipeline = build_pipeline(sharded, scoring.forward)
    sharded.module.train()
    num_steps = reader.num_batches if profiler is None else min(reader.num_batches, profiler.num_steps)
    for step in range(first, num_steps):
        if resume_from is not None and step == first:
            beat(Phase.LEARNING, step)
        _, _, labels, weights = pipeline.progress(batches)
        if step == 0 and (cold_start or new_tasks):
            of = [tasks.index(task) for task in (tasks if cold_start else new_tasks)]
            sharded.core.set_prior(_positive_rates(labels, weights), of=of)
        scoring.report_when_due()
        scoring.save_when_due()
        if profiler is not None:
            profiler.step()
    if saver is not None:
        beat(Phase.SAVING)
        saver.finish()
    beat(Phase.SUMMING)
    return scoring.finish()


class Scoring:
    """Forward with all that is done before anything is learnt: every rank's loss is finite, the batch is scored.

    first: the step at which this attempt begins. saver: asked after every step. touched: belongs to what it saves.
    anchor: teaches every batch.
    """

    def __init__(
        self,
        sharded: ShardedModel,
        reader: DayReader,
        *,
        tasks: Sequence[str],
        first: int = 0,
        saver: WaypointSaver | None = None,
        touched: Touched | None = None,
        anchor: Anchor | None = None,
    ) -> None:
        self._sharded = sharded
        self._anchor = anchor
        self._metrics = ProgressiveMetrics(tasks, device=sharded.device)
        self._progress = _Progress(reader, tasks=tasks, first=first)
        self._agreement = _Agreement(sharded.device)
        self._saver = saver
        self._touched = touched
        self._num_steps = reader.num_batches
        self._largest = reader.largest
        self._first = self._step = first
        self._agreed = _Agreed(loss=float("nan"), report=False, save=False)

    def watched(self, reader: DayReader) -> Iterator[Batch]:
        """The batches from the first step on, with a heartbeat around the wait for each."""
        batches = reader.read_from(self._first)
        for step in range(self._first, reader.num_batches):
            beat(Phase.READING, step)
            with span("read"):
                batch = next(batches)
            beat(Phase.LEARNING, step)
            yield batch

    def forward(self, batch: Batch) -> tuple[torch.Tensor, Outputs]:
        """Loss and outputs; an error on every rank when one of them has no finite loss, or could not save."""
        with span("forward"), autocast(self._sharded.device, self._sharded.compute):
            loss, outputs = self._sharded.module(batch if self._anchor is None else self._anchor.teach(batch))
        detached, logits, labels, weights = outputs
        with span("agree"):
            try:
                self._agreed = self._agreement.reach(
                    detached,
                    step=self._step,
                    wants_report=self._progress.is_due(),
                    wants_save=self._wants_save(),
                    failure=self._saver.error if self._saver is not None else None,
                )
            except NonFiniteLossError as error:
                raise NonFiniteLossError(f"{error}: {self._extremes(batch, detached)}") from None
        with span("score"):
            self._metrics.update(logits, labels, weights)
        self._progress.passed(self._step, loss=self._agreed.loss)
        self._step += 1
        return loss, outputs

    def ready(self, batch: Batch) -> Batch:
        """On the model's device, with all that a step needs."""
        moved = batch.to(self._sharded.device)
        return moved if self._anchor is None else self._anchor.teach(moved)

    def report_when_due(self) -> None:
        """A line of progress, now and then."""
        if self._agreed.report:
            self._progress.report(self._metrics.compute())

    def save_when_due(self) -> None:
        """A checkpoint within the day, now and then; called when the step is learnt."""
        if self._saver is None:
            return
        if self._agreed.save:
            self._saver.save(self._step, self._state())
        elif self._step == self._first + 1:
            self._saver.warm_up(self._state())

    def own_state(self) -> dict[str, torch.Tensor]:
        """What this rank alone knows so far, its metrics and the rows it touched; what is loaded into them counts."""
        marks = {} if self._touched is None else {"touched": self._touched.marks}
        return {**self._metrics.state_dict(), **marks}

    def _extremes(self, batch: Batch, loss: torch.Tensor) -> str:
        """The largest dense value of every rank whose loss is not finite. A collective, on the way out."""
        own = None if bool(torch.isfinite(loss)) else "column {} has the value {:g}".format(*self._largest(batch))
        everywhere: list[str | None] = [None] * dist.get_world_size()
        dist.all_gather_object(everywhere, own)
        return "; ".join(f"on rank {rank} {told}" for rank, told in enumerate(everywhere) if told is not None)

    def _wants_save(self) -> bool:
        is_last = self._step + 1 == self._num_steps  # the day's own checkpoint follows
        return self._saver is not None and dist.get_rank() == 0 and not is_last and self._saver.is_due()

    def _state(self) -> dict[str, Any]:
        return state_of(self._sharded, self.own_state())

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


@dataclass(frozen=True, kw_only=True)
class _Agreed:
    """The same on every rank."""

    loss: float
    """Mean over ranks."""
    report: bool
    save: bool


class _Agreement:
    """What ranks tell each other every step, in one small reduction: loss, trouble, time for a report or a save."""

    def __init__(self, device: torch.device) -> None:
        self._rank, self._world_size = dist.get_rank(), dist.get_world_size()
        self._message = torch.zeros(3 + 2 * self._world_size)
        self._device = device

    def reach(
        self,
        loss: torch.Tensor,
        *,
        step: int,
        wants_report: bool,
        wants_save: bool = False,
        failure: BaseException | None = None,
    ) -> _Agreed:
        """What rank 0 wants; an error on every rank for the `failure` of a save on any, or a loss without value."""
        value = float(loss)
        finite = abs(value) < float("inf")
        self._message.zero_()
        self._message[0] = value / self._world_size if finite else 0.0
        self._message[1] = float(wants_report and self._rank == 0)
        self._message[2] = float(wants_save and self._rank == 0)
        self._message[3 + self._rank] = float(not finite)
        self._message[3 + self._world_size + self._rank] = float(failure is not None)
        message = self._message.to(self._device)
        dist.all_reduce(message)
        mean_loss, report, save, *trouble = message.tolist()
        if failed := _flagged(trouble[self._world_size :]):
            raise SaveFailedError(
                f"a checkpoint within the day failed on rank(s) {failed}, seen at step {step}: "
                f"{failure or 'their logs say why'}"
            ) from failure
        if ranks := _flagged(trouble[: self._world_size]):
            raise NonFiniteLossError(
                f"the loss of batch {step} is not finite on rank(s) {ranks}; nothing was learnt from it. "
                "Lower the learning rates, or look for extreme values in that batch"
            )
        return _Agreed(loss=mean_loss, report=bool(report), save=bool(save))


def _flagged(flags: list[float]) -> list[int]:
    return [rank for rank, flag in enumerate(flags) if flag]


class _Progress:
    """Lines for a person who waits, from rank 0."""

    def __init__(self, reader: DayReader, *, tasks: Sequence[str], first: int) -> None:
        self._reader = reader
        self._tasks = tasks
        self._started = self._last = time.monotonic()
        self._first = self._step = first
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
        steps = max(self._step - self._first, 1)
        left = (self._reader.num_batches - self._step) * seconds / steps
        examples = values[self._tasks[0]]["examples"]
        if dist.get_rank() == 0:
            log.info(
                "ds=%s step=%d/%d examples=%d (%.0f %%) %.0f examples/s eta=%.0fs loss=%.4f %s",
                self._reader.partition.ds,
                self._step,
                self._reader.num_batches,
                examples,
                100 * self._step / self._reader.num_batches,
                examples * steps / max(self._step, 1) / seconds,
                left,
                self._loss,
                " ".join(f"ne[{task}]={values[task]['ne']:.4f}" for task in self._tasks),
            )
