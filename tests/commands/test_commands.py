"""The command line: every command has help and stands in the README; what the user gets wrong is one clear line."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from infra.commands import cli
from infra.settings import REPOSITORY, Settings, child_environment
from trainer.recipes import DOWNSTREAM_MODELS, USER_MODELS


def _commands() -> list[str]:
    program = typer.main.get_command(cli)
    groups = program.commands  # type: ignore[attr-defined]
    return [f"{group} {name}" for group, command in groups.items() for name in command.commands]


README = (REPOSITORY / "README.md").read_text()


@pytest.mark.parametrize("command", _commands())
def test_every_command_is_documented(command: str) -> None:
    assert f"usermodel {command}" in README
    shown = CliRunner().invoke(cli, [*command.split(), "--help"])
    assert shown.exit_code == 0
    assert len(shown.stdout.splitlines()) > 5


@pytest.mark.parametrize("setting", sorted(Settings.model_fields))
def test_every_setting_is_documented(setting: str) -> None:
    assert f"USERMODEL_{setting.upper()}" in README


@pytest.mark.parametrize(
    "dag", [*(f"user_model_{n}" for n in USER_MODELS), *(f"downstream_{n}" for n in DOWNSTREAM_MODELS)]
)
def test_every_dag_is_documented(dag: str) -> None:
    assert dag in README


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        pytest.param(
            "features build --recipe nobody --ds 2026-01-01", ["nobody", "demo", "globo"], id="unknown recipe"
        ),
        pytest.param("features build --recipe demo --ds 2026-1-1", ["2026-1-1", "YYYY-MM-DD"], id="no day"),
        pytest.param("features build --recipe demo --ds 2026-02-30", ["2026-02-30"], id="a day that is not"),
        pytest.param("features build --recipe globo --ds 2017-10-01", ["USERMODEL_DATA_DIR"], id="no data folder"),
        pytest.param("trainer train --recipe demo --ds 2026-01-01", ["examples/demo", "2026-01-01"], id="no examples"),
        pytest.param("snapshots freshness --recipe demo --now 2026-01-05T00:00", ["time zone"], id="no time zone"),
        pytest.param("trainer downstream --name nobody --ds 2026-01-01", ["nobody", "demo_ctr"], id="unknown consumer"),
        pytest.param("snapshots publish --recipe demo --ds 2026-01-01", ["2026-01-01", "train"], id="not trained"),
        pytest.param("serving load --recipe demo", ["redis_password", "USERMODEL_REDIS_URL"], id="no feature store"),
        pytest.param("infra worker --queue gpu", ["--airflow URL", "USERMODEL_AIRFLOW_URI"], id="a worker for nobody"),
        pytest.param("infra up --days 2026-01-05..2026-01-01", ["2026-01-05..2026-01-01"], id="days backwards"),
        pytest.param("infra up --days 2025-12-31", ["2025-12-31", "2026-01-01"], id="outside the schedule"),
        pytest.param("infra up --recipe demo_a --recipe nobody", ["'nobody'", "demo_b"], id="one of several unknown"),
        pytest.param("infra up --recipe demo --recipe demo", ["demo is given twice"], id="a recipe twice"),
        pytest.param("infra up --recipe fb_ctr", ["'fb_ctr' has no DAG", "demo_a"], id="a recipe without DAG"),
        pytest.param(
            "infra up --recipe demo --recipe globo --days 2026-01-01",
            ["globo: 2026-01-01", "2017-10-12"],
            id="outside one schedule",
        ),
        pytest.param(
            "infra metrics --host 10.0.0.7",
            ["10.0.0.7", "USERMODEL_TLS_CERTIFICATE", "127.0.0.1"],
            id="open to anybody",
        ),
        pytest.param("infra up --data /no/such/folder", ["/no/such/folder"], id="no such folder"),
    ],
)
def test_what_the_user_gets_wrong_is_one_clear_line(arguments: str, words: list[str], tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "infra.commands", *arguments.split()],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
        env=child_environment(USERMODEL_HOME=str(tmp_path), USERMODEL_MLFLOW_URI=f"sqlite:///{tmp_path}/mlflow.db"),
    )
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    for word in words:
        assert word in line
