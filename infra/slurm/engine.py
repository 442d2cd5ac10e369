"""The cluster as it runs: start, stop and look at it. supervisord brings a daemon back that was killed."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable
from pathlib import Path

from infra.processes import PROC, end, port_holder, port_is_free, with_environment
from infra.services import one_at_a_time
from infra.settings import LOOPBACK, Settings, child_environment
from infra.slurm.configuration import CONTROLLER, MUNGE, PARTITION, Cluster, require_namespace
from infra.slurm.programs import find_programs
from infra.supervision import GIVEN_UP, RUNNING, Supervisor, last_lines, log_file

START_SECONDS = 60.0
POLL_SECONDS = 0.1
GRACE_SECONDS = 3.0
CANCEL_SECONDS = 20.0
ANSWER_SECONDS = 30.0
READY = frozenset({"idle", "mix", "alloc", "comp"})
"""States of a node that takes or runs jobs."""

Say = Callable[[str], None]


class SlurmError(RuntimeError):
    """The cluster does not do what it was asked to."""


def up(settings: Settings, *, num_nodes: int, say: Say) -> bool:
    """Start what does not run and return when every node takes jobs; False if all did before.

    Jobs that outlived their daemons go on. Of two at once, the second waits. NoSlurmError: no Slurm to be had.
    SlurmError: a daemon that does not start, with its last words; a port in use; other settings than it runs with.
    """
    cluster = Cluster(settings, num_nodes=num_nodes)
    supervisor, began = Supervisor(cluster.settings), time.monotonic()
    with one_at_a_time(cluster.settings, say):
        require_namespace()
        programs = find_programs(cluster.folder / "packages", say=say)
        daemons = cluster.daemons(programs)
        if ran := supervisor.pid() is not None:
            if cluster.file.read_text() != cluster.text(programs):
                raise SlurmError("the cluster runs with other nodes or ports: run `usermodel infra slurm down` first")
            if _wrong(cluster, supervisor) is None:
                return False
        else:
            end(lambda: _daemons(cluster), grace_seconds=GRACE_SECONDS)
            _require_free_ports(cluster)
            cluster.write(programs)
            supervisor.launch(daemons, environment=child_environment(SLURM_CONF=str(cluster.file)))
        try:
            supervisor.start([MUNGE])
            _wait(cluster, supervisor, lambda: None if cluster.socket.exists() else "MUNGE has made no socket yet")
            supervisor.start([daemon.name for daemon in daemons])
            _wait(cluster, supervisor, lambda: _wrong(cluster, supervisor))
        except SlurmError:
            if not ran:
                _halt(cluster, supervisor)
            raise
    say(f"{num_nodes} nodes take jobs ({time.monotonic() - began:.1f} s); clients: {cluster.programs_folder}")
    return True


def down(settings: Settings, *, say: Say) -> bool:
    """Cancel every job, stop every daemon and end what they left behind; False if there was nothing."""
    cluster = Cluster(settings, num_nodes=0)
    supervisor, began = Supervisor(cluster.settings), time.monotonic()
    with one_at_a_time(cluster.settings, say):
        if supervisor.pid() is None and not with_environment(cluster.mark):
            say("no Slurm cluster runs")
            return False
        if supervisor.pid() is not None and _runs(supervisor, CONTROLLER):
            _cancel_jobs(cluster, say=say)
        if left := _halt(cluster, supervisor):
            say(f"ended {len(left)} processes that were left behind")
        say(f"the Slurm cluster stopped ({time.monotonic() - began:.1f} s)")
    return True


def status(settings: Settings) -> list[str]:
    """A line for each daemon, and Slurm's own of nodes and jobs."""
    cluster = Cluster(settings, num_nodes=0)
    supervisor = Supervisor(cluster.settings)
    if supervisor.pid() is None:
        return ["no Slurm cluster runs; start one: usermodel infra slurm up"]
    found = supervisor.processes()
    lines = [f"{one.name:<12} {one.state:<10} {one.explanation}" for one in found.values()]
    return [*lines, *_ask(cluster, "sinfo", "-N", "-l").splitlines()[1:], *_ask(cluster, "squeue").splitlines()]


def _wrong(cluster: Cluster, supervisor: Supervisor) -> str | None:
    """What keeps the cluster from taking jobs; None: nothing."""
    for name in (MUNGE, CONTROLLER, *cluster.nodes):
        if not _runs(supervisor, name):
            return f"{name} does not run"
    try:
        told = _ask(cluster, "sinfo", "--noheader", "--Node", "--format=%N %t")
    except SlurmError as error:
        return str(error)
    states = dict(line.split() for line in told.splitlines())
    waiting = [f"{name} is {states.get(name, 'unknown')}" for name in cluster.nodes if states.get(name) not in READY]
    return ", ".join(waiting) or None


def _wait(cluster: Cluster, supervisor: Supervisor, wrong: Callable[[], str | None]) -> None:
    deadline = time.monotonic() + START_SECONDS
    while told := wrong():
        given_up = [one for one in supervisor.processes().values() if one.state in GIVEN_UP]
        if given_up or time.monotonic() > deadline:
            name = given_up[0].name if given_up else CONTROLLER
            log = log_file(cluster.settings, name)
            raise SlurmError(f"the Slurm cluster does not start: {told}\n{last_lines(log)}\nthe whole log: {log}")
        time.sleep(POLL_SECONDS)


def _cancel_jobs(cluster: Cluster, *, say: Say) -> None:
    try:
        if not (jobs := _ask(cluster, "squeue", "--noheader").splitlines()):
            return
        say(f"cancelling {len(jobs)} jobs")
        _ask(cluster, "scancel", f"--partition={PARTITION}")
        deadline = time.monotonic() + CANCEL_SECONDS
        while _ask(cluster, "squeue", "--noheader") and time.monotonic() < deadline:
            time.sleep(POLL_SECONDS)
    except SlurmError as error:
        say(f"jobs are not cancelled but killed: {error}")


def _halt(cluster: Cluster, supervisor: Supervisor) -> set[int]:
    """Stop supervisord and its daemons, then what has escaped it. Returns the escaped."""
    if supervisor.pid() is not None:
        supervisor.stop(supervisor.processes())
        supervisor.shutdown()
    return end(lambda: with_environment(cluster.mark), grace_seconds=GRACE_SECONDS)


def _daemons(cluster: Cluster) -> set[int]:
    """Daemons that lost their supervisord, but no job."""
    return {pid for pid in with_environment(cluster.mark) if _program(pid) in {MUNGE, CONTROLLER, "slurmd"}}


def _program(pid: int) -> str:
    """The name of what the process runs; a process may have written a title behind it."""
    try:
        title = (PROC / str(pid) / "cmdline").read_bytes().split(b"\0")[0].decode(errors="replace")
    except OSError:
        return "gone"
    return Path(title.partition(":")[0]).name.removesuffix("-wlm")


def _runs(supervisor: Supervisor, name: str) -> bool:
    process = supervisor.processes().get(name)
    return process is not None and process.state == RUNNING


def _require_free_ports(cluster: Cluster) -> None:
    for name, port in cluster.ports.items():
        if not port_is_free(LOOPBACK, port):
            holder = port_holder(port) or "a process of another user"
            raise SlurmError(
                f"port {port} of {name} is in use by {holder}; stop it or set USERMODEL_SLURM_PORT to a free port "
                f"that is followed by {cluster.num_nodes} more"
            )


def _ask(cluster: Cluster, client: str, *arguments: str) -> str:
    """What a client prints. SlurmError: its complaint."""
    command = [str(cluster.programs_folder / client), *arguments]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=ANSWER_SECONDS)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise SlurmError(f"{client}: {error}") from error
    if done.returncode:
        raise SlurmError(" ".join(done.stderr.split()))
    return done.stdout
