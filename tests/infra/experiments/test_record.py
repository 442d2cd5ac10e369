"""What was found, as Markdown, JSON, picture and MLflow run."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from mlflow import MlflowClient

from infra.experiments.finding import Finding
from infra.experiments.record import SHARED_DATA, record
from infra.experiments.setting import get_setting
from infra.settings import Settings
from tests.infra.experiments.studies import conclude

QUICK = get_setting("quick")


@pytest.fixture
def finding() -> Finding:
    return conclude(QUICK, {0: {"all": {"value": 1.0}}, 1: {"all": {"value": 3.0}}})


def test_markdown_has_every_cell_verdict_and_note(finding: Finding) -> None:
    lines = finding.markdown().splitlines()
    assert "| what | paper | ours |" in lines
    assert "| value | 1.0 | +2.00 ± 12.71 |" in lines
    assert "| nothing | – | no % |" in lines  # noqa: RUF001
    assert "- Values grow. **Agrees**: They do." in lines
    assert lines[-1] == "A note."
    assert finding.metrics() == {"1/value/ours": 2.0, "1/value/ours.half": pytest.approx(12.706, abs=1e-3)}


def test_a_run_holds_what_was_found(
    finding: Finding, tmp_path: Path, empty_store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copy(empty_store, tmp_path / "mlflow.db")
    monkeypatch.chdir(tmp_path)
    settings = Settings(home=tmp_path / "home", mlflow_uri=f"sqlite:///{tmp_path}/mlflow.db", _env_file=None)
    said: list[str] = []
    folder = record(finding, QUICK, settings=settings, say=said.append)
    record(finding, QUICK, settings=settings, say=said.append)
    client = MlflowClient(tracking_uri=settings.mlflow)
    experiment = client.get_experiment_by_name("experiments/study")
    assert experiment is not None
    runs = client.search_runs([experiment.experiment_id])
    assert len(runs) == 2, "one per execution"
    assert runs[0].data.params["seeds"] == "0 1"
    assert runs[0].data.metrics["1/value/ours"] == 2.0
    assert runs[0].info.status == "FINISHED"
    names = {"table.md", "result.json", "plot.png"}
    assert {file.path for file in client.list_artifacts(runs[0].info.run_id)} == names
    assert {path.name for path in folder.iterdir()} == names
    assert not said


def test_intervals_of_real_days_are_said_to_be_of_weights_alone(finding: Finding, tmp_path: Path) -> None:
    settings = Settings(home=tmp_path, mlflow_uri="http://127.0.0.1:1", _env_file=None)
    for setting in (QUICK, get_setting("globo")):
        folder = record(replace(finding, setting=setting.name), setting, settings=settings, say=lambda line: None)
        told = (folder / "table.md").read_text().splitlines()
        assert told[-1] == (SHARED_DATA if setting.name == "globo" else "A note.")


def test_without_mlflow_the_files_are_kept(finding: Finding, tmp_path: Path) -> None:
    settings = Settings(home=tmp_path, mlflow_uri="http://127.0.0.1:1", _env_file=None)
    said: list[str] = []
    folder = record(finding, QUICK, settings=settings, say=said.append)
    assert json.loads((folder / "result.json").read_text())["tables"][0]["rows"][0]["cells"][1]["mean"] == 2.0
    assert (folder / "plot.png").read_bytes().startswith(b"\x89PNG")
    (line,) = said
    assert "not logged to MLflow" in line
    assert str(folder) in line
