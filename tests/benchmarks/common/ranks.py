"""The measured ranks: whole days against the bare loop, in turns, in processes that `trainer.launch` starts."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
import torch.distributed as dist
from pydantic import TypeAdapter
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from features.batches import Batch, Encoder
from features.lake import Lake, Partition
from features.reader import DayReader
from tests.benchmarks.common.process import Rank, as_rank, launch
from tests.benchmarks.common.split import split_day
from tests.benchmarks.common.workloads import Workload
from trainer import sharding
from trainer.config import TrainingConfig
from trainer.heartbeat import Phase, beat
from trainer.job import Launch
from trainer.launch import run_ranks
from trainer.loop import learn

Kind = Literal["whole", "bare"]


@dataclass(frozen=True, kw_only=True)
class Job:
    """What the ranks are told."""

    config: TrainingConfig
    lake: str
    examples: Partition
    runs: int
    """Turns that count, after a first day and a first bare loop that do not."""
    kinds: tuple[Kind, ...]
    """Measured one after the other in every turn."""
    splits: int
    """Days of their own, at the end, in which the parts of a step are timed."""
    alone: bool
    """Every rank learns the whole day by itself, at the same time as the others."""


@dataclass(frozen=True, kw_only=True)
class Timing:
    """One pass over the day."""

    seconds: float
    """By the clock, of the slowest rank."""
    cpu_seconds: float
    """Of all ranks' threads together."""


@dataclass(frozen=True, kw_only=True)
class Result:
    """What one rank leaves behind. Figures are of its whole process group."""

    num_examples: int
    num_steps: int
    timings: dict[Kind, list[Timing]]
    split_ms: list[dict[str, float]]
    """Per split day: milliseconds per step by part, means over the ranks."""
    first_ne: float
    """Progressive NE of the cold first day, which learnt as it went: below 1 is better than the average rate."""
    last_ne: float
    """Of the last pass over the same day: lower, because the model has seen it before."""

    def rates(self, kind: Kind) -> list[float]:
        """Examples per second by the clock, turn by turn."""
        return [self.num_examples / timing.seconds for timing in self.timings[kind]]

    def cpu_rates(self, kind: Kind) -> list[float]:
        """Examples per second of CPU time, turn by turn."""
        return [self.num_examples / timing.cpu_seconds for timing in self.timings[kind]]


_JOBS, _RESULTS = TypeAdapter(Job), TypeAdapter(Result)


def run(
    workload: Workload,
    *,
    ranks: int,
    runs: int,
    kinds: tuple[Kind, ...] = ("whole", "bare"),
    splits: int = 0,
    alone: bool = False,
    start: Launch = run_ranks,
) -> list[Result]:
    """The ranks' results. start: what starts them. RuntimeError with the failing rank's message."""
    job = Job(
        config=workload.config,
        lake=workload.lake,
        examples=workload.examples,
        runs=runs,
        kinds=kinds,
        splits=splits,
        alone=alone,
    )
    found = launch("tests.benchmarks.common.ranks:main", _JOBS.dump_json(job), ranks=ranks, start=start)
    return [_RESULTS.validate_json(result) for result in found]


def main(path: str) -> None:
    """One rank."""

    def work(given: bytes, rank: Rank) -> bytes:
        job = _JOBS.validate_json(given)
        return _RESULTS.dump_json(measure(job, rank))

    alone = _JOBS.validate_json(Path(path).read_bytes()).alone
    as_rank(path, work, device="cpu", alone=alone)


def measure(job: Job, rank: Rank) -> Result:
    """A cold day, the turns, the splits. A collective of the default process group."""
    tasks = job.config.task_names
    reader = DayReader(
        Lake(job.lake),
        job.examples,
        Encoder(job.config.schema, tasks=tasks),
        batch_size=job.config.batch_size,
        rank=dist.get_rank(),
        world_size=dist.get_world_size(),
        seed=job.config.seed,
    )
    sharded = sharding.build(job.config, local_world_size=rank.local_world_size, device=rank.device)
    in_memory = list(reader.batches()) if "bare" in job.kinds else []
    first = last = learn(sharded, reader, tasks=tasks, cold_start=True)
    timings: dict[Kind, list[Timing]] = {kind: [] for kind in job.kinds}
    if "bare" in job.kinds:
        bare_loop(sharded, [fresh(batch) for batch in in_memory])
    for _ in range(job.runs):
        for kind in job.kinds:
            beat(Phase.SAVING)  # a phase without a deadline
            batches = [fresh(batch) for batch in in_memory] if kind == "bare" else []
            rank.wait()
            clock = _Clock()
            if kind == "bare":
                bare_loop(sharded, batches)
            else:
                last = learn(sharded, reader, tasks=tasks, cold_start=False)
            timings[kind].append(clock.stop())
    splits = []
    for _ in range(job.splits):
        rank.wait()
        splits.append(split_day(sharded, reader, tasks=tasks))
    return Result(
        num_examples=reader.num_rows,
        num_steps=reader.num_batches,
        timings=timings,
        split_ms=splits,
        first_ne=first[tasks[0]]["ne"],
        last_ne=last[tasks[0]]["ne"],
    )


def bare_loop(sharded: sharding.ShardedModel, batches: list[Batch]) -> None:
    """The limit: nothing but the step."""
    sharded.module.train()
    for batch in batches:
        sharded.dense.zero_grad(set_to_none=True)
        loss, _ = sharded.module(batch)
        loss.backward()
        sharded.dense.step()


def fresh(batch: Batch) -> Batch:
    """The batch as the reader makes it: a KeyedJaggedTensor keeps what was once computed of it."""

    def anew(ids: KeyedJaggedTensor) -> KeyedJaggedTensor:
        return KeyedJaggedTensor(keys=ids.keys(), values=ids.values(), lengths=ids.lengths(), stride=ids.stride())

    return Batch(
        user_sparse=anew(batch.user_sparse),
        user_dense=batch.user_dense,
        item_sparse=anew(batch.item_sparse),
        item_dense=batch.item_dense,
        labels=batch.labels,
        weights=batch.weights,
        num_examples=batch.num_examples,
    )


class _Clock:
    """Of one pass."""

    def __init__(self) -> None:
        dist.barrier()
        self._started, self._cpu = time.perf_counter(), time.process_time()

    def stop(self) -> Timing:
        """A collective."""
        seconds = torch.tensor(time.perf_counter() - self._started, dtype=torch.float64)
        cpu_seconds = torch.tensor(time.process_time() - self._cpu, dtype=torch.float64)
        dist.all_reduce(seconds, op=dist.ReduceOp.MAX)
        dist.all_reduce(cpu_seconds)
        return Timing(seconds=seconds.item(), cpu_seconds=cpu_seconds.item())
