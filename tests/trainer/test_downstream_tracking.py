"""A retrained day in a real MLflow store."""

from __future__ import annotations

from pathlib import Path

import pytest

from infra.settings import Settings
from tests.trainer.downstream_world import CTR, UPSTREAM, World, day
from trainer import tracking
from trainer.downstream.retrain import retrain_on
from trainer.downstream.tracking import log_day

# MLflow imports its SQL store lazily, which SQLAlchemy warns about
pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader:DeprecationWarning")


def test_a_day_is_logged_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # a store without a server keeps its artifacts beside it
    settings = Settings(home=tmp_path / "home", mlflow_uri=f"sqlite:///{tmp_path}/mlflow.db", _env_file=None)
    world = World(settings=settings, examples_per_day=1_000)
    promoted = [world.commit_embeddings(day(0))]
    versions = []
    for index in (1, 2):
        world.commit_examples(day(index))
        trained = retrain_on(CTR, (UPSTREAM,), day(index), settings=settings, promoted={"tiny": promoted})
        versions += [log_day(trained, settings=settings) for _ in range(2)]
    assert versions == [1, 1, 2, 2]

    client = tracking.connect(settings)
    experiment = client.get_experiment_by_name("downstream/tiny_ctr")
    runs = client.search_runs([experiment.experiment_id])
    assert len(runs) == 3
    trend = client.get_run(tracking.open_trend(client, experiment.experiment_id))
    assert trend.info.status == "RUNNING"
    history = client.get_metric_history(trend.info.run_id, "train.sum.ne")
    assert [point.step for point in history] == [1, 2]
    evaluated = client.get_metric_history(trend.info.run_id, "eval.ne_diff_percent")
    assert trained.evaluation is not None
    assert [(point.step, point.value) for point in evaluated] == [(2, trained.evaluation.everyone.ne_diff_percent)]

    version = client.get_model_version("downstream.tiny_ctr", "2")
    assert version.tags["ds"] == "2026-01-03"
    assert version.tags["fingerprint"] == trained.fingerprint
    assert version.tags["user_model.tiny.embeddings"] == f"2026-01-01@{promoted[0].version}"
    assert client.get_run(version.run_id).info.status == "FINISHED"
    (artifact,) = client.list_artifacts(version.run_id, "reference")
    assert artifact.file_size < 20_000


def test_a_server_that_is_down_is_named(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path, mlflow_uri="http://127.0.0.1:9", _env_file=None)
    with pytest.raises(tracking.TrackingUnavailableError, match=r"127\.0\.0\.1:9 does not answer.*usermodel infra up"):
        tracking.connect(settings)
