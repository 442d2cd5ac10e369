"""A training job over the hosts of a rack: on each, the very command that Slurm would start there.

The scheduler sees the hosts as a scheduler does: it neither waits for a host that is cut off, nor reaches what runs
there. What lives on behind a cut is fenced off by the attempt's token (`trainer.locks`).
"""

from __future__ import annotations

import re
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

from torchx.specs import Role

from infra.hosts.rack import INTERFACE, Rack, stop
from infra.processes import POLL_SECONDS
from trainer.failure import cause
from trainer.launch.role import Work, remote_app

_GRACE_SECONDS = 15.0
"""Between the end of the first host that failed and that of the others: they still say what they saw."""
_PATIENCE_SECONDS = 60.0
_SHORTEST_LOSS = 3
_LAST_LINES = 12
_NODE = "SLURM_NODEID"
"""How the agent learns which of the hosts it is on."""
_RESUMED = re.compile(r"resumed at step=(\d+) of")


class HostsJob:
    """Starts ranks on some hosts of a rack, the same number on each; what `trainer.launch.run_ranks` does on one.

    lost_seconds: a host whose connections are silent for so long is lost.
    """

    def __init__(self, rack: Rack, *, hosts: Sequence[str], lost_seconds: float) -> None:
        self.directory: Path | None = None
        """Of the job that runs, or ran last."""
        self._rack = rack
        self._hosts = tuple(hosts)
        self._lost_seconds = max(_SHORTEST_LOSS, round(lost_seconds))
        self._left_behind: list[subprocess.Popen[bytes]] = []

    def __call__(self, entry: str, arguments: list[str], /, *, ranks: int, directory: Path) -> None:
        """Returns when every rank ended well. RuntimeError with the message of the rank that explains the others;
        ValueError where the ranks are not the same number on each host."""
        if ranks % len(self._hosts):
            raise ValueError(f"{ranks} ranks on {len(self._hosts)} hosts; USERMODEL_RANKS must be a multiple of them")
        self.directory = directory
        role = self._role(Work(entry=entry, arguments=tuple(arguments), directory=directory), ranks=ranks)
        command = [role.entrypoint, *role.args]
        agents = {
            host: self._rack.start(
                host, command, log=directory / f"{host}.log", environment={**role.env, _NODE: str(node)}
            )
            for node, host in enumerate(self._hosts)
        }
        try:
            codes = self._wait(agents)
        finally:
            for host, agent in agents.items():
                if agent.poll() is None and self._rack.is_cut(host):
                    self._left_behind.append(agent)
                elif agent.poll() is None:
                    stop(agent)
                    agent.wait()
        if any(codes.get(host) != 0 for host in self._hosts):
            raise RuntimeError(f"training job FAILED: {self._reason(directory, codes)} (log: {directory})")

    @property
    def resumed_at(self) -> int:
        """The step at which the job went on, as its ranks said; 0: at the beginning."""
        assert self.directory is not None
        said = [_RESUMED.search(_lines(self.directory, host)) for host in self._hosts]
        return next((int(found.group(1)) for found in said if found), 0)

    def await_the_cut_off(self) -> None:
        """Let what was left behind on cut-off hosts come to its own end, once they are back. RuntimeError: it hangs."""
        for agent in self._left_behind:
            try:
                agent.wait(_PATIENCE_SECONDS)
            except subprocess.TimeoutExpired as error:
                stop(agent)
                raise RuntimeError(f"what was cut off still runs {_PATIENCE_SECONDS:g} s after it came back") from error

    def _role(self, work: Work, *, ranks: int) -> Role:
        """What Slurm would start on each host."""
        asked = {
            "scheduler": "local",
            "hosts": len(self._hosts),
            "ranks": ranks // len(self._hosts),
            "host_interface": INTERFACE,
            "lost_host_seconds": self._lost_seconds,
            "job_restarts": 0,
        }
        (role,) = remote_app(work, settings=self._rack.settings.model_copy(update=asked)).roles
        return role

    def _wait(self, agents: dict[str, subprocess.Popen[bytes]]) -> dict[str, int]:
        """Exit codes by host, without those that are cut off or outlast the grace."""
        codes: dict[str, int] = {}
        failed_at: float | None = None
        while True:
            codes |= {host: code for host, agent in agents.items() if (code := agent.poll()) is not None}
            if failed_at is None and any(codes.values()):
                failed_at = time.monotonic()
            waited_for = [host for host in agents if host not in codes and not self._rack.is_cut(host)]
            if not waited_for and (failed_at is not None or len(codes) == len(agents)):
                return codes
            if failed_at is not None and time.monotonic() - failed_at > _GRACE_SECONDS:
                return codes
            time.sleep(POLL_SECONDS)

    def _reason(self, directory: Path, codes: dict[str, int]) -> str:
        failure = cause(directory)
        if failure is not None:
            return f"rank {failure.rank}: {failure.type}: {failure.message}"
        ends = {host: _lines(directory, host).splitlines()[-_LAST_LINES:] for host in self._hosts}
        lines = [f"{host}: {line}" for host, end in ends.items() for line in end]
        return f"exit codes {codes}, no rank left a message; the last lines were:\n" + "\n".join(lines)


def _lines(directory: Path, host: str) -> str:
    return (directory / f"{host}.log").read_text(errors="replace")
