from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
from torch import nn

from features.schema import Schema, Table
from infra.settings import Settings
from tests.trainer.planned_worlds import LARGE, SMALL, cpus, gpus, plan_of, tables_model
from tests.trainer.planted import DAY, SCHEMA, planted_recipe
from trainer.checkpoint import DamagedCheckpointError
from trainer.config import TrainingConfig
from trainer.job import train
from trainer.planning.cluster import Cluster
from trainer.planning.document import DOCUMENT, SavedPlan, why_not
from trainer.planning.inherit import plan_job, read_plan
from trainer.planning.rules import ROW_WISE, TABLE_ROW_WISE, TABLE_WISE, tables_of
from trainer.trained import TrainedDay

CONFIG = TrainingConfig.of(planted_recipe())


def saved_plan(model: nn.Module, cluster: Cluster) -> SavedPlan:
    return SavedPlan.of(plan_of(model, cluster).sharding, tables_of(model), cluster)


@pytest.mark.parametrize(
    ("rows", "cluster", "kinds"),
    [
        pytest.param((SMALL, SMALL), cpus(), {TABLE_WISE}, id="table-wise"),
        pytest.param((LARGE, SMALL), cpus(gb=1), {ROW_WISE, TABLE_WISE}, id="row-wise"),
        pytest.param((LARGE + 1, SMALL), gpus(2, 2, gb=0.5), {TABLE_ROW_WISE, TABLE_WISE}, id="table-row-wise"),
        pytest.param((SMALL,), gpus(1, 1), {TABLE_WISE}, id="one-gpu"),
    ],
)
def test_a_plan_comes_back_as_it_was(rows: tuple[int, ...], cluster: Cluster, kinds: set[str]) -> None:
    model = tables_model(*rows)
    plan = plan_of(model, cluster).sharding
    again = SavedPlan.from_json(SavedPlan.of(plan, tables_of(model), cluster).to_json())
    assert again.sharding_plan() == plan
    assert again.sharding_plan().plan["0"] is not plan.plan["0"]
    assert {table.sharding_type for table in again.tables} == kinds


def test_what_is_no_plan_is_refused() -> None:
    with pytest.raises(ValueError, match=r"plan.json is no sharding plan .* train the day again"):
        SavedPlan.from_json('{"tables": 3}')


@pytest.mark.parametrize(
    ("rows", "dim", "cluster", "reason"),
    [
        pytest.param((SMALL, LARGE), 64, cpus(), None, id="same"),
        pytest.param((SMALL, LARGE), 64, cpus(gb=1000), None, id="more-memory"),
        pytest.param((SMALL, LARGE), 64, cpus(1, 1), "world size 2 -> 1", id="fewer-ranks"),
        pytest.param((SMALL, LARGE), 64, cpus(2, 2), "world size 2 -> 4", id="more-ranks"),
        pytest.param((SMALL, LARGE), 64, cpus(2, 1), "ranks per host 2 -> 1", id="other-hosts"),
        pytest.param((SMALL, LARGE), 64, gpus(), "device cpu -> cuda", id="other-device"),
        pytest.param((SMALL, LARGE + 1), 64, cpus(), "table t1 rows 2000000 -> 2000001", id="grown"),
        pytest.param((SMALL,), 64, cpus(), "table t1 is gone", id="gone"),
        pytest.param((SMALL, LARGE, SMALL), 64, cpus(), "table t2 is new", id="new"),
        pytest.param(
            (SMALL, LARGE), 32, cpus(), "table t0 dimension 64 -> 32; table t1 dimension 64 -> 32", id="dimension"
        ),
    ],
)
def test_when_a_plan_is_taken_over(rows: tuple[int, ...], dim: int, cluster: Cluster, reason: str | None) -> None:
    saved = saved_plan(tables_model(SMALL, LARGE), cpus())
    assert why_not(saved, tables_of(tables_model(*rows, dim=dim)), cluster) == reason


def with_rows(rows: int) -> Schema:
    tables = [Table(name=t.name, num_rows=rows) if t.name == "item" else t for t in SCHEMA.tables]
    return replace(SCHEMA, tables=tuple(tables))


@pytest.mark.parametrize(
    ("change", "cluster", "origin"),
    [
        pytest.param(lambda c: c, cpus(), "plan reused", id="same"),
        pytest.param(lambda c: replace(c, batch_size=7), cpus(), "plan reused", id="batch-size"),
        pytest.param(lambda c: c, cpus(1, 1), "planned anew: world size 2 -> 1", id="world-size"),
        pytest.param(
            lambda c: replace(c, schema=with_rows(999)), cpus(), "planned anew: table user_item rows", id="tables"
        ),
    ],
)
def test_a_jobs_plan_and_its_origin(
    change: Callable[[TrainingConfig], TrainingConfig], cluster: Cluster, origin: str
) -> None:
    first, first_origin = plan_job(CONFIG, cpus(), parent=None)
    assert first_origin == "planned anew: no earlier plan"
    second, second_origin = plan_job(change(CONFIG), cluster, parent=first)
    assert second_origin.startswith(origin)
    assert (second == first) == (origin == "plan reused")


def logs(settings: Settings, ds: object) -> str:
    found = (settings.logs / "training").glob(f"tiny-ds={ds}-*/**/combined.log")
    return "".join(path.read_text() for path in found)


def test_two_days_have_the_same_plan(home: Settings, pair: tuple[TrainedDay, TrainedDay]) -> None:
    first, second = ((day.path / DOCUMENT).read_bytes() for day in pair)
    assert first == second
    plan = read_plan(pair[0].path)
    assert plan is not None
    assert (plan.hosts, plan.ranks_per_host, len(plan.tables)) == (1, 2, 5)
    assert "planned anew: no earlier plan" in logs(home, pair[0].ds)
    assert "plan reused" in logs(home, pair[1].ds)


def test_a_day_at_another_world_size_plans_anew(
    home: Settings, pair: tuple[TrainedDay, TrainedDay], tmp_path: Path
) -> None:
    shutil.copytree(home.checkpoints / "tiny", tmp_path / "checkpoints" / "tiny")
    settings = Settings(home=tmp_path, ranks=1, lake_uri=home.lake, _env_file=None)
    third = train(planted_recipe(), DAY + timedelta(2), settings=settings)
    assert third.parent_fingerprint == pair[1].fingerprint
    plan = read_plan(third.path)
    assert plan is not None
    assert plan.ranks_per_host == 1
    assert "planned anew: world size 2 -> 1" in logs(settings, third.ds)


def test_a_plan_is_verified_before_it_is_read(pair: tuple[TrainedDay, TrainedDay], tmp_path: Path) -> None:
    shutil.copytree(pair[1].path, tmp_path / "day")
    path = tmp_path / "day" / DOCUMENT
    path.write_text(path.read_text().replace("rank:0", "rank:1", 1))
    with pytest.raises(DamagedCheckpointError, match=r"plan.json has SHA-256"):
        read_plan(tmp_path / "day")


def test_a_checkpoint_from_before_plans_has_none(pair: tuple[TrainedDay, TrainedDay], tmp_path: Path) -> None:
    shutil.copytree(pair[1].path, tmp_path / "day")
    manifest = tmp_path / "day" / "manifest.json"
    manifest.write_text(manifest.read_text().replace(f'"{DOCUMENT}"', '"other.json"'))
    assert read_plan(tmp_path / "day") is None
