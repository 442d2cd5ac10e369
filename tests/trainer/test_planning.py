from __future__ import annotations

import subprocess
import sys
import time

import pytest
import torch
from torch import nn

from infra.settings import REPOSITORY, child_environment
from tests.trainer.planned_worlds import LARGE, NO_DENSE, SMALL, cpus, gpus, plan_of, tables_model
from tests.trainer.planted import planted_recipe
from trainer.config import TrainingConfig
from trainer.planning.cluster import GB, Cluster, Hardware, job_cluster
from trainer.planning.dense import DensePart, measure, parameter_bytes
from trainer.planning.forecast import forecast
from trainer.planning.misfit import DoesNotFitError
from trainer.planning.model_plan import ModelPlanner
from trainer.planning.rules import ROW_WISE, TABLE_ROW_WISE, TABLE_WISE, allowed_types, tables_of
from trainer.planning.smallest import candidates, smallest_cluster
from trainer.planning.traffic import Traffic, traffic

MIXED = (LARGE, *[SMALL] * 9, LARGE // 2, SMALL)


@pytest.mark.parametrize(
    "cluster",
    [
        pytest.param(cpus(1, 1), id="1-cpu"),
        pytest.param(cpus(1, 2), id="2-cpu"),
        pytest.param(cpus(2, 2), id="4-cpu"),
        pytest.param(gpus(1, 1), id="1-gpu"),
        pytest.param(gpus(1, 4), id="4-gpu"),
        pytest.param(gpus(16, 8), id="128-gpu"),
    ],
)
def test_a_plan_places_every_row_once_and_within_memory(cluster: Cluster) -> None:
    planned = plan_of(tables_model(*MIXED), cluster)
    assert [table.num_rows for table in planned.tables] == list(MIXED)
    for table in planned.tables:
        assert sum(shard.num_rows * shard.num_columns for shard in table.shards) == table.num_rows * table.dim
        assert {shard.rank for shard in table.shards} <= set(range(cluster.world_size))
    for rank in forecast(planned).ranks:
        assert rank.used_bytes + rank.margin_bytes <= rank.limit_bytes


def test_three_hundred_tables_on_128_gpus_take_seconds_and_balance() -> None:
    model = tables_model(*[1_400_000] * 300, dim=96)
    started = time.monotonic()
    planned = plan_of(model, gpus(16, 8), batch_size=512)
    assert time.monotonic() - started < 20
    cost = forecast(planned)
    assert sum(rank.table_bytes for rank in cost.ranks) == 300 * 1_400_000 * 96 * 4
    assert cost.step_balance < 1.15  # whole tables alone: 3 on some ranks, 2 on others


@pytest.mark.parametrize(
    ("rows", "cluster", "expected"),
    [
        pytest.param(SMALL, cpus(), [TABLE_WISE], id="small"),
        pytest.param(LARGE, cpus(), [TABLE_WISE, ROW_WISE], id="cpu"),
        pytest.param(LARGE, cpus(1, 1), [TABLE_WISE], id="one-rank"),
        pytest.param(LARGE, cpus(2, 2), [TABLE_WISE, ROW_WISE], id="cpu-hosts"),
        pytest.param(LARGE, gpus(), [TABLE_WISE, ROW_WISE], id="gpus-of-one-host"),
        pytest.param(LARGE, gpus(2), [TABLE_WISE, TABLE_ROW_WISE], id="gpu-hosts"),
        pytest.param(LARGE, gpus(2, gb=1), [TABLE_WISE, TABLE_ROW_WISE, ROW_WISE], id="over-a-quarter-of-a-host"),
    ],
)
def test_which_tables_may_be_split(rows: int, cluster: Cluster, expected: list[str]) -> None:
    (table,) = tables_of(tables_model(rows))["0"]
    assert allowed_types(table, cluster) == expected


def test_a_table_of_more_than_one_rank_is_split() -> None:
    for cluster, expected in ((cpus(gb=1), ROW_WISE), (gpus(2, 2, gb=0.5), TABLE_ROW_WISE)):
        large = plan_of(tables_model(LARGE, SMALL), cluster).tables[0]
        assert large.sharding_type == expected
        assert [shard.num_rows for shard in large.shards] == [LARGE // 2] * 2


PLAN = """
from tests.trainer.planned_worlds import *
from trainer.planning.document import SavedPlan
from trainer.planning.rules import tables_of
model, cluster = tables_model(*[LARGE] * 7, *[SMALL] * 5), cpus(2, 2)
print(SavedPlan.of(plan_of(model, cluster).sharding, tables_of(model), cluster).to_json())
"""


@pytest.mark.slow
def test_every_process_plans_alike() -> None:
    plans = [
        subprocess.run(
            [sys.executable, "-c", PLAN],
            cwd=REPOSITORY,
            env=child_environment(PYTHONHASHSEED=seed),
            capture_output=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    ]
    assert plans[0] == plans[1]
    assert b"table_wise" in plans[0]


@pytest.mark.parametrize(
    ("rows", "cluster", "dense", "words"),
    [
        pytest.param(
            (SMALL,),
            gpus(gb=1),
            DensePart(parameter_bytes=GB),
            "does not fit 1 host x 2 GPUs of 1 GB each: the dense part alone needs 5.1 GB on every rank .* 4.1 GB over",
            id="dense",
        ),
        pytest.param(
            [LARGE] * 10,
            cpus(gb=4),
            NO_DENSE,
            "the tables and their optimizer need 5.2 GB, the ranks have 3.6 GB .*1.6 GB over; use more ranks",
            id="tables",
        ),
        pytest.param(
            (SMALL * 90,),
            cpus(1, 4, gb=0.8),
            NO_DENSE,
            r"table t0 .* needs 0.234 GB on one rank even table_wise, .* 0.0542 GB over; use ranks with more memory",
            id="table",
        ),
        pytest.param(
            [SMALL * 50] * 3,
            cpus(gb=0.45),
            NO_DENSE,
            "no rank has room left for table t2; the tables need 0.39 GB of 0.405 GB, but not in these pieces",
            id="pieces",
        ),
    ],
)
def test_what_does_not_fit_is_named(rows: tuple[int, ...], cluster: Cluster, dense: DensePart, words: str) -> None:
    with pytest.raises(DoesNotFitError, match=words):
        plan_of(tables_model(*rows), cluster, dense=dense)


@pytest.mark.parametrize(
    ("gb", "expected"),
    [
        pytest.param(80, (1, 1), id="one-gpu"),
        pytest.param(2, (1, 4), id="part-of-a-host"),
        pytest.param(0.25, (4, 8), id="hosts"),
    ],
)
def test_the_smallest_cluster(gb: float, expected: tuple[int, int]) -> None:
    model = tables_model(*[LARGE] * 12, features=1)  # 6.2 GB
    found = smallest_cluster(gpus(16, 8, gb=gb), lambda cluster: plan_of(model, cluster, batch_size=8))
    assert found is not None
    assert (found.hosts, found.ranks_per_host) == expected


@pytest.mark.parametrize(
    ("rows", "dense"),
    [
        pytest.param(SMALL, DensePart(parameter_bytes=GB), id="dense-part"),
        pytest.param(LARGE // 2, NO_DENSE, id="table-too-small-to-be-split"),
    ],
)
def test_no_number_of_hosts_makes_a_rank_larger(rows: int, dense: DensePart) -> None:
    assert smallest_cluster(gpus(gb=0.25), lambda cluster: plan_of(tables_model(rows), cluster, dense=dense)) is None


def test_clusters_are_tried_from_one_rank_to_many_hosts() -> None:
    first = [next_one for next_one, _ in zip(candidates(gpus(16, 6)), range(6), strict=False)]
    assert [(c.hosts, c.ranks_per_host) for c in first] == [(1, 1), (1, 2), (1, 4), (1, 6), (2, 6), (3, 6)]


LISTS = 64 * 2
IDS, LENGTHS, VECTORS = LISTS * 10 * 8, LISTS * 4, LISTS * 64 * 4


@pytest.mark.parametrize(
    ("rows", "cluster", "kind", "expected"),
    [
        pytest.param(
            SMALL,
            cpus(1, 4),
            TABLE_WISE,
            [Traffic(output=3 * VECTORS), *[Traffic(input_all_to_all=IDS + LENGTHS, gradient=VECTORS)] * 3],
            id="table-wise",
        ),
        pytest.param(
            LARGE,
            cpus(gb=1),
            ROW_WISE,
            [Traffic(input_all_to_all=IDS / 2 + LENGTHS, output=VECTORS, gradient=VECTORS)] * 2,
            id="row-wise",
        ),
        pytest.param(
            LARGE,
            gpus(2, 2, gb=0.5),
            TABLE_ROW_WISE,
            [
                *[Traffic(input_all_to_all=IDS / 2 + LENGTHS, output=3 * VECTORS, gradient=2 * VECTORS)] * 2,
                *[Traffic(input_all_to_all=IDS + 2 * LENGTHS, gradient=VECTORS)] * 2,
            ],
            id="table-row-wise",
        ),
    ],
)
def test_bytes_over_the_wire(rows: int, cluster: Cluster, kind: str, expected: list[Traffic]) -> None:
    planned = plan_of(tables_model(rows), cluster)
    assert planned.tables[0].sharding_type == kind
    assert list(traffic(planned)) == expected


def test_the_dense_parts_gradients_go_round_a_ring() -> None:
    planned = plan_of(tables_model(SMALL), cpus(1, 4), dense=DensePart(parameter_bytes=1000))
    assert {sent.dense_all_reduce for sent in traffic(planned)} == {1500.0}


def test_the_dense_part_is_measured_on_meta() -> None:
    with torch.device("meta"):
        model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4))
        inputs = torch.empty(32, 8)
    dense = measure(model, lambda: model(inputs), input_bytes=7)
    assert dense.parameter_bytes == parameter_bytes(model) == 4 * (8 * 16 + 16 + 16 * 4 + 4)
    assert dense.activation_bytes == 4 * 32 * (8 + 16)  # the input, and ReLU's output
    assert dense.forward_flops == 2 * 32 * (8 * 16 + 16 * 4)
    assert dense.state_bytes == 5 * dense.parameter_bytes
    assert dense.pipeline_bytes == 14


def test_a_user_model_is_planned_whole() -> None:
    planned = ModelPlanner(TrainingConfig.of(planted_recipe()), batch_size=32).plan(cpus())
    assert [table.path for table in planned.tables] == ["user_tower.sparse.tables"] * 3 + [
        "mix_tower.sparse.tables"
    ] * 2
    assert planned.dense.parameter_bytes > 0
    assert planned.dense.activation_bytes > 0
    (first, second) = forecast(planned).ranks
    assert first.optimizer_bytes + second.optimizer_bytes == 4 * sum(table.num_rows for table in planned.tables)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        pytest.param(lambda: cpus(0), "0 hosts x 2 ranks", id="no-host"),
        pytest.param(lambda: gpus(gb=0), "hbm_bytes is 0; a cuda host needs", id="no-memory"),
        pytest.param(
            lambda: job_cluster(world_size=3, local_world_size=2), "3 ranks are no multiple of 2", id="uneven"
        ),
        pytest.param(
            lambda: ModelPlanner(TrainingConfig.of(planted_recipe()), ids_per_feature=0),
            "0 ids per feature",
            id="no-ids",
        ),
    ],
)
def test_nonsense_is_refused(make: object, words: str) -> None:
    assert callable(make)
    with pytest.raises(ValueError, match=words):
        make()


def test_a_job_plans_for_its_own_ranks() -> None:
    cluster = job_cluster(world_size=4, local_world_size=2)
    assert isinstance(cluster.hardware, Hardware)
    assert (cluster.hosts, cluster.world_size, str(cluster)) == (2, 4, "2 hosts x 2 CPU ranks of 256 GB each")
