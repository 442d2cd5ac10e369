"""One GPU: examples/s, bandwidth of the tables' kernels against a device copy, share of the matrix peak. Needs CUDA.

Every model is trained on one GPU at TF32 and at bf16 (autocast of the dense part). `bare` steps through batches that
are on the GPU already; `pipeline` is `TrainPipelineSparseDist` over batches in the host's memory; `whole` is a day from
Delta on disk (`trainer.loop.learn`), its start included. Bandwidth: bytes of the rows that the ids ask for, x 4 x 3
(read in forward, read and written in backward), by the time of the embedding kernels; `bandwidth_least` counts a row
that several ids of a batch share once, for caches answer the others. The limit is a copy within the GPU's memory in the
same run. Dense part: FLOPs of a step (FlopCounterMode) over those of a product of 8192 x 8192 matrices at the same
precision, in the step's whole time and in that of its matrix kernels. `ratio` is the bandwidth of the largest tables'
model (`dlrm`) over the copy's. Without the advertising log, DLRM's ids are drawn.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

import torch
from pydantic import TypeAdapter

from features.batches import Batch, Encoder
from features.lake import Lake, Partition
from features.reader import DayReader
from tests.benchmarks.common.cost import EmbeddingBytes, embedding_bytes, flops
from tests.benchmarks.common.kernels import (
    KINDS,
    copy_bytes_per_second,
    kernels_of,
    peak_flops_per_second,
    seconds_by_kind,
)
from tests.benchmarks.common.process import Rank, as_rank, launch
from tests.benchmarks.common.ranks import fresh
from tests.benchmarks.common.report import finish, machine, options_of, parser, show, spread
from tests.benchmarks.common.workloads import Workload, has_data, workload
from trainer import sharding
from trainer.config import TrainingConfig
from trainer.device import autocast, set_up
from trainer.loop import learn
from trainer.model.multi_task import Outputs
from trainer.pipeline import OverlappedSteps
from trainer.recipe import Compute

GOAL = 0.5
WARM_UP = 5
PROFILED = 20
ROWS = {"demo": 500_000, "globo": None, "fb_ctr_mini": 40_000, "dlrm": 2_097_152}
"""Of the day; None: as many as on a CPU."""
SHOWN_KERNELS = 12

Precision = Literal["tf32", "bf16"]


@dataclass(frozen=True, kw_only=True)
class Job:
    """What the rank is told."""

    config: TrainingConfig
    lake: str
    examples: Partition
    steps: int
    runs: int


_JOBS: TypeAdapter[Job] = TypeAdapter(Job)
_FOUND: TypeAdapter[dict[str, Any]] = TypeAdapter(dict[str, Any])


def rank_main(path: str) -> None:
    """The rank."""
    as_rank(path, lambda given, rank: _FOUND.dump_json(measure(_JOBS.validate_json(given), rank)), device="cuda")


def measure(job: Job, rank: Rank) -> dict[str, Any]:
    """Rates of the three loops, and kernels where the device is a GPU."""
    set_up(rank.device, job.config.compute)
    reader = DayReader(
        Lake(job.lake),
        job.examples,
        Encoder(job.config.schema, tasks=job.config.task_names),
        batch_size=job.config.batch_size,
        seed=job.config.seed,
    )
    full = list(itertools.islice(reader.batches(), min(job.steps, max(reader.num_batches - 1, 1))))
    host = list(itertools.islice(itertools.cycle(full), job.steps))
    there = [batch.to(rank.device) for batch in full]
    sharded = sharding.build(job.config, local_world_size=rank.local_world_size, device=rank.device)
    rates = {"bare": _bare_rates(sharded, there, job)}
    found = _costs(sharded, there, job) | _kernels(sharded, there, job)
    rates["pipeline"] = _pipeline_rates(sharded, host, job)
    rates["whole"] = _whole_rates(reader, job, rank)
    return {"rates": rates, **found}


def _steps(sharded: sharding.ShardedModel, batches: list[Batch]) -> None:
    """The bare loop, at the precision of the config."""
    sharded.module.train()
    for batch in batches:
        sharded.dense.zero_grad(set_to_none=True)
        loss, _ = _forward(sharded)(batch)
        torch.autograd.backward(loss)
        sharded.dense.step()


def _forward(sharded: sharding.ShardedModel) -> Callable[[Batch], tuple[torch.Tensor, Outputs]]:
    def forward(batch: Batch) -> tuple[torch.Tensor, Outputs]:
        with autocast(sharded.device, sharded.compute):
            result: tuple[torch.Tensor, Outputs] = sharded.module(batch)
        return result

    return forward


def _bare_rates(sharded: sharding.ShardedModel, there: list[Batch], job: Job) -> list[float]:
    _steps(sharded, [fresh(batch) for batch in there[:WARM_UP]])
    rates = []
    for _ in range(job.runs):
        batches = [fresh(batch) for batch in itertools.islice(itertools.cycle(there), job.steps)]
        seconds = _seconds(lambda batches=batches: _steps(sharded, batches), sharded.device)  # type: ignore[misc]
        rates.append(job.steps * job.config.batch_size / seconds)
    return rates


def _pipeline_rates(sharded: sharding.ShardedModel, host: list[Batch], job: Job) -> list[float]:
    pipeline = OverlappedSteps(sharded, _forward(sharded))

    def run(batches: Iterator[Batch]) -> None:
        for _ in host:
            pipeline.progress(batches)

    rates = []
    for _ in range(1 + job.runs):
        batches = iter([fresh(batch) for batch in host])
        seconds = _seconds(lambda batches=batches: run(batches), sharded.device)  # type: ignore[misc]
        rates.append(len(host) * job.config.batch_size / seconds)
    return rates[1:]


def _whole_rates(reader: DayReader, job: Job, rank: Rank) -> list[float]:
    """A new model each: a pipeline leaves its own forward in the model."""
    rates = []
    for _ in range(1 + job.runs):
        sharded = sharding.build(job.config, local_world_size=rank.local_world_size, device=rank.device)

        def day(sharded: sharding.ShardedModel = sharded) -> None:
            learn(sharded, reader, tasks=job.config.task_names, cold_start=True)

        rates.append(reader.num_rows / _seconds(day, rank.device))
    return rates[1:]


def _seconds(run: Callable[[], object], device: torch.device) -> float:
    _synchronize(device)
    started = time.perf_counter()
    run()
    _synchronize(device)
    return time.perf_counter() - started


def _synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _costs(sharded: sharding.ShardedModel, there: list[Batch], job: Job) -> dict[str, Any]:
    """Per step."""
    of = [embedding_bytes(job.config, batch) for batch in there[:PROFILED]]
    return {
        "flops": flops(lambda: _steps(sharded, [fresh(there[0])])),
        "requested_bytes": _mean(of, lambda one: one.requested),
        "least_bytes": _mean(of, lambda one: one.least),
    }


def _mean(of: list[EmbeddingBytes], value: Callable[[EmbeddingBytes], int]) -> float:
    return sum(value(one) for one in of) / len(of)


def _kernels(sharded: sharding.ShardedModel, there: list[Batch], job: Job) -> dict[str, Any]:
    """Seconds per step by kind of kernel, and the limits; nothing on a CPU."""
    if sharded.device.type != "cuda":
        return {}
    batches = [fresh(batch) for batch in there[:PROFILED]]
    kernels = kernels_of(lambda: _steps(sharded, batches))
    per_step = {name: seconds / len(batches) for name, seconds in kernels.most_common()}
    return {
        "kernel_seconds": seconds_by_kind(per_step.items()),
        "slowest_kernels_us": {
            name[:100]: round(1e6 * seconds, 1) for name, seconds in list(per_step.items())[:SHOWN_KERNELS]
        },
        "copy_bytes_per_second": copy_bytes_per_second(sharded.device),
        "peak_flops_per_second": peak_flops_per_second(sharded.device, matmul=job.config.compute.matmul),
    }


def line_of(found: dict[str, Any], *, name: str, matmul: str, batch_size: int) -> dict[str, Any]:
    """What a rank found, as rates and shares of the limits."""
    bare = spread(found["rates"]["bare"])
    seconds, step_seconds = found["kernel_seconds"], batch_size / bare["median"]
    copy, peak = found["copy_bytes_per_second"], found["peak_flops_per_second"]
    requested, least = (
        found[key] / seconds["embedding"] if seconds["embedding"] else 0.0 for key in ("requested_bytes", "least_bytes")
    )
    return {
        "model": name,
        "matmul": matmul,
        "batch_size": batch_size,
        "examples_per_second": {loop: spread(rates) for loop, rates in found["rates"].items()},
        "kernel_ms": {kind: round(1000 * seconds[kind], 4) for kind in KINDS},
        "slowest_kernels_us": found["slowest_kernels_us"],
        "bandwidth": round(requested / 1e9, 1),
        "bandwidth_least": round(least / 1e9, 1),
        "copy_bandwidth": round(copy / 1e9, 1),
        "bandwidth_ratio": round(requested / copy, 3),
        "bandwidth_least_ratio": round(least / copy, 3),
        "gigaflops_per_step": round(found["flops"] / 1e9, 3),
        "peak_teraflops": round(peak / 1e12, 1),
        "peak_share_of_step": round(found["flops"] / step_seconds / peak, 4),
        "peak_share_of_matrix_kernels": round(found["flops"] / max(seconds["matrix_products"], 1e-9) / peak, 4),
    }


def main() -> None:
    """A line per model and precision, then the result."""
    arguments = parser(__doc__)
    arguments.add_argument("--batch-size", type=int, default=8192, help="examples per step (default 8192)")
    arguments.add_argument("--steps", type=int, default=200, help="steps of a run (default 200)")
    arguments.add_argument("--models", nargs="+", choices=list(ROWS), help="default: all that have their data")
    parsed = arguments.parse_args()
    options = options_of(parsed)
    if not torch.cuda.is_available():
        print("this benchmark needs a GPU: torch sees none here")
        show({"benchmark": "gpu", "skipped": "needs a GPU", "ratio": None})
        return
    names = parsed.models or [name for name in ROWS if name == "dlrm" or has_data(name, options=options)]
    results = []
    with machine() as seen:
        for name in names:
            day = workload(name, options=options, rows=ROWS[name], drawn=True)
            for matmul in get_args(Precision):
                results.append(_line(day, name, matmul, parsed.batch_size, parsed.steps, options.runs))
                show(results[-1])
    largest = next((result for result in results if result["model"] == "dlrm"), results[-1])
    finish(
        "gpu",
        options=options,
        gpu=torch.cuda.get_device_name(),
        results=results,
        machine=seen,
        goal=GOAL,
        ratio=largest["bandwidth_ratio"],
    )


def _line(day: Workload, name: str, matmul: Precision, batch_size: int, steps: int, runs: int) -> dict[str, Any]:
    config = replace(day.config, batch_size=batch_size, compute=Compute(matmul=matmul))
    job = Job(config=config, lake=day.lake, examples=day.examples, steps=steps, runs=runs)
    (found,) = launch("tests.benchmarks.gpu:rank_main", _JOBS.dump_json(job), ranks=1)
    return line_of(_FOUND.validate_json(found), name=name, matmul=matmul, batch_size=batch_size)


if __name__ == "__main__":
    main()
