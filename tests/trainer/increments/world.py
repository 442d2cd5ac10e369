"""The planted world with tables that a day touches little of, and ranks that write and compare both forms of a
checkpoint of it: what `run_ranks` starts."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from features.batches import Batch, Encoder
from infra.settings import torchrun_rank
from tests.trainer.global_batches import split_every_table
from tests.trainer.planted import SCHEMA, PlantedSource, planted_examples, planted_recipe
from trainer import sharding
from trainer.checkpoint import Base, hashed_part, save_state, seal
from trainer.config import TrainingConfig
from trainer.increments.load import tensors_of
from trainer.increments.save import save_increment
from trainer.increments.touched import Touched
from trainer.pipeline import Steps
from trainer.recipe import Recipe
from trainer.sharding import ShardedModel
from trainer.shards import local_parts

LARGE = replace(SCHEMA, tables=tuple(replace(table, num_rows=6_007) for table in SCHEMA.tables))
STEPS = 4
_BATCH = 32


def large_recipe(**changes: object) -> Recipe:
    """Tables of 6007 rows; a day looks up at most 200 of one."""
    return planted_recipe(source=PlantedSource(schema=LARGE), **changes)


def batches(config: TrainingConfig, *, seed: int) -> Iterator[Batch]:
    """This rank's."""
    rank, world_size = dist.get_rank(), dist.get_world_size()
    encoder = Encoder(config.schema, tasks=config.task_names)
    rows = planted_examples(_BATCH * world_size * STEPS, seed=seed).select(encoder.columns)
    for step in range(STEPS):
        batch = encoder.encode(rows.slice((step * world_size + rank) * _BATCH, _BATCH).combine_chunks())
        batch.num_examples = torch.tensor(float(_BATCH))
        yield batch


def learn(sharded: ShardedModel, config: TrainingConfig, *, seed: int) -> Touched:
    """Some steps; what they touched, on every rank."""
    touched = Touched(config)
    pipeline, given = Steps(sharded, sharded.module), touched.watch(batches(config, seed=seed))
    for _ in range(STEPS):
        pipeline.progress(given)
    touched.merge(sharded.device)
    return touched


def sealed(path: Path, *, base: Path | None = None) -> Path:
    """What every rank has written to `<path>.partial`."""
    partial = path.with_name(f"{path.name}.partial")
    hashed: list[dict[str, Any]] = [{} for _ in range(dist.get_world_size())]
    dist.all_gather_object(hashed, hashed_part(partial, rank=dist.get_rank()))
    if dist.get_rank() == 0:
        merged = {name: entry for part in hashed for name, entry in part.items()}
        seal(partial, path, documents={}, hashed=merged, base=None if base is None else Base.of(base))
    dist.barrier()
    return path


def write(folder: Path, config: TrainingConfig) -> None:
    """`<folder>/base`; a few steps later the same state as `<folder>/full` and as `<folder>/increment`."""
    sharded = sharding.build(config, local_world_size=dist.get_world_size())
    learn(sharded, config, seed=1)
    save_state(folder / "base.partial", sharded.state_dict())
    sealed(folder / "base")
    touched = learn(sharded, config, seed=2)
    save_state(folder / "full.partial", sharded.state_dict())
    sealed(folder / "full")
    save_increment(folder / "increment.partial", sharded.state_dict(), touched)
    sealed(folder / "increment", base=folder / "base")


def parts_of(sharded: ShardedModel) -> dict[str, torch.Tensor]:
    """A copy of all that is on this rank."""
    return {
        f"{name}{offsets}": part.detach().clone()
        for name, tensor in tensors_of(sharded.state_dict())
        for offsets, part in local_parts(tensor)
    }


def compare(folder: Path, config: TrainingConfig) -> None:
    """Load both forms, each into a new model; every bit is the same, and not the base's."""
    found = {}
    for form in ("base", "full", "increment"):
        sharded = sharding.build(config, local_world_size=dist.get_world_size())
        sharded.load(folder / form)
        found[form] = parts_of(sharded)
    assert found["full"].keys() == found["increment"].keys()
    different = [name for name, part in found["full"].items() if not torch.equal(part, found["increment"][name])]
    assert different == []
    # A rank may have none of the rows that moved; rank 0 has the dense part.
    assert dist.get_rank() or any(not torch.equal(found["base"][name], part) for name, part in found["full"].items())


def main(placement: str, to: str, *others: str) -> None:
    """Compare what lies in the folders `others`, then write `to`. placement: `planned`, or `row_wise`."""
    if placement == "row_wise":
        split_every_table()
    rank, world_size, _ = torchrun_rank()
    dist.init_process_group("gloo", init_method=f"file://{to}.store", rank=rank, world_size=world_size)
    config = TrainingConfig.of(large_recipe())
    for other in others:
        compare(Path(other), config)
    write(Path(to), config)
    dist.destroy_process_group()
