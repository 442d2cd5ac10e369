"""Namespaces of the kernel that live as long as one process: the holder. Nothing of them has a name outside.

A holder is the first process of its PID namespace: when it ends, however that happens, the kernel kills all that run in
it and in those inside it, and with the last process go mounts, interfaces and addresses.
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

from infra.processes import is_alive, only_descendant

_PROGRAMS = {
    "ip": "iproute2",
    "unshare": "util-linux",
    "nsenter": "util-linux",
    "mount": "mount",
    "hostname": "hostname",
}
"""And the Debian package of each."""
_KINDS = ("--net", "--uts", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc")
_ENTERED = ("--net", "--uts", "--mount", "--pid")
_PATIENCE_SECONDS = 10.0
Lifetime = Literal["caller", "own"]
"""How long a namespace lives: it ends with the process that made it, or stays until somebody ends it."""


class NoNamespacesError(RuntimeError):
    """This machine does not let us make them."""


def why_not() -> str | None:
    """What this machine lacks to have hosts, and the remedy; None where nothing is missing."""
    for program, package in _PROGRAMS.items():
        if shutil.which(program, path=search_path()) is None:
            return f"{program} is not installed; install the package {package}"
    script = "ip link add name a type veth peer name b && ip link add name c type bridge"
    made = _run(["unshare", *_user(), *_KINDS, "sh", "-c", f"PATH={shlex.quote(search_path())}; {script}"])
    if made.returncode == 0:
        return None
    remedy = "run as root" if os.geteuid() else "run where the kernel has network namespaces, veth and bridges"
    return (
        f"the kernel refuses network namespaces to user {os.geteuid()} ({made.stderr.strip()}); allow user "
        f"namespaces (sysctl user.max_user_namespaces, kernel.unprivileged_userns_clone), or {remedy}"
    )


class Namespace:
    """A network, a hostname, mounts and processes of its own; `inside` another one, or of this machine.

    Who is not root gets a user namespace with the outermost. NoNamespacesError: it could not be made.
    """

    def __init__(
        self,
        name: str,
        *,
        setup: str = "true",
        inside: Namespace | None = None,
        lifetime: Lifetime = "caller",
        environment: Mapping[str, str],
    ) -> None:
        """setup: shell commands, run in it first. environment: whole, of everything that runs in it."""
        self.name = name
        self._environment = dict(environment)
        kinds = _KINDS if inside is not None else (*_user(), *_KINDS)
        hold = "cat > /dev/null" if lifetime == "caller" else "sleep infinity < /dev/null"
        script = f"set -e; hostname {shlex.quote(name)}; ip link set lo up; {setup}; echo up; exec {hold}"
        command = ["unshare", *kinds, "--", "sh", "-c", script]
        self._outer = subprocess.Popen(
            command if inside is None else inside.command(command),
            stdin=subprocess.PIPE if lifetime == "caller" else subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=self._environment,
            start_new_session=True,
        )
        assert self._outer.stdout is not None
        assert self._outer.stderr is not None
        if self._outer.stdout.readline() != b"up\n":
            self._outer.kill()
            raise NoNamespacesError(f"host {name}: {self._outer.stderr.read().decode().strip() or 'no reason given'}")
        self.pid = only_descendant(self._outer.pid)

    def command(self, command: Sequence[str], *, folder: Path | None = None) -> list[str]:
        """What runs `command` in it, from this machine, in `folder` (default: where the caller is)."""
        return enter(self.pid, command, folder=folder)

    def run(self, command: Sequence[str], *, text: str = "") -> str:
        """Run it here, with `text` as its input; its output. RuntimeError with what it complained of."""
        return _checked(self.command(command), text=text, environment=self._environment)

    def network(self, *lines: str) -> None:
        """Commands of `ip -batch` in its network; process ids in them are this machine's."""
        entered = ["nsenter", f"--target={self.pid}", *_own_user(), "--net", "--"]
        _checked([*entered, "ip", "-batch", "-"], text="\n".join(lines) + "\n", environment=self._environment)

    def close(self) -> None:
        """End all that runs in it, and it."""
        if is_alive(self.pid):
            os.kill(self.pid, 9)
        try:
            self._outer.wait(_PATIENCE_SECONDS)
        finally:
            for stream in (self._outer.stdin, self._outer.stdout, self._outer.stderr):
                if stream is not None:
                    stream.close()


def enter(pid: int, command: Sequence[str], *, folder: Path | None = None) -> list[str]:
    """What runs `command` where `pid` lives, from this machine."""
    entered = ["nsenter", f"--target={pid}", *_own_user(), *_ENTERED, "--"]
    return [*entered, "env", f"--chdir={folder or Path.cwd()}", *command]


def search_path() -> str:
    """Of programs: `ip` lives in sbin, which is not everybody's."""
    return os.pathsep.join([*os.get_exec_path(), "/usr/sbin", "/sbin"])


def _user() -> list[str]:
    return ["--user", "--map-root-user"] if os.geteuid() else []


def _own_user() -> list[str]:
    return ["--user", "--preserve-credentials"] if os.geteuid() else []


def _run(
    command: Sequence[str], *, text: str = "", environment: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, input=text, env=environment, capture_output=True, text=True, check=False)


def _checked(command: Sequence[str], *, text: str, environment: Mapping[str, str]) -> str:
    done = _run(command, text=text, environment=environment)
    if done.returncode:
        raise RuntimeError(f"{shlex.join(command)}: {done.stderr.strip() or done.stdout.strip()}")
    return done.stdout
