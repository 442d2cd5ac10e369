"""The online service as it runs: Redis behind a line, MLflow, the HTTP face and a compute worker, a process each."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import httpx

from features.lake import Lake
from infra.settings import LOOPBACK, REPOSITORY, Settings, child_environment
from serving.load import load
from serving.store import Store
from snapshots.gate import gate
from snapshots.inference import infer
from snapshots.promotion import promote
from snapshots.registry import Registry, Version
from snapshots.shift.measure import check_shift
from tests.faults.line import Line, line_to
from tests.faults.online_process import recipe
from tests.faults.tracking import Line as Way
from tests.faults.tracking import flaky_server
from tests.serving.servers import Server, free_port, redis_server
from tests.snapshots.world import DAYS, commit_users, make_tower, publish_day

ANSWER_SECONDS = 2.5
"""No request takes longer, whatever is broken: the deadline, and what two busy cores add."""
USERS = range(40)
"""Of the promoted day."""
_START_SECONDS = 180.0


class Online:
    """The running service. Scenarios leave it whole."""

    def __init__(self, *, settings: Settings, folder: Path, registry: Way, line: Line, redis_port: int) -> None:
        self.settings, self.registry_line, self.store_line = settings, registry, line
        self._folder, self._redis_port = folder, redis_port
        self._redis, self._stack = ExitStack(), ExitStack()
        self.redis: Server
        self.compute: subprocess.Popen[bytes]
        self._ports = {"http": free_port(), "compute": free_port()}
        self.http = httpx.Client(base_url=f"http://{LOOPBACK}:{self._ports['http']}", timeout=30, trust_env=False)

    def start(self) -> None:
        """Everything, and a promoted day in the store: made while the processes import what they need."""
        self.start_redis()
        self.face = self._start("http")
        self.compute = self._start("compute")
        _promoted_day(self.settings, DAYS[0])
        self.fill()
        self.until(lambda: self.http.get("/readyz").is_success, seconds=_START_SECONDS)
        self.until(lambda: self.counted("up") == 1, seconds=_START_SECONDS)

    def end(self) -> None:
        """Everything."""
        self.http.close()
        for process in (self.face, self.compute):
            process.kill()
            process.wait()
        self._redis.close()

    def start_redis(self) -> None:
        """Empty, where the line leads to."""
        self.redis = self._redis.enter_context(redis_server(self._folder, port=self._redis_port))

    def kill_redis(self) -> None:
        """SIGKILL."""
        self._redis.close()

    def restart_compute(self) -> None:
        """Another worker in place of one that has died."""
        self.compute.wait()
        self.compute = self._start("compute")

    def fill(self) -> None:
        """The promoted day into the store, past the line."""
        with self.redis.client() as client:
            load(recipe(), None, store=Store(client), settings=self.settings)

    def publish(self, salt: str) -> Version:
        """Another version, sound, which nothing points to; the same for the same salt."""
        tower = make_tower(recipe(), noise=0.01)
        return publish_day(recipe(), DAYS[1], tower, settings=self.settings, salt=salt)

    def set_champion(self, number: int) -> None:
        """The alias alone."""
        Registry(self.settings).set_alias("tiny", "champion", number)

    def get(self, user: int) -> dict[str, Any]:
        """What is answered. AssertionError where it takes too long or is no answer."""
        return self._answer(lambda: self.http.get(f"/v1/users/{user}/embeddings"))

    def post(self, user: int, *, at: datetime | None = None) -> dict[str, Any]:
        """The same with features, as of `at` (None: now)."""
        features = {"liked": [user % 7, 3], "seen": [1, 2, user], "age": 30.0}
        asked = {"user_id": user, "features": features, "feature_time": (at or datetime.now(UTC)).isoformat()}
        return self._answer(lambda: self.http.post("/v1/embeddings", json=asked))

    def counted(self, name: str) -> float:
        """A metric of the compute worker, over all labels; 0 while it does not answer."""
        try:
            text = httpx.get(f"http://{LOOPBACK}:{self._ports['compute']}/metrics", trust_env=False, timeout=5).text
        except httpx.HTTPError:
            return 0.0
        lines = (line.rpartition(" ") for line in text.splitlines() if not line.startswith("#"))
        wanted = (f"usermodel_compute_{name}", f"usermodel_compute_{name}_total")
        return sum(float(value) for series, _, value in lines if series.partition("{")[0] in wanted)

    def until(self, condition: Callable[[], object], *, seconds: float = 40.0) -> float:
        """Seconds until it holds. AssertionError where it does not."""
        began = time.monotonic()
        while True:
            try:
                if condition():
                    return time.monotonic() - began
            except httpx.HTTPError:
                ended = [one.args for one in (self.face, self.compute) if one.poll() is not None]
                assert not ended, f"ended: {ended}; the logs: {self._folder}"
            assert time.monotonic() - began < seconds, f"not within {seconds:g} s"
            time.sleep(0.05)

    def _answer(self, ask: Callable[[], httpx.Response]) -> dict[str, Any]:
        began = time.monotonic()
        answer = ask()
        seconds = time.monotonic() - began
        assert answer.status_code == 200, f"{answer.status_code}: {answer.text[:300]}"
        assert seconds < ANSWER_SECONDS, f"an answer took {seconds:.2f} s"
        found: dict[str, Any] = answer.json()["embeddings"]["tiny"]
        return found | {"seconds": seconds}

    def _start(self, role: str) -> subprocess.Popen[bytes]:
        told = [str(self.settings.home), self.settings.mlflow, str(self.store_line.port), str(self._ports[role])]
        command = [sys.executable, "-m", "tests.faults.online_process", role, *told]
        with (self._folder / f"{role}.log").open("ab") as log:
            return subprocess.Popen(
                ["setpriv", "--pdeathsig", "KILL", *command], cwd=REPOSITORY, env=child_environment(), stderr=log
            )


@contextmanager
def stopped(process: subprocess.Popen[bytes]) -> Iterator[None]:
    """SIGSTOP for the block."""
    process.send_signal(signal.SIGSTOP)
    try:
        yield
    finally:
        process.send_signal(signal.SIGCONT)


@contextmanager
def online(folder: Path, empty_store: Path) -> Iterator[Online]:
    """The service over one promoted day. empty_store: an MLflow database with its tables made."""
    folder.mkdir()
    shutil.copy(empty_store, folder / "mlflow.db")
    redis_port = free_port()
    with flaky_server(folder / "mlflow.db", folder / "artifacts") as way, line_to(redis_port) as line:
        settings = Settings(home=folder / "home", mlflow_uri=way.uri, _env_file=None)
        made = Online(settings=settings, folder=folder, registry=way, line=line, redis_port=redis_port)
        try:
            made.start()
            yield made
        finally:
            made.end()


def _promoted_day(settings: Settings, ds: date) -> None:
    commit_users(Lake(settings.lake), ds, USERS)
    publish_day(recipe(), ds, make_tower(recipe()), settings=settings)
    for step in (infer, check_shift, gate):
        step(recipe(), ds, settings=settings)  # type: ignore[operator]
    promote(recipe(), ds, settings=settings, by="gate")


def versions_of(answer: Mapping[str, Any]) -> list[int]:
    """Of what is pooled, newest features first."""
    return [one["version"] for one in answer["pooled"]]
