"""Some hosts at one switch. The switch is a bridge in a network of its own: this machine's is never touched.

Host i has the hostname `host-i`, an interface `eth0` with the address 198.18.0.i (set aside for trials by RFC 2544)
and knows the others' names. Files are shared, as on a shared file system, but for the folders named as private.
"""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import Self

from infra.hosts.namespaces import Lifetime, Namespace, NoNamespacesError, search_path, why_not
from infra.hosts.wire import Link
from infra.processes import children, end, with_environment
from infra.settings import REPOSITORY, Settings, child_environment

MARKER = "USERMODEL_HOSTS_OF"
INTERFACE = "eth0"
MOST = 64
_NETWORK = "198.18.0."
_WHOLE, _SPLIT = "whole", "split"
"""The bridge that all are at, and the one for those on the other side of a partition."""
_PLAIN = Link()


class Rack:
    """`num_hosts` of them. NoNamespacesError with the remedy where this machine cannot have them.

    private: folders that every host has for itself, empty, in memory; the rest of the file system is shared.
    lifetime: `caller`: they end with this process, whatever ends it; `own`: `down` ends them.
    """

    def __init__(
        self, num_hosts: int, *, settings: Settings, private: Sequence[Path] = (), lifetime: Lifetime = "caller"
    ) -> None:
        if not 1 <= num_hosts <= MOST:
            raise ValueError(f"{num_hosts} hosts; a rack has 1 to {MOST}")
        if (missing := why_not()) is not None:
            raise NoNamespacesError(missing)
        self.settings = settings
        self._environment = environment_of(settings)
        self._links: dict[str, subprocess.Popen[bytes]] = {}
        self._cut = frozenset[str]()
        self.names = tuple(f"host-{index}" for index in range(1, num_hosts + 1))
        self._folder = settings.home / "hosts"
        self._folder.mkdir(parents=True, exist_ok=True)
        self.switch = Namespace("switch", lifetime=lifetime, environment=self._environment)
        try:
            self._hosts = {name: self._host(name, private, lifetime) for name in self.names}
            self._wire_up()
        except BaseException:
            self.close()
            raise

    def _host(self, name: str, private: Sequence[Path], lifetime: Lifetime) -> Namespace:
        table = self._folder / "etc-hosts"
        table.write_text("127.0.0.1 localhost\n" + "".join(f"{self.address(one)} {one}\n" for one in self.names))
        mounts = [f"mount --bind {shlex.quote(str(table))} /etc/hosts"]
        mounts += [f"mount -t tmpfs tmpfs {shlex.quote(str(folder))}" for folder in private]
        return Namespace(
            name, setup="; ".join(mounts), inside=self.switch, lifetime=lifetime, environment=self._environment
        )

    def _wire_up(self) -> None:
        lines = [f"link add name {bridge} type bridge" for bridge in (_WHOLE, _SPLIT)]
        lines += [f"link set {bridge} up" for bridge in (_WHOLE, _SPLIT)]
        for name, host in self._hosts.items():
            lines += [
                f"link add name {name} type veth peer name {INTERFACE} netns {host.pid}",
                f"link set {name} master {_WHOLE} up",
            ]
        self.switch.network(*lines)
        for name, host in self._hosts.items():
            host.network(f"address add {self.address(name)}/24 dev {INTERFACE}", f"link set {INTERFACE} up")

    def address(self, name: str) -> str:
        """Of a host. ValueError: there is no such host."""
        if name not in self.names:
            raise ValueError(f"there is no host {name!r}; there are {', '.join(self.names)}")
        return f"{_NETWORK}{self.names.index(name) + 1}"

    def pids(self) -> dict[str, int]:
        """Of the processes that hold the switch and the hosts."""
        return {"switch": self.switch.pid} | {name: host.pid for name, host in self._hosts.items()}

    def start(
        self, name: str, command: Sequence[str], *, log: Path, environment: Mapping[str, str] | None = None
    ) -> subprocess.Popen[bytes]:
        """Start a command on a host, in the repository's folder, with more variables; its lines are appended to `log`.

        What is returned only waits for it, on this side of the namespaces: `stop` ends it.
        """
        self.address(name)
        with log.open("ab") as lines:
            return subprocess.Popen(
                self._hosts[name].command(command, folder=REPOSITORY),
                stdin=subprocess.DEVNULL,
                stdout=lines,
                stderr=lines,
                env={**self._environment, **(environment or {})},
            )

    def run(self, name: str, command: Sequence[str]) -> str:
        """Run a command on a host to its end; its output. RuntimeError with what it complained of."""
        self.address(name)
        return self._hosts[name].run(command)

    def cut(self, name: str) -> None:
        """Pull the host's cable at the switch."""
        self.address(name)
        self.switch.network(f"link set {name} down")
        self._cut |= {name}

    def join(self, name: str) -> None:
        """Plug it in again."""
        self.address(name)
        self.switch.network(f"link set {name} up")
        self._cut -= {name}

    def is_cut(self, name: str) -> bool:
        """Whether nobody reaches the host."""
        return name in self._cut

    def split(self, *names: str) -> None:
        """Let these hosts reach each other and no other one; none: heal it."""
        for name in names:
            self.address(name)
        at = {name: _SPLIT if name in names else _WHOLE for name in self.names}
        self.switch.network(*(f"link set {self._uplink(name)} master {bridge}" for name, bridge in at.items()))

    def shape(self, name: str, link: Link) -> None:
        """Exchange the host's cable for one that is slow, lossy or narrow; `Link()` for a plain one.

        What is on the old cable is lost; TCP sends it again.
        """
        bridge = _SPLIT if _SPLIT in self.switch.run(["ip", "-o", "link", "show", self._uplink(name)]) else _WHOLE
        self._unshape(name)
        segments = 1 if link.loss else 65_535  # what is lost is a packet of the network, not sixty at once
        self._hosts[name].network(f"link set {INTERFACE} gso_max_segs {segments}")
        if link.is_plain:
            self.switch.network(f"link set {name} master {bridge}")
            return
        near, far = f"{name}-near", f"{name}-far"
        self.switch.network(
            f"link set {name} nomaster",
            f"link add name {near} type veth peer name {far}",
            f"link set {far} gso_max_segs {segments}",
            f"link set {far} master {bridge} up",
            f"link set {near} up",
        )
        command = [sys.executable, "-m", "infra.hosts.wire", name, near, json.dumps(asdict(link))]
        wire = subprocess.Popen(
            self.switch.command(command, folder=REPOSITORY), stdout=subprocess.PIPE, env=self._environment
        )
        self._links[name] = wire
        assert wire.stdout is not None
        if wire.stdout.readline() != b"up\n":
            raise RuntimeError(f"the wire of {name} did not start; its lines above say why")

    def _uplink(self, name: str) -> str:
        return f"{name}-far" if name in self._links else name

    def _unshape(self, name: str) -> None:
        wire = self._links.pop(name, None)
        if wire is not None:
            self.switch.network(f"link delete {name}-far")
            _end(wire)

    def wake(self) -> None:
        """Let go on what was stopped on the hosts, with nsenter, which stops with what it waits for."""
        for pid in left_over(self.settings):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)

    def close(self) -> None:
        """End everything that runs on the hosts, and the hosts."""
        self.wake()  # nobody else takes note of the end of what a stopped nsenter waits for
        self.switch.close()
        for wire in self._links.values():
            _end(wire)
        for host in getattr(self, "_hosts", {}).values():
            host.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def environment_of(settings: Settings) -> dict[str, str]:
    """Of everything that runs on this installation's hosts: the marker is how `down` finds it."""
    return child_environment(
        **{MARKER: str(settings.home.resolve()), "PATH": search_path(), "PYTHONPATH": str(REPOSITORY)}
    )


def left_over(settings: Settings) -> set[int]:
    """Every process of this installation's hosts, whoever started it."""
    return with_environment(f"{MARKER}={settings.home.resolve()}")


def down(settings: Settings) -> set[int]:
    """End every host of this installation and all that runs there, also what a killed command left; who was found."""
    found = end(lambda: left_over(settings), grace_seconds=0)
    with suppress(FileNotFoundError):
        (settings.home / "hosts" / "etc-hosts").unlink()
    return found


def stop(process: subprocess.Popen[bytes], *, number: signal.Signals = signal.SIGKILL) -> None:
    """Signal what `Rack.start` started: `process` only waits for it, on this side of the namespaces."""
    for pid in children(process.pid):
        with suppress(ProcessLookupError):
            os.kill(pid, number)


def _end(process: subprocess.Popen[bytes]) -> None:
    stop(process)
    process.wait()
    if process.stdout is not None:
        process.stdout.close()
