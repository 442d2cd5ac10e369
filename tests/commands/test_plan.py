"""`usermodel trainer plan`: text, JSON, picture, and what it says when nothing fits."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from infra.commands import cli
from infra.settings import child_environment
from trainer.planning.misfit import DoesNotFitError

PNG = b"\x89PNG\r\n\x1a\n"


def run(arguments: str, *more: str) -> Result:
    return CliRunner().invoke(cli, ["trainer", "plan", "--recipe", "demo", *arguments.split(), *more])


def test_a_plan_to_read() -> None:
    done = run("--device cpu --ranks-per-host 2 --tables 3")
    assert done.exit_code == 0, done.exception
    for words in (
        "demo on 1 host x 2 CPU ranks of 256 GB each",
        "the largest 3 of 10 tables",
        "table_wise",
        "tables' optimizer, GB",
        "dense gradients (all-reduce), MB",
        "balance (most / mean): memory",
        "smallest cluster that fits, of 1, 2, 4 … ranks in one host, then full hosts: 1 host x 1 CPU rank",
    ):
        assert words in done.stdout


def test_every_table_on_request() -> None:
    assert "all 10 tables" in run("--tables all").stdout


def test_a_plan_for_programs_and_a_picture(tmp_path: Path) -> None:
    picture, document = tmp_path / "plan.png", tmp_path / "plan.json"
    done = run("--hosts 2 --gpus-per-host 2 --hbm-gb 1 --json", "--plot", str(picture), "--out", str(document))
    assert done.exit_code == 0, done.exception
    found = json.loads(done.stdout)
    assert found == json.loads(document.read_text())
    assert picture.read_bytes().startswith(PNG)
    assert found["fits"]
    assert found["cluster"]["world_size"] == len(found["ranks"]) == 4
    assert found["smallest_cluster"]["world_size"] == 1
    rows = {table["name"]: sum(shard["num_rows"] for shard in table["shards"]) for table in found["tables"]}
    assert rows == {table["name"]: table["num_rows"] for table in found["tables"]}
    held = sum(rank["table_bytes"] for rank in found["ranks"])
    assert held == sum(table["weight_bytes"] for table in found["tables"])


def test_a_plan_that_does_not_fit_is_said_in_json_too() -> None:
    done = run("--gpus-per-host 2 --hbm-gb 0.02 --json")
    assert isinstance(done.exception, DoesNotFitError)
    found = json.loads(done.stdout)
    assert not found["fits"]
    assert found["smallest_cluster"] is None
    assert "No number of hosts fits" in str(done.exception)
    assert "does not fit 1 host x 2 GPUs of 0.02 GB each" in found["reason"]


def test_a_plan_that_does_not_fit_ends_with_2_and_a_remedy(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "infra.commands", "trainer", "plan", "--recipe", "fb_ctr", "--gpus-per-host", "2"],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
        env=child_environment(USERMODEL_HOME=str(tmp_path)),
    )
    assert done.returncode == 2
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    for words in (
        "fb_ctr does not fit 1 host x 2 GPUs of 80 GB each",
        "GB over; use more ranks or ranks with more memory",
        "The smallest cluster of such hosts that fits: 2 hosts x 2 GPUs of 80 GB each",
    ):
        assert words in line
    assert "Successfully loaded" not in done.stderr


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        pytest.param("--device tpu", "--device tpu: plan for cpu or cuda", id="device"),
        pytest.param("--tables some", "--tables some: give a number, or all", id="tables"),
        pytest.param("--hbm-gb 0", "hbm_bytes is 0", id="memory"),
        pytest.param("--hosts 0", "0 hosts x 8 ranks", id="hosts"),
        pytest.param("--batch-size 0", "batch size is 0", id="batch"),
        pytest.param("--ids-per-feature -1", "-1.0 ids per feature", id="ids"),
    ],
)
def test_nonsense_is_refused(arguments: str, words: str) -> None:
    done = run(arguments)
    assert isinstance(done.exception, ValueError)
    assert words in str(done.exception)
