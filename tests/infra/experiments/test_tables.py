"""The quick form of the tables: seconds, and the same from the same seeds."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from infra.commands import cli


def _run(study: str, home: Path) -> dict:
    arguments = ["experiments", study, "--setting", "quick", "--seeds", "1", "--workers", "0", "--home", str(home)]
    done = CliRunner().invoke(cli, [*arguments, "--json"], catch_exceptions=False)
    assert done.exit_code == 0
    assert "not logged to MLflow" in done.stderr
    return json.loads(done.stdout)


@pytest.fixture(autouse=True)
def _without_mlflow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("USERMODEL_MLFLOW_PORT", "1")


def test_tables_3_and_4(tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    moved = _run("table3", first)
    assert moved == _run("table3", second), "reproducible"
    rows = {row["name"]: row["cells"] for row in moved["tables"][0]["rows"]}
    cosines = [rows[f"Embedding0, pooling {versions}"][1]["mean"] for versions in ("none", "2", "3", "4", "5")]
    assert cosines == sorted(cosines), "the more versions are pooled, the less they move"
    assert rows["Embedding0, pooling 3"][0] == 0.97
    assert cosines[0] < rows["Embedding0, model alone"][1]["mean"] < 1

    scored = _run("table4", first)
    table, of_rich = scored["tables"]
    cells = {row["name"]: row["cells"] for row in table["rows"]}
    assert cells["no pooling"][1] == -0.081
    assert cells["no pooling"][2]["values"] == cells["option 1"][2]["values"], "the same training"
    assert cells["no pooling"][4]["values"] != cells["option 1"][4]["values"]
    assert cells["turned to 0.7"][0]["mean"] < cells["turned to 0.97"][0]["mean"] < cells["no pooling"][0]["mean"]
    assert 0 < len(of_rich["rows"]) < len(table["rows"])
    assert (first / "experiments" / "table4" / "quick" / "plot.png").exists()
