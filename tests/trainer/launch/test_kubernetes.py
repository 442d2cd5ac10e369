"""What is asked of Kubernetes' API, and what its answers are taken for."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import takewhile
from pathlib import Path
from typing import Any

import pytest
from torchx.specs import AppDef, AppState

from tests.trainer.launch.kubernetes_here import Cluster, serve
from tests.trainer.launch.test_manifests import CASES, TOKEN, settings_of
from trainer.launch.role import Work, remote_app

pytest.importorskip("kubernetes", reason="jobs on Kubernetes need the package `kubernetes`")
from kubernetes import client

from trainer.launch.kubernetes import _PATIENCE, Kubernetes

NAME = f"tiny-ds-2026-01-02-{TOKEN}"


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    with serve() as served:
        yield served


@pytest.fixture
def kubernetes(cluster: Cluster) -> Iterator[Kubernetes]:
    with client.ApiClient(client.Configuration(host=cluster.url)) as api:
        yield Kubernetes(settings_of(**CASES["two-hosts-gpu"]), api=api)


@pytest.fixture
def app(tmp_path: Path) -> AppDef:
    work = Work(entry="m:f", arguments=(), directory=tmp_path)
    return remote_app(work, settings=settings_of(**CASES["two-hosts-gpu"]))


def submit(kubernetes: Kubernetes, app: AppDef, tmp_path: Path) -> str:
    return kubernetes.submit(app, directory=tmp_path / f"tiny-ds=2026-01-02-{TOKEN}", token=TOKEN)


def pod(number: int, **status: Any) -> dict[str, Any]:
    return {
        "metadata": {"name": f"{NAME}-trainer-{number}-0", "labels": {"volcano.sh/job-name": NAME}},
        "status": status,
    }


def test_an_attempt_that_is_submitted_twice_is_one_job(
    kubernetes: Kubernetes, cluster: Cluster, app: AppDef, tmp_path: Path
) -> None:
    assert submit(kubernetes, app, tmp_path) == submit(kubernetes, app, tmp_path) == NAME
    assert list(cluster.jobs) == [NAME]
    assert kubernetes.find(TOKEN) == NAME
    assert kubernetes.find("another") is None


def test_its_states_and_why(kubernetes: Kubernetes, cluster: Cluster, app: AppDef, tmp_path: Path) -> None:
    submit(kubernetes, app, tmp_path)
    status = kubernetes.status(NAME)
    assert status is not None
    assert (status.state, status.is_over) == (AppState.UNKNOWN, False)
    cluster.jobs[NAME]["status"] = {"state": {"phase": "Pending"}}
    waits = {"waiting": {"reason": "ImagePullBackOff", "message": "no such image"}}
    cluster.pods = [pod(0, phase="Pending", containerStatuses=[_container(waits)]), pod(1, phase="Running")]
    status = kubernetes.status(NAME)
    assert status is not None
    assert (status.state, status.reason) == (AppState.PENDING, "ImagePullBackOff")
    assert status.detail == f"{NAME}-trainer-0-0: no such image"
    kubernetes.cancel(NAME)
    kubernetes.cancel(NAME)
    assert kubernetes.status(NAME) is None


def test_each_line_of_its_log_is_told_once(kubernetes: Kubernetes, cluster: Cluster, tmp_path: Path) -> None:
    cluster.pods = [pod(0, phase="Running")]
    cluster.log = "2026-01-02T00:00:01Z rank=0 began\n"
    lines = kubernetes.lines(NAME, directory=tmp_path, from_start=True)
    assert list(takewhile(bool, lines)) == ["rank=0 began"]
    assert next(lines) == ""
    cluster.refused = 503
    assert next(lines) == "", "an API that does not answer for a moment ends no log"
    cluster.refused = 0
    cluster.log += "2026-01-02T00:00:02Z \n2026-01-02T00:00:03Z rank=0 learnt\n"
    assert list(takewhile(bool, lines)) == ["rank=0 learnt"], "a line without words is not the end"
    assert ["sinceSeconds" in query for query in cluster.log_queries] == [False, True, True], "never all of it again"


@pytest.mark.parametrize(
    ("status", "error"),
    [pytest.param(503, ConnectionError, id="busy: ask again"), pytest.param(403, RuntimeError, id="forbidden: tell")],
)
def test_an_api_that_refuses(kubernetes: Kubernetes, cluster: Cluster, status: int, error: type[Exception]) -> None:
    cluster.refused = status
    with pytest.raises(error, match=str(status)):
        kubernetes.status(NAME)


def test_an_api_that_says_nothing_cannot_be_reached(
    kubernetes: Kubernetes, cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(_PATIENCE, "_request_timeout", 0.05)
    cluster.silent_seconds = 1
    with pytest.raises(ConnectionError, match="timed out"):
        kubernetes.status(NAME)


def _container(state: dict[str, Any]) -> dict[str, Any]:
    return {
        "name": "trainer",
        "image": "i",
        "imageID": "i",
        "ready": False,
        "restartCount": 0,
        "state": state,
    }
