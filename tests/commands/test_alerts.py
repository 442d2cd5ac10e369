"""`usermodel snapshots freshness` and `alerts`: what an on-call sees when MLflow is down."""

from __future__ import annotations

import json
import socket

import pytest
from typer.testing import CliRunner

from infra.commands import cli
from infra.settings import LOOPBACK, get_settings
from trainer.tracking import TrackingUnavailableError


def run(arguments: str) -> tuple[str, BaseException | None]:
    done = CliRunner().invoke(cli, ["snapshots", *arguments.split(), "--recipe", "demo"])
    return done.stdout, done.exception


def test_mlflow_down_is_seen_and_listed(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as probe:
        probe.bind((LOOPBACK, 0))
        monkeypatch.setenv("USERMODEL_MLFLOW_URI", f"http://{LOOPBACK}:{probe.getsockname()[1]}")
        get_settings.cache_clear()
        for _ in range(2):
            _, error = run("freshness --now 2026-01-03T13:00+00:00")
            assert isinstance(error, TrackingUnavailableError)
    listed, error = run("alerts --send")
    assert error is None
    for words in ("1 of 1 alerts are open", "mlflow-down", "nobody: no URL is set", "does not answer"):
        assert words in " ".join(listed.split())
    (alert,) = json.loads(run("alerts --json")[0])
    assert (alert["ds"], alert["runbook"], alert["open"]) == ("2026-01-02", "infra/runbooks/mlflow-down.md", True)
