"""Jobs of a Slurm cluster. TorchX writes the batch script; what it leaves to the current directory, or gets wrong
about a job's state, is here.
"""

from __future__ import annotations

import contextlib
import logging
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from torchx.schedulers.slurm_scheduler import SLURM_STATES, create_scheduler
from torchx.specs import AppDef, AppState

from infra.settings import Settings, child_environment, export
from trainer.launch.scheduler import Status
from trainer.launch.stream import follow

log = logging.getLogger(__name__)

_COMMENT = "usermodel:"
_COMMAND_SECONDS = 60
_FIELD = re.compile(r"(\w+)=(\S*)")
_UNREACHABLE = re.compile(r"[Uu]nable to contact|[Cc]onnection|[Tt]imed out|communication")
_STARTING = {"CONFIGURING": AppState.PENDING, "COMPLETING": AppState.RUNNING, "STOPPED": AppState.PENDING}
_WORST_FIRST = (
    AppState.FAILED,
    AppState.CANCELLED,
    AppState.UNKNOWN,
    AppState.RUNNING,
    AppState.PENDING,
    AppState.SUCCEEDED,
)


class Slurm:
    """Implements `Scheduler`. The job's folder is its working directory; a host that dies requeues the job."""

    def __init__(self, settings: Settings) -> None:
        if settings.slurm_programs.is_dir():  # of `usermodel infra slurm up`; else Slurm's own are on PATH
            ours, path = str(settings.slurm_programs.absolute()), child_environment()["PATH"]
            if ours not in path.split(":"):
                export(PATH=f"{ours}:{path}")
        self._torchx = create_scheduler("usermodel")
        minutes = max(1, round(settings.job_hours * 60))
        self._hosts = settings.hosts
        self._options = {"time": str(minutes), "partition": settings.slurm_partition}

    def manifest(self, app: AppDef, *, directory: Path, token: str) -> str:
        return str(self._request(app, directory=directory, token=token).request)

    def submit(self, app: AppDef, *, directory: Path, token: str) -> str:
        try:
            return str(self._torchx.schedule(self._request(app, directory=directory, token=token)))
        except (OSError, subprocess.CalledProcessError) as error:
            raise RuntimeError(f"sbatch did not take the job: {error}; see `sinfo` and its message above") from error

    def find(self, token: str) -> str | None:
        for line in _ask("squeue", "--me", "--noheader", "--format=%i|%k").splitlines():
            job, _, comment = line.partition("|")
            if comment.strip() == f"{_COMMENT}{token}":
                return job.partition("+")[0]
        return None

    def status(self, job: str) -> Status | None:
        try:
            return worst([of_controller(line) for line in _ask("scontrol", "-o", "show", "job", job).splitlines()])
        except UnknownJobError:
            return _accounted(job)  # the controller forgets a job minutes after its end

    def lines(self, job: str, *, directory: Path, from_start: bool) -> Iterator[str]:
        return follow(directory, f"slurm-{job}-*", from_start=from_start)

    def cancel(self, job: str) -> None:
        with contextlib.suppress(UnknownJobError):
            _ask("scancel", job)

    def _request(self, app: AppDef, *, directory: Path, token: str) -> Any:
        options = {**self._options, "comment": f"{_COMMENT}{token}"}
        request = self._torchx.submit_dryrun(app, options)
        for replica in request.request.replicas.values():
            # One job of so many nodes: TorchX's heterogeneous one is started by the backfill scheduler alone.
            replica.sbatch_opts |= {"nodes": str(self._hosts), "ntasks-per-node": "1"}
            cores = {"cpus-per-task": replica.sbatch_opts["cpus-per-task"]}  # a step does not inherit them
            replica.srun_opts |= cores | {"output": "slurm-%j-%t.out", "error": "slurm-%j-%t.err"}
            # srun's --export=ALL,NAME=… leaves a variable that the submitter has as it was.
            told = [f"{name}={value}" for name, value in replica.env.items()]
            replica.args = [*told, replica.entrypoint, *replica.args]
            replica.entrypoint, replica.env = "env", {}
        # TorchX's own `job_dir` would leave a file in the current directory that names it.
        request.request.cmd += [f"--chdir={directory}", f"--output={directory}/slurm-%j.batch"]
        return request


class UnknownJobError(LookupError):
    """Slurm does not know the job (any more)."""


def of_controller(line: str) -> Status:
    """Of one component of a job, as `scontrol -o show job` prints it."""
    fields = dict(_FIELD.findall(line))
    reason = "" if fields.get("Reason", "None") == "None" else f", reason {fields['Reason']}"
    return status_of(fields["JobState"], exit_code=fields.get("ExitCode", ""), more=reason)


def status_of(word: str, *, exit_code: str, more: str = "") -> Status:
    """Of a state as Slurm says it, for example `CANCELLED by 1000`; exit_code: `CODE:SIGNAL`."""
    name = word.split()[0].rstrip("+")
    state = _STARTING.get(name) or SLURM_STATES.get(name, AppState.UNKNOWN)
    return Status(state=state, reason=name, detail=f"{word}, exit code {exit_code}{more}")


def worst(found: list[Status]) -> Status | None:
    """Of a job's components the one that says most of the job: a failed one, else one that is not over."""
    return min(found, key=lambda status: _WORST_FIRST.index(status.state), default=None)


def _accounted(job: str) -> Status | None:
    try:
        rows = _ask("sacct", "-X", "-n", "-P", "-j", job, "-o", "State,ExitCode").splitlines()
    except (UnknownJobError, RuntimeError) as error:
        log.warning("no accounting of job %s: %s", job, error)
        return None
    return worst([status_of(state, exit_code=code) for state, _, code in (row.partition("|") for row in rows if row)])


def _ask(*command: str) -> str:
    """What a command of Slurm prints. UnknownJobError; ConnectionError: try again; RuntimeError otherwise."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_COMMAND_SECONDS, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise ConnectionError(f"{command[0]}: {error}") from error
    said = done.stderr.strip()
    if done.returncode == 0:
        return done.stdout
    if "Invalid job id" in said:
        raise UnknownJobError(said)
    if _UNREACHABLE.search(said):
        raise ConnectionError(said)
    raise RuntimeError(f"{' '.join(command)}: {said or done.returncode}")
