"""The services of one home folder: start, stop and look at them. They listen on loopback or a unix socket."""

from __future__ import annotations

import fcntl
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

from infra import feature_store, online, orchestrator, postgres, worker
from infra.credentials import ensure_credentials, private_folder
from infra.orchestrator import airflow_token, run_airflow_cli
from infra.processes import end, port_holder, port_is_free
from infra.service import Service, online_services, services
from infra.settings import LOOPBACK, Settings
from infra.supervision import GIVEN_UP, RUNNING, Process, Supervisor, last_lines, log_file, marked

__all__ = [
    "Service",
    "ServiceError",
    "ServiceStatus",
    "airflow_token",
    "how_to_log_in",
    "one_at_a_time",
    "run_airflow_cli",
    "serve",
    "services",
    "start",
    "status",
    "stop",
    "unserve",
    "wait_until_healthy",
    "where_alerts_go",
]

START_TIMEOUT_SECONDS = 180.0
POLL_SECONDS = 0.25
LEFTOVER_GRACE_SECONDS = 3.0

Progress = Callable[[str], None]


class ServiceError(RuntimeError):
    """A service that cannot start, with its last words and where to read more."""


@dataclass(frozen=True, kw_only=True)
class ServiceStatus:
    """How a service is now."""

    name: str
    state: Literal["healthy", "unhealthy", "stopped"]
    pid: int | None
    uptime_seconds: float | None
    address: str
    detail: str

    def line(self) -> str:
        """One line for a person."""
        pid = f"pid {self.pid}" if self.pid else ""
        uptime = f"{self.uptime_seconds:.0f} s" if self.uptime_seconds is not None else ""
        return f"{self.name:<22} {self.state:<10} {pid:<12} {uptime:>8}  {self.address}  {self.detail}".rstrip()


def start(settings: Settings, *, progress: Progress) -> bool:
    """Start what does not run and return when all is healthy; False if all was running and healthy before.

    All but the online service, which needs a promoted version: `serve` starts it. Raises ServiceError naming the
    service (and its log), or the port in use and the setting that moves it. Of two at once, the second waits.
    """
    with one_at_a_time(settings, progress):
        supervisor, wanted = Supervisor(settings), services(settings)
        ran = supervisor.pid() is not None
        if not ran:
            _launch(supervisor, wanted, settings, progress)
        else:
            _update(supervisor, wanted, settings)
            if all(state.state == "healthy" for state in status(settings) if state.name not in online.NAMES):
                return False
        try:
            loop = [service for service in wanted if service.name not in online.NAMES]
            _start_in_order(supervisor, loop, settings, progress)
        except RuntimeError:
            if not ran:
                _halt(supervisor, settings)
            raise
    return True


def serve(settings: Settings, *, progress: Progress) -> None:
    """Start the online service beside the others and return when it is healthy. Raises ServiceError as `start` does."""
    with one_at_a_time(settings, progress):
        wanted = online_services(settings)
        Supervisor(settings).start([service.name for service in wanted])
        wait_until_healthy(settings, wanted, progress=progress)


def unserve(settings: Settings, *, progress: Progress) -> None:
    """Stop the online service: it reads once what it serves, and `serve` starts it again."""
    with one_at_a_time(settings, progress):
        Supervisor(settings).stop(online.NAMES)


def stop(settings: Settings, *, progress: Progress = lambda line: None) -> bool:
    """Stop every service and every process they left behind; False if there was none. State stays."""
    with one_at_a_time(settings, progress):
        if Supervisor(settings).pid() is None and not _leftovers(settings):
            progress("no service runs")
            return False
        started = time.monotonic()
        ended = _halt(Supervisor(settings), settings)
        if ended:
            progress(f"ended {len(ended)} processes that were left behind")
        progress(f"services stopped ({time.monotonic() - started:.1f} s)")
    return True


def status(settings: Settings) -> list[ServiceStatus]:
    """How every service is now; asks each one."""
    supervisor = Supervisor(settings)
    processes = supervisor.processes() if supervisor.pid() is not None else {}
    return [_status(service, processes.get(service.name), settings) for service in services(settings)]


def wait_until_healthy(
    settings: Settings,
    wanted: Sequence[Service],
    *,
    progress: Progress,
    timeout_seconds: float = START_TIMEOUT_SECONDS,
) -> None:
    """Return when all are healthy. Raises ServiceError for the first that gives up or takes too long."""
    supervisor, started = Supervisor(settings), time.monotonic()
    waiting = {service.name: service for service in wanted}
    while waiting:
        processes = supervisor.processes()
        for name, service in list(waiting.items()):
            process = processes[name]
            if process.state in GIVEN_UP:
                raise _failure(settings, name, process.explanation)
            wrong = service.check(settings, process.started) if process.state == RUNNING else process.explanation
            if wrong is None:
                del waiting[name]
                progress(f"{name} healthy ({time.monotonic() - started:.1f} s) {service.address}".rstrip())
            elif time.monotonic() - started > timeout_seconds:
                raise _failure(settings, name, f"not healthy after {timeout_seconds:.0f} s: {wrong}")
        time.sleep(POLL_SECONDS if waiting else 0)


def how_to_log_in(settings: Settings) -> str:
    """The line that ends `infra up`: where Airflow is and who may enter."""
    password = ensure_credentials(settings).airflow_password
    login = f"user {settings.airflow_user}  password {password}"
    return f"Airflow  {settings.airflow}  {login}\nMLflow   {settings.mlflow}\n{where_alerts_go(settings)}"


def where_alerts_go(settings: Settings) -> str:
    """To whom alerts are sent, by scheme: the URLs are secrets."""
    schemes = [url.split("://", 1)[0] for url in settings.alert_targets()]
    told = ", ".join(schemes) or f"nobody: USERMODEL_ALERT_URLS is not set, nor {settings.alert_urls_file} written"
    return f"Alerts   {told}"


def _launch(supervisor: Supervisor, wanted: Sequence[Service], settings: Settings, progress: Progress) -> None:
    """Start supervisord with every service stopped: after a clean-up, and only if every port is free."""
    if ended := end(lambda: _leftovers(settings), grace_seconds=LEFTOVER_GRACE_SECONDS):
        progress(f"ended {len(ended)} processes that an earlier start left behind")
    _require_free_ports(wanted)
    if settings.worker_queues:
        worker.write_configuration(settings)
    else:
        credentials = ensure_credentials(settings)
        postgres.ensure_initialised(settings, credentials)
        orchestrator.write_configuration(settings, credentials)
        feature_store.write_configuration(settings, credentials)
    supervisor.launch([service.program for service in wanted], environment=orchestrator.environment(settings))


def _update(supervisor: Supervisor, wanted: Sequence[Service], settings: Settings) -> None:
    """Tell supervisord what else is wanted and what no longer is. ServiceError where one of the others changed."""
    known = supervisor.processes()
    _require_free_ports([service for service in wanted if service.name not in known])
    same = bool(settings.worker_queues) or orchestrator.is_configured(settings, ensure_credentials(settings))
    if not same or not supervisor.update([service.program for service in wanted]):
        raise ServiceError(
            "the services run with other settings or of another version of the code; run infra/down first"
        )


def _require_free_ports(wanted: Sequence[Service]) -> None:
    for service in wanted:
        if service.port is not None and not port_is_free(LOOPBACK, service.port):
            holder = port_holder(service.port) or "a process of another user"
            raise ServiceError(
                f"port {service.port} of {service.name} is in use by {holder}; "
                f"stop it or set {service.port_setting} to a free port"
            )


def _start_in_order(supervisor: Supervisor, wanted: Sequence[Service], settings: Settings, progress: Progress) -> None:
    """PostgreSQL first, then its databases, then what does not need Airflow's tables, then Airflow; a worker alone."""
    if settings.worker_queues:
        supervisor.start([service.name for service in wanted])
        wait_until_healthy(settings, wanted, progress=progress)
        return
    first, rest = wanted[0], wanted[1:]
    supervisor.start([first.name])
    wait_until_healthy(settings, [first], progress=progress)
    postgres.ensure_databases(settings)
    airflow = [service.name for service in rest if service.name.startswith("airflow")]
    supervisor.start([service.name for service in rest if service.name not in airflow])
    if orchestrator.ensure_schema(settings):
        progress("Airflow's tables made")
    supervisor.start(airflow)
    wait_until_healthy(settings, rest, progress=progress)


def _halt(supervisor: Supervisor, settings: Settings) -> set[int]:
    """Stop everything: PostgreSQL last, then supervisord, then what has escaped it. Returns the escaped."""
    if supervisor.pid() is not None:
        names = [service.name for service in services(settings)]
        supervisor.stop(names[1:])
        supervisor.stop(names[:1])
        supervisor.shutdown()
    return end(lambda: _leftovers(settings), grace_seconds=LEFTOVER_GRACE_SECONDS)


def _leftovers(settings: Settings) -> set[int]:
    server = postgres.server_pid(settings)
    return marked(settings) | ({server} if server is not None else set())


def _status(service: Service, process: Process | None, settings: Settings) -> ServiceStatus:
    if process is None or not process.pid:
        return ServiceStatus(
            name=service.name,
            state="stopped",
            pid=None,
            uptime_seconds=None,
            address=service.address,
            detail=process.explanation if process else "",
        )
    wrong = service.check(settings, process.started)
    return ServiceStatus(
        name=service.name,
        state="healthy" if wrong is None else "unhealthy",
        pid=process.pid,
        uptime_seconds=time.time() - process.started,
        address=service.address,
        detail=wrong or "",
    )


def _failure(settings: Settings, name: str, reason: str) -> ServiceError:
    log = log_file(settings, name)
    return ServiceError(f"{name} failed: {reason}\n{last_lines(log)}\nthe whole log: {log}")


@contextmanager
def one_at_a_time(settings: Settings, progress: Progress) -> Iterator[None]:
    """One start or stop at a time; the lock goes with the process that holds it."""
    path = private_folder(settings.home / "run") / "lock"
    with path.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            progress("another start or stop is at work; waiting for it")
            fcntl.flock(file, fcntl.LOCK_EX)
        yield
