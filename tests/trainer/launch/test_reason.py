"""Why a job ended: what a rank says, what the cluster did, what the others saw."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from torchx.specs import AppState

from trainer.failure import Failure, Kind
from trainer.launch.reason import explain
from trainer.launch.scheduler import Status
from trainer.launch.slurm import of_controller, status_of, worst


@pytest.mark.parametrize(
    ("reason", "kind", "expected"),
    [
        pytest.param("FAILED", "own", "rank 1: ValueError: told so", id="a rank's own error"),
        pytest.param("OUT_OF_MEMORY", "own", "rank 1: ValueError", id="a rank's own error comes first"),
        pytest.param("OUT_OF_MEMORY", "broken", "ran out of the memory", id="memory, and the others lost a rank"),
        pytest.param("NODE_FAIL", "waited", "a host failed.*run the day again", id="a host, and the others waited"),
        pytest.param("FAILED", "waited", "rank 1: ValueError: told so", id="others waited"),
        pytest.param("TIMEOUT", None, "time limit .*USERMODEL_JOB_HOURS", id="time"),
        pytest.param("PREEMPTED", None, "higher priority", id="preempted"),
        pytest.param("OOMKilled", None, "USERMODEL_JOB_MEMORY_GIB", id="memory of a pod"),
        pytest.param("Evicted", None, "evicted its pod", id="evicted"),
        pytest.param("ImagePullBackOff", None, "USERMODEL_KUBERNETES_IMAGE", id="no image"),
        pytest.param("CreateContainerConfigError", None, "Secret or volume", id="no secret"),
        pytest.param("FAILED", None, "no rank left a message", id="nothing is known"),
        pytest.param(None, None, "does not know the job any more", id="vanished"),
    ],
)
def test_who_says_why(tmp_path: Path, reason: str | None, kind: Kind | None, expected: str) -> None:
    if kind is not None:
        Failure(rank=1, time=0, kind=kind, type="ValueError", message="told so").write(tmp_path)
    status = None if reason is None else Status(state=AppState.FAILED, reason=reason)
    assert re.search(expected, explain(status, tmp_path))


def test_hosts_that_share_no_folder_are_told_of_it(tmp_path: Path) -> None:
    """Slurm's begin a log in the job's folder before anything else."""
    (tmp_path / "assignment.json").touch()
    failed = Status(state=AppState.FAILED, reason="FAILED")
    assert re.search("no host a log in .* share that folder .* USERMODEL_HOME", explain(failed, tmp_path))
    (tmp_path / "slurm-7.batch").touch()
    assert "USERMODEL_HOME" not in explain(failed, tmp_path)


@pytest.mark.parametrize(
    ("word", "state", "reason"),
    [
        ("COMPLETED", AppState.SUCCEEDED, "COMPLETED"),
        ("CANCELLED by 1000", AppState.CANCELLED, "CANCELLED"),
        ("CANCELLED+", AppState.CANCELLED, "CANCELLED"),
        ("COMPLETING", AppState.RUNNING, "COMPLETING"),
        ("CONFIGURING", AppState.PENDING, "CONFIGURING"),
        ("OUT_OF_MEMORY", AppState.FAILED, "OUT_OF_MEMORY"),
        ("SOMETHING_NEW", AppState.UNKNOWN, "SOMETHING_NEW"),
    ],
)
def test_states_of_slurm(word: str, state: AppState, reason: str) -> None:
    found = status_of(word, exit_code="1:0")
    assert (found.state, found.reason) == (state, reason)


def test_a_job_is_what_its_worst_component_is() -> None:
    lines = (
        "JobId=7 HetJobId=7 JobState=RUNNING Reason=None ExitCode=0:0",
        "JobId=8 HetJobId=7 JobState=NODE_FAIL Reason=NodeDown ExitCode=1:0",
    )
    found = worst([of_controller(line) for line in lines])
    assert found is not None
    assert (found.state, found.detail) == (AppState.FAILED, "NODE_FAIL, exit code 1:0, reason NodeDown")
    assert worst([]) is None


def waiting(reason: str) -> dict[str, Any]:
    return {"containerStatuses": [{"state": {"waiting": {"reason": reason, "message": "so"}}}]}


@pytest.mark.parametrize(
    ("phase", "pods", "expected"),
    [
        pytest.param("Running", [{"phase": "Running"}], (AppState.RUNNING, ""), id="running"),
        pytest.param("", [], (AppState.UNKNOWN, ""), id="just created"),
        pytest.param("Completed", [], (AppState.SUCCEEDED, ""), id="completed"),
        pytest.param("Aborted", [], (AppState.CANCELLED, "Aborted"), id="aborted"),
        pytest.param("Pending", [waiting("ImagePullBackOff")], (AppState.PENDING, "ImagePullBackOff"), id="no image"),
        pytest.param(
            "Failed",
            [
                {"containerStatuses": [{"state": {"terminated": {"exitCode": 1, "reason": "Error"}}}]},
                {"containerStatuses": [{"state": {"terminated": {"exitCode": 137, "reason": "OOMKilled"}}}]},
            ],
            (AppState.FAILED, "OOMKilled"),
            id="memory says more than an exit code",
        ),
        pytest.param("Failed", [{"reason": "Evicted", "message": "disk"}], (AppState.FAILED, "Evicted"), id="evicted"),
        pytest.param(
            "Failed",
            [{"conditions": [{"type": "DisruptionTarget", "status": "True", "reason": "PreemptionByScheduler"}]}],
            (AppState.FAILED, "PreemptionByScheduler"),
            id="preempted",
        ),
        pytest.param(
            "Pending",
            [{"conditions": [{"type": "PodScheduled", "status": "False", "reason": "Unschedulable"}]}],
            (AppState.PENDING, "Unschedulable"),
            id="no place",
        ),
    ],
)
def test_states_of_volcano(phase: str, pods: list[dict[str, Any]], expected: tuple[AppState, str]) -> None:
    kubernetes = pytest.importorskip("trainer.launch.kubernetes", exc_type=ImportError)
    job = {"status": {"state": {"phase": phase}}} if phase else {}
    found = kubernetes.status_of(job, [{"metadata": {"name": "p"}, "status": pod} for pod in pods])
    assert (found.state, found.reason) == expected
