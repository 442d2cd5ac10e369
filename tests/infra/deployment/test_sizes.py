"""Sizes: the rules against what was measured, and against each other."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from infra.capacity.rates import RECORD_BYTES
from infra.commands import cli
from infra.deployment import sizes
from infra.deployment.sizes import GIB, Load, Part, Sizes
from infra.deployment.values import resources
from serving.record import ENTRY, HEADER, KEPT
from trainer.planning.cluster import CPU_HOST, GPU_HOST, Cluster
from trainer.planning.dense import DensePart
from trainer.planning.forecast import forecast
from trainer.planning.planned import PlannedModel, PlannedShard, PlannedTable
from trainer.recipe import Export, Recipe
from trainer.recipes import get_recipe
from trainer.serving import Serving

LOAD = Load(users=1_000_000, requests_per_second=1_000, ids_per_feature=6)


def planned_of(*, num_rows: int = 1_000_000, device: str = "cpu", hosts: int = 1) -> PlannedModel:
    """A user tower of one table of 64 columns on rank 0, another of the mix tower, and 2 MFLOP per example."""
    cluster = Cluster(hosts=hosts, ranks_per_host=2, hardware=CPU_HOST if device == "cpu" else GPU_HOST)
    shard = PlannedShard(
        rank=0, num_rows=num_rows, num_columns=64, weight_bytes=256 * num_rows, optimizer_bytes=4 * num_rows,
        io_bytes=0, lookup_ms=1.0, exchange_ms=1.0,
    )  # fmt: skip
    tables = tuple(
        PlannedTable(path=path, name=path[:4], num_rows=num_rows, dim=64, num_features=1, sharding_type="table_wise",
                     shards=(shard,))
        for path in ("user_tower.sparse.tables", "mix_tower.sparse.tables")
    )  # fmt: skip
    return PlannedModel(
        cluster=cluster, batch_size=256, ids_per_feature=6.0,
        dense=DensePart(parameter_bytes=4_000_000, forward_flops=256 * 2_000_000), tables=tables,
        sharding=None,  # type: ignore[arg-type]
    )  # fmt: skip


def sized(recipe: Recipe, load: Load = LOAD, **planned: Any) -> Sizes:
    """Of a recipe whose plan is `planned_of`."""
    plan = planned_of(**planned)
    return sizes.sizes_of(recipe, plan, forecast(plan), load)


@pytest.mark.parametrize(
    ("numbers", "measured"), [pytest.param(2 * 16, 400, id="D = 16"), pytest.param(2 * 96, 1_359, id="D = 96")]
)
def test_a_record_in_the_store_is_as_large_as_measured(numbers: int, measured: int) -> None:
    found = HEADER.size + KEPT * (ENTRY.size + 2 * numbers) + RECORD_BYTES.value
    assert found == pytest.approx(measured, abs=1)


def test_a_worker_is_asked_for_fewer_users_than_it_computes() -> None:
    seconds = sizes.compute_seconds(get_recipe("demo"))
    assert seconds == pytest.approx(61e-6, rel=0.02), "tests/benchmarks/README.md, compute"
    assert sizes.BUSY / seconds < 9_930


def test_sizes_grow_with_what_is_asked() -> None:
    small = sized(get_recipe("demo"))
    large = sized(get_recipe("demo"), replace(LOAD, users=2_000_000, requests_per_second=100_000))
    assert large.store_bytes == 2 * small.store_bytes
    assert large.state_bytes > small.state_bytes
    assert small.compute is not None
    assert large.compute is not None
    assert small.http.replicas == small.compute.replicas == 2, "of one there is none while it is exchanged"
    assert large.http.replicas == pytest.approx(100_000 * sizes.HTTP_SECONDS / sizes.BUSY, abs=1)
    assert large.compute.replicas == pytest.approx(100_000 * 61e-6 / sizes.BUSY, abs=1)
    assert large.compute.memory_bytes == small.compute.memory_bytes


def test_tables_that_no_worker_holds_lie_with_shards() -> None:
    recipe = get_recipe("demo")
    held, sharded = sized(recipe), sized(recipe, num_rows=100_000_000)
    assert held.shards is None
    assert held.compute is not None
    assert sharded.compute is not None
    assert held.compute.memory_bytes > 2 * 256_000_000, "two versions while one is exchanged"
    assert sharded.shards is not None
    assert sharded.shards.replicas * sharded.shards.memory_bytes > 2 * 25_600_000_000
    assert sharded.compute.memory_bytes < GIB
    quarter = sized(replace(recipe, export=Export(tables="int8")), num_rows=100_000_000)
    assert quarter.shards is not None
    assert quarter.shards.replicas == -(-sharded.shards.replicas * 72 // 256)


def test_a_mode_that_computes_nothing_needs_no_workers() -> None:
    batch = sized(replace(get_recipe("demo"), serving=Serving(mode="batch")))
    assert batch.compute is None
    assert batch.shards is None
    assert batch.store_bytes < sized(get_recipe("demo")).store_bytes


def test_training_asks_for_what_the_fullest_rank_holds() -> None:
    cpu, gpu = sized(get_recipe("demo")), sized(get_recipe("demo"), device="cuda", hosts=3)
    assert cpu.training.cpus == 2
    assert cpu.training.memory_bytes > 2 * 520_000_000, "both tables and their state lie on rank 0"
    assert (gpu.training.replicas, gpu.training.gpus) == (3, 2)
    assert resources(gpu.training)["limits"]["nvidia.com/gpu"] == "2"
    assert resources(Part(replicas=1, cpus=1, memory_bytes=GIB + 1))["requests"]["memory"] == "1088Mi"


def test_the_command_writes_values(tmp_path: Path) -> None:
    out = tmp_path / "sizes.json"
    asked = f"infra sizes --recipe globo --ranks-per-host 1 --users 1000 --requests-per-second 10 --out {out}"
    done = CliRunner().invoke(cli, asked)
    assert done.exit_code == 0, done.output
    assert "feature store" in done.stdout
    assert json.loads(out.read_text())["models"] == ["globo"]


def test_no_load_is_no_load() -> None:
    with pytest.raises(ValueError, match="requests_per_second is 0"):
        replace(LOAD, requests_per_second=0)
