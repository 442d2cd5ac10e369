"""Where the time of a step goes, on a CPU."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
import torch.distributed as dist

from features.reader import DayReader
from trainer.loop import Scoring
from trainer.sharding import ShardedModel

PARTS = ("read", "forward", "agree_and_score", "backward", "optimize", "rest")
"""Wait for the reader; the model, exchanges included; agreement with the other ranks and metrics; gradients, their
exchange and the tables' update; the dense part's; everything else of the day."""


class _Parts:
    def __init__(self) -> None:
        self.seconds = dict.fromkeys(PARTS, 0.0)

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        started = time.perf_counter()
        yield
        self.seconds[name] += time.perf_counter() - started


def split_day(sharded: ShardedModel, reader: DayReader, *, tasks: Sequence[str]) -> dict[str, float]:
    """Milliseconds per step by part, means over the ranks: `trainer.loop.learn` with a clock around its parts.

    A collective of the default process group.
    """
    parts = _Parts()
    model_seconds = _seconds_of(sharded)
    started = time.perf_counter()
    scoring = Scoring(sharded, reader, tasks=tasks)
    batches = scoring.watched(reader)
    sharded.module.train()
    for _ in range(reader.num_batches):
        with parts.part("read"):
            batch = next(batches)
        with parts.part("optimize"):
            sharded.dense.zero_grad(set_to_none=True)
        with parts.part("agree_and_score"):
            loss, _ = scoring.forward(batch)
        with parts.part("backward"):
            torch.autograd.backward(loss)
        with parts.part("optimize"):
            sharded.dense.step()
        scoring.report_when_due()
    scoring.finish()
    total = time.perf_counter() - started
    parts.seconds["forward"] = sum(model_seconds())
    parts.seconds["agree_and_score"] -= parts.seconds["forward"]
    parts.seconds["rest"] = total - sum(parts.seconds.values())
    means = torch.tensor([parts.seconds[name] for name in PARTS], dtype=torch.float64)
    dist.all_reduce(means)
    per_step = 1000 / dist.get_world_size() / reader.num_batches
    return {name: value * per_step for name, value in zip(PARTS, means.tolist(), strict=True)}


def _seconds_of(sharded: ShardedModel) -> Callable[[], list[float]]:
    """Times every call of the module from here on; the function that is returned ends that and gives the times."""
    starts: list[float] = []
    seconds: list[float] = []

    def before(*_: object) -> None:
        starts.append(time.perf_counter())

    def after(*_: object) -> None:
        seconds.append(time.perf_counter() - starts[-1])

    handles = [sharded.module.register_forward_pre_hook(before), sharded.module.register_forward_hook(after)]

    def stop() -> list[float]:
        for handle in handles:
            handle.remove()
        return seconds

    return stop
