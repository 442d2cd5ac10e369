"""Why a job ended as it did, in one sentence with a remedy."""

from __future__ import annotations

from pathlib import Path

from trainer.failure import cause
from trainer.launch.scheduler import Status

_AGAIN = "run the day again: it goes on from its newest waypoint"
_IMAGE = "see USERMODEL_KUBERNETES_IMAGE, and that the namespace may pull it"
_MEMORY = "raise USERMODEL_JOB_MEMORY_GIB, or spread the tables over more USERMODEL_HOSTS"
_TIME = "raise USERMODEL_JOB_HOURS, or USERMODEL_HOSTS"
_CLUSTER: dict[str, tuple[str, str]] = {
    # Slurm
    "OUT_OF_MEMORY": ("a host ran out of the memory that the job asked for", _MEMORY),
    "TIMEOUT": ("the job ran into its time limit", _TIME),
    "DEADLINE": ("the job ran into its deadline", _TIME),
    "NODE_FAIL": ("a host failed", _AGAIN),
    "BOOT_FAIL": ("a host did not start", _AGAIN),
    "PREEMPTED": ("a job of higher priority took the hosts", _AGAIN),
    "REVOKED": ("another cluster took the job", _AGAIN),
    "CANCELLED": ("somebody cancelled the job", _AGAIN),
    # Kubernetes
    "OOMKilled": ("a host ran out of the memory that the job asked for", _MEMORY),
    "DeadlineExceeded": ("the job ran into its time limit", _TIME),
    "Evicted": ("a node evicted its pod to save itself", f"{_MEMORY}; else {_AGAIN}"),
    "NodeLost": ("a node was lost", _AGAIN),
    "NodeShutdown": ("a node was shut down", _AGAIN),
    "Terminated": ("a node was shut down", _AGAIN),
    "Preempted": ("a pod of higher priority took the place", _AGAIN),
    "PreemptionByScheduler": ("a pod of higher priority took the place", _AGAIN),
    "DeletionByTaintManager": ("a node was lost or drained", _AGAIN),
    "EvictionByEvictionAPI": ("a node was drained", _AGAIN),
    "DeletionByPodGC": ("a node was lost", _AGAIN),
    "TerminationByKubelet": ("a node ended its pod to save itself or to shut down", _AGAIN),
    "ImagePullBackOff": ("the image cannot be pulled", _IMAGE),
    "ErrImagePull": ("the image cannot be pulled", _IMAGE),
    "ErrImageNeverPull": ("the image is not on the node", _IMAGE),
    "InvalidImageName": ("the image's name cannot be read", _IMAGE),
    "CreateContainerConfigError": (
        "a Secret or volume that the job names is missing",
        "see USERMODEL_KUBERNETES_SECRETS and USERMODEL_KUBERNETES_VOLUMES",
    ),
    "Aborted": ("somebody cancelled the job", _AGAIN),
}
HOPELESS = frozenset({"ImagePullBackOff", "ErrImageNeverPull", "InvalidImageName", "CreateContainerConfigError"})
"""A job that waits for this waits for ever; only a person can mend it."""


def explain(status: Status | None, directory: Path) -> str:
    """A rank's own error; else what the cluster did to a host; else what the other ranks saw of it; else the state.

    directory: the job's, with what its ranks left.
    """
    failure = cause(directory)
    if failure is not None and failure.kind == "own":
        return f"rank {failure.rank}: {failure.type}: {failure.message}"
    if status is not None and status.reason in _CLUSTER:
        what, remedy = _CLUSTER[status.reason]
        return f"{what} ({status.detail or status.reason}); {remedy}"
    if failure is not None:
        return f"rank {failure.rank}: {failure.type}: {failure.message}"
    if status is None:
        return f"the scheduler does not know the job any more; {_AGAIN}"
    said = status.detail or status.reason or status.state.name
    if all(path.suffix == ".json" for path in directory.iterdir()):  # what it is told
        return (
            f"no rank left a message ({said}), and no host a log in {directory}: they ended at once, or do not see it. "
            "The hosts of a job and who starts it share that folder and the checkpoints, with object storage too: "
            "put USERMODEL_HOME, or USERMODEL_STORAGE_URI, on a file system of all of them"
        )
    return f"no rank left a message ({said}); the logs of its hosts are in {directory}"
