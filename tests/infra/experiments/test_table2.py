"""The quick form of Table 2."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from infra.commands import cli


def test_table_2(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("USERMODEL_MLFLOW_PORT", "1")
    arguments = ["experiments", "table2", "--setting", "quick", "--seeds", "1", "--workers", "0"]
    done = CliRunner().invoke(cli, [*arguments, "--home", str(tmp_path), "--json"], catch_exceptions=False)
    assert done.exit_code == 0
    found = json.loads(done.stdout)
    modes, steps, aging = found["tables"]
    titles = [column["title"] for column in modes["columns"]]
    rows = {row["name"]: dict(zip(titles, row["cells"], strict=True)) for row in modes["rows"]}
    assert rows["online async"]["paper"] == -0.126
    assert rows["online real-time"]["served, %"] == 100
    low, high = map(float, rows["online async"]["first seed, 95 % over users"].split(" … "))
    assert low < rows["online async"]["next day"]["mean"] < high
    ages = [rows[name]["newest, h"] for name in ("online real-time", "online async", "offline batch")]
    assert ages == sorted(ages)
    assert len({row["next day"]["mean"] for name, row in rows.items() if name.startswith("o")}) == 5
    within, whole = (dict_of(steps)[name] for name in ("what changes within the day", "all of real-time over batch"))
    a_day = dict_of(steps)["a new day: its features, users without a vector"]
    assert a_day + within == pytest.approx(whole)
    assert [row["name"] for row in aging["rows"]] == sorted((row["name"] for row in aging["rows"]), key=int)
    assert len(aging["rows"]) > 1


def dict_of(table: dict[str, Any]) -> dict[str, float]:
    return {row["name"]: row["cells"][2]["mean"] for row in table["rows"]}
