"""Every DAG file parses, cheaply, and each DAG is the list of steps that the architecture names."""

from __future__ import annotations

import itertools
import subprocess
import sys
from dataclasses import replace
from importlib.machinery import PathFinder
from pathlib import Path
from typing import Any

import pytest

from infra.settings import REPOSITORY, child_environment
from trainer.recipes import DOWNSTREAM_MODELS, USER_MODELS, get_recipe
from trainer.serving import Serving

HEAVY = ("infra.settings", "torch", "torchrec", "pyarrow", "mlflow", "deltalake", "polars", "numpy", "matplotlib")
DAG_FILES = (
    "dags.user_models, dags.reviews, dags.rollbacks, dags.freshness, dags.downstreams, dags.retention, dags.store_loads"
)


@pytest.fixture(scope="module")
def dagbag(airflow_home: Path) -> Any:
    from airflow.dag_processing.dagbag import DagBag

    return DagBag(dag_folder=str(REPOSITORY / "dags"))


def test_no_import_errors(dagbag: Any) -> None:
    assert dagbag.import_errors == {}
    kinds = ("user_model", "review", "rollback", "freshness", "retention", "serve")
    expected = {f"{kind}_{name}" for name in USER_MODELS for kind in kinds}
    expected |= {f"downstream_{name}" for name in DOWNSTREAM_MODELS}
    assert set(dagbag.dags) == expected


@pytest.mark.parametrize("recipe", sorted(USER_MODELS))
def test_user_model_is_the_day(dagbag: Any, recipe: str) -> None:
    dag = dagbag.dags[f"user_model_{recipe}"]
    line = ["build_examples", "train", "publish", "plan_inference", "infer_shard", "commit_inference"]
    line += ["check_shift", "gate"]
    for earlier, later in itertools.pairwise(line):
        assert dag.get_task(earlier).downstream_task_ids == {later}
    assert dag.get_task("gate").downstream_task_ids == {"promote", "hold", "reject"}
    assert dag.get_task("hold").downstream_task_ids == {"request_review"}
    assert dag.max_active_runs == 1
    assert dag.catchup is False
    assert [asset.name for asset in dag.get_task("promote").outlets] == [f"user_embeddings/{recipe}"]


@pytest.mark.parametrize("recipe", sorted(USER_MODELS))
def test_review_holds_by_default(dagbag: Any, recipe: str) -> None:
    decide = dagbag.dags[f"review_{recipe}"].get_task("decide")
    assert decide.defaults == ["hold"]
    assert decide.response_timeout is not None
    assert set(decide.options) == {"hold", "promote", "reject", "rollback"}
    assert decide.downstream_task_ids == {"keep_on_hold", "promote", "reject", "rollback"}
    assert decide.params.dump() == {"note": None}, "a note may be left out"


@pytest.mark.parametrize("name", sorted(DOWNSTREAM_MODELS))
def test_downstream_runs_per_promoted_partition(dagbag: Any, name: str) -> None:
    from airflow.sdk import AssetAny, PartitionedAssetTimetable

    dag = dagbag.dags[f"downstream_{name}"]
    assert isinstance(dag.timetable, PartitionedAssetTimetable)
    condition = dag.timetable.asset_condition
    waited_for = {asset.name for asset in (condition.objects if isinstance(condition, AssetAny) else [condition])}
    assert waited_for == {f"user_embeddings/{upstream}" for upstream in DOWNSTREAM_MODELS[name]().upstreams}


@pytest.mark.parametrize("recipe", sorted(USER_MODELS))
def test_each_promoted_day_is_loaded(dagbag: Any, recipe: str) -> None:
    from airflow.sdk import PartitionedAssetTimetable

    dag = dagbag.dags[f"serve_{recipe}"]
    assert isinstance(dag.timetable, PartitionedAssetTimetable)
    assert dag.timetable.asset_condition.name == f"user_embeddings/{recipe}"
    assert dag.task_ids == ["load"]


def test_where_consumers_learn_first_they_release_what_is_loaded(
    airflow_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from airflow.sdk import AssetAny

    from dags.downstreams import downstream_model
    from dags.store_loads import serving

    demo = replace(get_recipe("demo"), serving=Serving(after="learning"))
    monkeypatch.setitem(USER_MODELS, "demo", lambda: demo)
    consumer: Any = downstream_model(DOWNSTREAM_MODELS["demo_ctr"]())
    assert consumer.get_task("retrain").downstream_task_ids == {"release_demo"}
    assert [asset.name for asset in consumer.get_task("release_demo").outlets] == ["released_embeddings/demo"]
    wakes = serving(demo).timetable.asset_condition  # type: ignore[attr-defined]
    assert isinstance(wakes, AssetAny)
    assert {asset.name for asset in wakes.objects} == {"user_embeddings/demo", "released_embeddings/demo"}


def test_a_dags_steps_go_to_the_queue_that_is_set(airflow_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from dags.user_models import user_model

    monkeypatch.setenv("AIRFLOW__USERMODEL__EDGE_QUEUES", '{"train": "gpu", "infer_shard": "wide"}')
    dag: Any = user_model(get_recipe("demo"))
    placed = {task.task_id: (task.executor, task.queue) for task in dag.tasks if task.executor}
    assert placed == {"train": ("EdgeExecutor", "gpu"), "infer_shard": ("EdgeExecutor", "wide")}


def test_every_task_retries_but_not_bad_input(dagbag: Any) -> None:
    for dag in dagbag.dags.values():
        for task in dag.tasks:
            # a second attempt at a rollback would be a second step back
            assert task.retries == (0 if task.task_id == "rollback" else 2), task
            assert task.retry_policy.rules[0].matches(ValueError("bad input")), task
            assert task.execution_timeout is not None, task
        assert dag.doc_md, dag.dag_id
        assert dag.tags, dag.dag_id


def test_no_file_hides_a_package() -> None:
    """Airflow puts the folder of the DAG files on the path that tasks import from, and an installed package may come
    after it."""
    folder = REPOSITORY / "dags"
    elsewhere = [entry for entry in sys.path if Path(entry).resolve() != folder]
    names = {path.stem for path in folder.glob("*.py")} - {"__init__"}
    assert not [name for name in names if PathFinder.find_spec(name, elsewhere) is not None]


def test_parsing_imports_nothing_heavy(airflow_home: Path) -> None:
    program = f"import sys, {DAG_FILES}; print(*sorted(set({HEAVY!r}) & set(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        check=True,
        cwd=REPOSITORY,
        env=child_environment(AIRFLOW_HOME=str(airflow_home)),
    )
    assert done.stdout.strip() == ""
