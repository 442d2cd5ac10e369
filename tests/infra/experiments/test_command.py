"""What the command line refuses before it measures, and what it prints of several studies."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from infra.commands import cli
from infra.experiments.studies import OF_WORLDS


@pytest.mark.parametrize("study", sorted(OF_WORLDS))
def test_studies_of_the_truth_refuse_real_clicks(study: str, tmp_path: Path) -> None:
    done = CliRunner().invoke(cli, ["experiments", study, "--setting", "globo", "--home", str(tmp_path)])
    assert isinstance(done.exception, ValueError)
    assert f"{study} asks for the truth of a synthetic world" in str(done.exception)
    assert not list(tmp_path.iterdir()), "nothing was built"
