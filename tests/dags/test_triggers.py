"""Which runs the scheduler makes of promotions: Airflow's own bookkeeping of partition events, in a database."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from functools import reduce
from operator import and_, or_
from pathlib import Path
from types import SimpleNamespace

import pytest

from infra.settings import get_settings
from trainer.recipes import get_downstream

A, B = "user_embeddings/first", "user_embeddings/second"
pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture
def runs(airflow_home: Path, request: pytest.FixtureRequest) -> Callable[[str, str], list[str]]:
    """Emits an asset's partition event, lets the scheduler make runs, and returns their partitions."""
    from airflow.assets.manager import AssetManager
    from airflow.dag_processing.collection import update_dag_parsing_results_in_db
    from airflow.jobs.job import Job
    from airflow.jobs.scheduler_job_runner import SchedulerJobRunner
    from airflow.models.asset import AssetModel
    from airflow.models.dagbundle import DagBundleModel
    from airflow.models.dagrun import DagRun
    from airflow.sdk import DAG, Asset, PartitionedAssetTimetable
    from airflow.serialization.serialized_objects import LazyDeserializedDAG
    from airflow.utils.session import create_session
    from sqlalchemy import select

    how, name = request.param
    assets = reduce(how, [Asset(name=A, group="user_embeddings"), Asset(name=B, group="user_embeddings")])
    dag = DAG(
        dag_id=f"downstream_{name}", schedule=PartitionedAssetTimetable(assets=assets), is_paused_upon_creation=False
    )
    with create_session() as session:
        if session.get(DagBundleModel, "tests") is None:
            session.add(DagBundleModel(name="tests"))
            session.flush()
        update_dag_parsing_results_in_db("tests", None, [LazyDeserializedDAG.from_dag(dag)], {}, None, set(), session)
    scheduler = SchedulerJobRunner(job=Job())

    def emit(asset: str, ds: str) -> list[str]:
        with create_session() as session:
            model = session.scalar(select(AssetModel).where(AssetModel.name == asset))
            AssetManager().register_asset_change(asset=model.to_serialized(), partition_key=ds, session=session)
        with create_session() as session:
            before = set(session.scalars(select(DagRun.id)))
            scheduler._create_dagruns_for_partitioned_asset_dags(session)
            made = session.scalars(select(DagRun).where(DagRun.dag_id == dag.dag_id, DagRun.id.not_in(before)))
            return [str(run.partition_key) for run in made]

    return emit


@pytest.mark.parametrize("runs", [pytest.param((or_, "any"), id="any")], indirect=True)
def test_every_promotion_makes_a_run_of_its_day(runs: Callable[[str, str], list[str]]) -> None:
    assert runs(A, "2026-01-01") == ["2026-01-01"], "it will find that the other has not promoted the day, and skip"
    assert runs(B, "2026-01-01") == ["2026-01-01"]
    assert runs(B, "2026-01-02") == ["2026-01-02"]
    assert runs(B, "2026-01-01") == ["2026-01-01"], "a rollback of one model alone"


@pytest.mark.parametrize("runs", [pytest.param((and_, "all"), id="all")], indirect=True)
def test_what_waiting_in_airflow_would_lose(runs: Callable[[str, str], list[str]]) -> None:
    assert runs(A, "2026-01-01") == []
    assert runs(B, "2026-01-02") == [], "each day waits for its own"
    assert runs(B, "2026-01-01") == ["2026-01-01"]
    assert runs(B, "2026-01-01") == [], "a rollback of one model alone would reach nobody"


def test_a_run_that_finds_a_model_missing_is_skipped(
    airflow_home: Path, tmp_path: Path, empty_store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from airflow.sdk.exceptions import AirflowSkipException

    from dags.downstreams import downstream_model

    shutil.copy(empty_store, tmp_path / "mlflow.db")
    monkeypatch.setenv("USERMODEL_MLFLOW_URI", f"sqlite:///{tmp_path}/mlflow.db")
    get_settings.cache_clear()
    retrain = downstream_model(get_downstream("demo_a_ctr_large")).get_task("retrain").python_callable
    with pytest.raises(AirflowSkipException, match="2026-01-02 waits for the promotion by demo_a, demo_b"):
        retrain("demo_a_ctr_large", dag_run=SimpleNamespace(partition_key="2026-01-02"))
