"""supervisord: the programs it runs, how it is started and asked, and what marks every process under it.

It is asked over a unix socket that only its owner enters; it listens on no TCP port.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import shlex
import subprocess
import sys
import tempfile
import time
import xmlrpc.client
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from infra.credentials import private_folder, write_private
from infra.processes import is_alive, with_environment
from infra.settings import Settings

MARKER = "USERMODEL_SERVICES_OF"
LONGEST_SOCKET_PATH = 107
LONGEST_SOCKET_NAME = len("/supervisor.sock.4194304")  # supervisord binds this, then renames it
BIN = Path(sys.prefix) / "bin"
LAUNCH_SECONDS = 15.0
POLL_SECONDS = 0.1
STOP_SECONDS = 60.0
RUNNING = "RUNNING"
ALIVE = frozenset({RUNNING, "STARTING", "BACKOFF"})
_PROGRAM = "program:"
GIVEN_UP = frozenset({"FATAL", "EXITED", "UNKNOWN"})
RESTS = frozenset({"STOPPED", "FATAL", "UNKNOWN"})
"""Whatever exited is started again; these stay as they are."""


@dataclass(frozen=True, kw_only=True)
class Program:
    """One process that supervisord keeps alive; it gets its stop signal when supervisord dies."""

    name: str
    command: Sequence[str]
    stop_seconds: int = 10
    stop_signal: str = "TERM"
    start_seconds: int = 1
    """Of a process that ends sooner, a few more starts are tried."""
    start_retries: int = 3
    environment: Mapping[str, str] = field(default_factory=dict)
    """Beside what all programs inherit; no secret, no quotation mark."""

    def section(self, settings: Settings) -> str:
        """Its section of supervisord's configuration."""
        command = shlex.join(["setpriv", "--pdeathsig", self.stop_signal, *self.command])
        lines = {
            "command": command,
            "directory": str(settings.home),
            "autostart": "false",
            "autorestart": "true",
            "startsecs": str(self.start_seconds),
            "startretries": str(self.start_retries),
            "stopsignal": self.stop_signal,
            "stopwaitsecs": str(self.stop_seconds),
            "stopasgroup": "true",
            "killasgroup": "true",
            "redirect_stderr": "true",
            "stdout_logfile": str(log_file(settings, self.name)),
            "stdout_logfile_maxbytes": "5MB",
            "stdout_logfile_backups": "1",
        }
        if self.environment:
            lines["environment"] = ",".join(f'{name}="{value}"' for name, value in self.environment.items())
        return _section(f"{_PROGRAM}{self.name}", lines)


@dataclass(frozen=True, kw_only=True)
class Process:
    """What supervisord says of a program. `started` is seconds since the epoch."""

    name: str
    state: str
    pid: int
    started: int
    explanation: str


class Supervisor:
    """The supervisord of one home folder, running or not."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._socket = runtime_folder(settings) / "supervisor.sock"
        self._configuration = settings.home / "run" / "supervisord.conf"

    def pid(self) -> int | None:
        """Its process, or None when it does not run."""
        try:
            return int(self._call("getPID"))
        except (OSError, xmlrpc.client.Error):
            return None

    def update(self, programs: Sequence[Program]) -> bool:
        """Learn of programs that are new, still stopped; stop and forget those that are none of these any more.

        False, and nothing is done, where a program that stays, or supervisord itself, has other ports or paths.
        """
        known, wanted = _sections(self._configuration.read_text()), _sections(self._render(programs))
        if any(known[name] != wanted[name] for name in known.keys() & wanted.keys()):
            return False
        if known.keys() != wanted.keys():
            self.stop(name.removeprefix(_PROGRAM) for name in known.keys() - wanted.keys())
            write_private(self._configuration, self._render(programs))
            [[added, _, removed]] = self._call("reloadConfig")
            for name in removed:
                self._call("removeProcessGroup", name)
            for name in added:
                self._call("addProcessGroup", name)
        return True

    def launch(self, programs: Sequence[Program], *, environment: Mapping[str, str]) -> None:
        """Start it, with every program stopped. What it starts inherits `environment` and the marker."""
        private_folder(self._configuration.parent)
        log_folder(self._settings).mkdir(parents=True, exist_ok=True)
        self._socket.unlink(missing_ok=True)
        write_private(self._configuration, self._render(programs))
        command = [sys.executable, "-m", "supervisor.supervisord", "-c", str(self._configuration)]
        env = {**environment, MARKER: _mark(self._settings)}
        made = subprocess.run(command, env=env, cwd=self._settings.home, capture_output=True, text=True, check=False)
        deadline = time.monotonic() + LAUNCH_SECONDS
        while self.pid() is None:
            if made.returncode or time.monotonic() > deadline:
                raise RuntimeError(f"supervisord did not start: {made.stderr.strip() or self._log()}")
            time.sleep(POLL_SECONDS)

    def processes(self) -> dict[str, Process]:
        """Every program by name."""
        return {
            info["name"]: Process(
                name=info["name"],
                state=info["statename"],
                pid=info["pid"],
                started=info["start"],
                explanation=info["spawnerr"] or info["description"],
            )
            for info in self._call("getAllProcessInfo")
        }

    def start(self, names: Iterable[str]) -> None:
        """Start those of the programs that do not run, without waiting for them."""
        processes = self.processes()
        for name in names:
            if processes[name].state not in ALIVE:
                self._ask("startProcess", name)

    def stop(self, names: Iterable[str]) -> None:
        """Stop the programs side by side and wait until they have ended; supervisord kills the slow ones."""
        names, deadline = set(names), time.monotonic() + STOP_SECONDS
        while alive := [p for name, p in self.processes().items() if name in names and p.state not in RESTS]:
            for process in alive:
                if process.state in ALIVE:  # still, or again: one that died as it was asked is started anew
                    self._ask("stopProcess", process.name)
            if time.monotonic() > deadline:
                raise RuntimeError(f"{alive[0].name} (pid {alive[0].pid}) does not end, not even by SIGKILL")
            time.sleep(POLL_SECONDS)

    def shutdown(self) -> None:
        """End supervisord itself and wait for that."""
        pid = self.pid()
        self._call("shutdown")
        while pid is not None and is_alive(pid):
            time.sleep(POLL_SECONDS)

    def _ask(self, method: str, name: str) -> None:
        """Ask for a change without waiting for it. A refusal shows in the state."""
        with suppress(xmlrpc.client.Fault):
            self._call(method, name, False)

    def _call(self, method: str, *arguments: Any) -> Any:
        from supervisor.xmlrpc import SupervisorTransport

        transport = SupervisorTransport(None, None, f"unix://{self._socket}")
        try:
            proxy = xmlrpc.client.ServerProxy("http://127.0.0.1", transport=transport)
            return getattr(proxy.supervisor, method)(*arguments)
        finally:
            transport.close()

    def _log(self) -> str:
        return last_lines(log_file(self._settings, "supervisord"))

    def _render(self, programs: Sequence[Program]) -> str:
        log = log_file(self._settings, "supervisord")
        pidfile = self._configuration.with_name("supervisord.pid")
        daemon = {
            "logfile": str(log),
            "logfile_maxbytes": "5MB",
            "logfile_backups": "1",
            "pidfile": str(pidfile),
        }
        factory = "supervisor.rpcinterface:make_main_rpcinterface"
        sections = [
            _section("unix_http_server", {"file": str(self._socket), "chmod": "0700"}),
            _section("supervisord", daemon),
            _section("rpcinterface:supervisor", {"supervisor.rpcinterface_factory": factory}),
            *(program.section(self._settings) for program in programs),
        ]
        return "\n".join(sections)


def runtime_folder(settings: Settings) -> Path:
    """Folder of the unix sockets: `<home>/run`, or a private temporary folder if that path is too long."""
    folder = settings.home.resolve() / "run"
    if len(os.fsencode(folder)) + LONGEST_SOCKET_NAME > LONGEST_SOCKET_PATH:
        digest = hashlib.sha256(os.fsencode(folder)).hexdigest()[:12]
        folder = Path(tempfile.gettempdir()) / f"usermodel-{os.getuid()}-{digest}"
    private_folder(folder)
    if folder.is_symlink() or folder.stat().st_uid != os.getuid():
        raise RuntimeError(f"{folder} belongs to someone else; set USERMODEL_HOME to a shorter path")
    return folder


def package_folder(name: str) -> Path:
    """Folder of an installed package that carries programs, found without importing it."""
    spec = importlib.util.find_spec(name)
    if spec is None or not spec.submodule_search_locations:
        raise RuntimeError(f"the package {name} is not installed; run infra/environment")
    return Path(spec.submodule_search_locations[0])


def marked(settings: Settings) -> set[int]:
    """Every process that descends from the services of this home folder, whatever became of its parents."""
    return with_environment(f"{MARKER}={_mark(settings)}")


def log_folder(settings: Settings) -> Path:
    """Where the services log."""
    return settings.logs / "services"


def log_file(settings: Settings, name: str) -> Path:
    """The log of one service."""
    return log_folder(settings) / f"{name}.log"


def last_lines(path: Path, *, count: int = 15) -> str:
    """The end of a log."""
    if not path.exists():
        return "(no log)"
    return "\n".join(path.read_text(errors="replace").splitlines()[-count:]) or "(empty log)"


def _mark(settings: Settings) -> str:
    return str(settings.home.resolve())


def _section(name: str, lines: Mapping[str, str]) -> str:
    """One section; supervisord expands `%(…)s` and ends a value at ` ;`."""
    body = "".join(f"{key}={value.replace('%', '%%')}\n" for key, value in lines.items())
    return f"[{name}]\n{body}"


def _sections(text: str) -> dict[str, list[str]]:
    """Lines by section."""
    found: dict[str, list[str]] = {}
    for line in text.splitlines():
        if line.startswith("["):
            lines = found.setdefault(line.strip("[]"), [])
        elif line:
            lines.append(line)
    return found
