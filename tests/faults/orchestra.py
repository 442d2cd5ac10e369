"""Airflow as it is at scale, on this machine: two schedulers, and two edge workers with homes of their own."""

from __future__ import annotations

import itertools
import os
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

from infra import orchestrator, services
from infra.airflow import Airflow, Run, TaskState
from infra.settings import Settings
from infra.supervision import Supervisor, marked
from tests.faults.small_day import DAG_FILE, small
from tests.infra.ports import on_free_ports

DAY, TICKS = "user_model_small", "ticks"
ENDED = frozenset({"success", "failed"})
LOST_SECONDS = 20
"""A task without a heartbeat has failed: sooner than outside of tests."""
_SECONDS = 900.0


class Orchestra:
    """The running services. Scenarios leave them whole."""

    def __init__(self, folder: Path) -> None:
        (folder / "dags").mkdir(parents=True)
        (folder / "dags" / "small.py").write_text(DAG_FILE)
        common: dict[str, Any] = {"dags_dir": folder / "dags", "ranks": 1, "device": "cpu"}
        centre = (folder / "centre").resolve()
        self.settings = on_free_ports(centre, schedulers=2, edge_steps="infer_shard=gpu", **common)
        self.workers = {
            name: Settings(
                home=folder / name,
                worker_queues="gpu",
                worker_name=name,
                airflow_uri=self.settings.airflow,
                mlflow_uri=self.settings.mlflow,
                storage_uri=str(centre),
                jwt_secret_file=centre / "credentials" / "jwt_secret",
                _env_file=None,
                **common,
            )
            for name in ("gpu-1", "gpu-2")
        }
        self.said: list[str] = []
        self._days = itertools.count()
        self.airflow: Airflow
        self._open = ExitStack()

    def start(self) -> None:
        """Everything, with the DAGs found and the days allowed to run."""
        kept, orchestrator.LOST_SECONDS = orchestrator.LOST_SECONDS, LOST_SECONDS
        try:
            for one in (self.settings, *self.workers.values()):
                one.remember()
            services.start(self.settings, progress=self.said.append)
            with ThreadPoolExecutor() as pool:
                list(pool.map(self.bring_back, self.workers))
        finally:
            orchestrator.LOST_SECONDS = kept
        self.airflow = self._open.enter_context(Airflow(self.settings, token=services.airflow_token(self.settings)))
        self.until(lambda: {DAY, TICKS} <= self.airflow.dag_ids(), "the DAGs are found")
        self.airflow.unpause(DAY)

    def end(self) -> None:
        """Everything."""
        self._open.close()
        for one in (*self.workers.values(), self.settings):
            services.stop(one, progress=self.said.append)

    def begin(self) -> date:
        """Have the next day run; which."""
        ds = small().schedule.start + timedelta(days=next(self._days))
        at = datetime(ds.year, ds.month, ds.day, tzinfo=UTC)
        self.until(lambda: self.airflow.backfill(DAY, at, at), "no other backfill runs")
        return ds

    def runs(self, ds: date) -> list[Run]:
        """Of the day."""
        return [run for run in self.airflow.runs({DAY: "UTC"}) if run.day == str(ds)]

    def tasks(self, ds: date) -> list[TaskState]:
        """Of the day's runs."""
        runs = {run.run_id for run in self.runs(ds)}
        return [task for task in self.airflow.tasks([DAY]) if task.run_id in runs]

    def finish(self, ds: date) -> None:
        """Wait for the day's end."""
        self.until(lambda: self.runs(ds) and all(run.state in ENDED for run in self.runs(ds)), f"{ds} ends")

    @contextmanager
    def holding(self, step: str) -> Iterator[Callable[[], list[str]]]:
        """The step's tasks wait where they begin, till the block ends; which do: `[shard-]pid`."""
        folder = self.settings.shared / "hold" / step
        folder.mkdir(parents=True)
        try:
            yield lambda: sorted(path.name for path in folder.iterdir())
        finally:
            shutil.rmtree(folder)

    def kill(self, service: str) -> int:
        """SIGKILL to a service of the centre; the pid that it had."""
        pid = Supervisor(self.settings).processes()[service].pid
        os.kill(pid, signal.SIGKILL)
        return pid

    def kill_host(self, name: str) -> None:
        """SIGKILL to all that an edge worker's host runs, as when its power fails."""
        while pids := marked(self.workers[name]):
            for pid in pids:
                try:
                    os.kill(pid, signal.SIGKILL)
                except ProcessLookupError:
                    continue

    def bring_back(self, name: str) -> None:
        """Start an edge worker's services, as on its host."""
        services.start(self.workers[name], progress=self.said.append)

    def state(self, service: str) -> str:
        """Of a service of the centre."""
        return next(one.state for one in services.status(self.settings) if one.name == service)

    def until(self, condition: Callable[[], object], what: str) -> float:
        """Wait for it; seconds."""
        began = time.monotonic()
        while not condition():
            assert time.monotonic() - began < _SECONDS, f"not within {_SECONDS:.0f} s: {what}"
            time.sleep(0.3)
        return time.monotonic() - began


@contextmanager
def orchestra(folder: Path) -> Iterator[Orchestra]:
    """Started, and ended whatever happens."""
    made = Orchestra(folder)
    try:
        made.start()
        yield made
    finally:
        made.end()


__all__ = ["DAY", "TICKS", "Orchestra", "orchestra", "small"]
