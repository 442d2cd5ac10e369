"""A small client of Airflow's REST API: what `infra up` and the command line ask of it."""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from zoneinfo import ZoneInfo

import httpx

from infra.settings import Settings
from serving.secured.ask import trusted

log = logging.getLogger(__name__)

TIMEOUT_SECONDS = 30.0
READ_ATTEMPTS = 4
PAGE = 100  # the server's own limit


@dataclass(frozen=True, kw_only=True)
class TaskState:
    """One task instance of one day."""

    dag_id: str
    run_id: str
    task: str
    state: str | None
    seconds: float | None
    try_number: int
    shard: int
    """Of a mapped task; -1 for any other."""
    started: str
    """When, ISO 8601; empty while it has not."""
    ended: str
    """The same."""
    host: str
    """On which host, and of which scheduler or edge worker; empty while it has none."""


@dataclass(frozen=True, kw_only=True)
class Run:
    """One DAG run; `day` is the start of its data interval or its partition key."""

    dag_id: str
    run_id: str
    day: str
    state: str
    run_type: str


@dataclass(frozen=True, kw_only=True)
class Worker:
    """An edge worker as Airflow knows it."""

    name: str
    state: str
    """`idle` and `running` are well; `unknown`: not heard of for 25 s."""
    queues: tuple[str, ...]
    """None: of every queue."""
    tasks: int
    """That it runs now."""
    heard: str
    """When last, ISO 8601."""

    @property
    def is_lost(self) -> bool:
        """Not heard of, without having said that it goes."""
        return self.state == "unknown"

    def line(self) -> str:
        """One line for a person."""
        queues = ", ".join(self.queues) or "every queue"
        return f"edge worker {self.name:<10} {self.state:<10} {self.tasks} tasks of {queues}, last heard {self.heard}"


class Airflow:
    """The REST API of the Airflow that `infra up` starts. Use as a context manager."""

    def __init__(self, settings: Settings, *, token: str) -> None:
        self._workers = f"{settings.airflow}/edge_worker/ui/worker"
        self._client = httpx.Client(
            base_url=f"{settings.airflow}/api/v2",
            headers={"Authorization": f"Bearer {token}"},
            timeout=TIMEOUT_SECONDS,
            verify=trusted(settings),
        )

    def __enter__(self) -> Airflow:
        return self

    def __exit__(self, *_: object) -> None:
        self._client.close()

    def _read(self, method: str, path: str, **kwargs: Any) -> dict[str, Any]:
        """`_call` for what may be asked twice: a machine that trains several models lets its web server wait."""
        for attempt in range(1, READ_ATTEMPTS):
            try:
                return self._call(method, path, **kwargs)
            except httpx.TransportError as error:
                log.warning("asking Airflow again attempt=%d path=%s: %r", attempt, path, error)
        return self._call(method, path, **kwargs)

    def _call(self, method: str, path: str, **kwargs: Any) -> dict[str, Any]:
        response = self._client.request(method, path, **kwargs)
        if response.is_error:
            raise RuntimeError(f"Airflow refused {method} {path}: {response.status_code} {response.text[:500]}")
        answer: dict[str, Any] = response.json() if response.content else {}
        return answer

    def _pages(self, path: str, key: str) -> Iterator[dict[str, Any]]:
        """Every entry of a collection, page by page."""
        offset = 0
        while True:
            answer = self._read("GET", path, params={"limit": PAGE, "offset": offset})
            yield from answer[key]
            offset += len(answer[key])
            if not answer[key] or offset >= answer["total_entries"]:
                return

    def _listed(self, path: str, key: str, dag_ids: Collection[str]) -> Iterator[dict[str, Any]]:
        """Every entry that belongs to these DAGs, page by page: one question, however many they are."""
        offset = 0
        while True:
            body = {"dag_ids": sorted(dag_ids), "page_limit": PAGE, "page_offset": offset}
            answer = self._read("POST", f"{path}/list", json=body)
            yield from answer[key]
            offset += len(answer[key])
            if not answer[key] or offset >= answer["total_entries"]:
                return

    def dag_ids(self) -> set[str]:
        """The DAGs that Airflow knows (it parses the files some seconds after its start)."""
        return {dag["dag_id"] for dag in self._pages("/dags", "dags")}

    def import_errors(self) -> list[str]:
        """What is wrong with DAG files, one text each."""
        return [e["stack_trace"] for e in self._call("GET", "/importErrors")["import_errors"]]

    def unpause(self, dag_id: str) -> None:
        """Let the DAG's runs be scheduled."""
        self._call("PATCH", f"/dags/{dag_id}", json={"is_paused": False})

    def backfill(self, dag_id: str, first: datetime, last: datetime) -> bool:
        """Run the days that have no successful run yet, in order; False if a backfill of the DAG is under way."""
        response = self._client.post(
            "/backfills",
            json={
                "dag_id": dag_id,
                "from_date": first.isoformat(),
                "to_date": last.isoformat(),
                "reprocess_behavior": "failed",
                "max_active_runs": 1,
            },
        )
        if response.status_code == httpx.codes.CONFLICT:
            return False
        if response.is_error:
            raise RuntimeError(f"Airflow refused to backfill {dag_id}: {response.status_code} {response.text[:500]}")
        return True

    def workers(self) -> list[Worker]:
        """The edge workers that ever registered; where no step runs on them, Airflow does not know the question."""
        answer = self._read("GET", self._workers)
        return [
            Worker(
                name=found["worker_name"],
                state=found["state"],
                queues=tuple(found["queues"] or ()),
                tasks=found["jobs_active"],
                heard=found["last_heartbeat"] or "",
            )
            for found in answer["workers"]
        ]

    def alive_schedulers(self) -> int:
        """How many schedulers' hearts beat; of those that died, whoever waits for the next knows no more."""
        wanted = {"job_type": "SchedulerJob", "is_alive": True, "limit": PAGE}
        return len(self._read("GET", "/jobs", params=wanted)["jobs"])

    def runs(self, timezones: Mapping[str, str]) -> list[Run]:
        """Every run of the DAGs, which are given with the time zones of their days."""
        return [
            Run(
                dag_id=run["dag_id"],
                run_id=run["dag_run_id"],
                day=_day_of(run, timezones[run["dag_id"]]),
                state=run["state"],
                run_type=run["run_type"],
            )
            for run in self._listed("/dags/~/dagRuns", "dag_runs", timezones)
        ]

    def tasks(self, dag_ids: Collection[str]) -> list[TaskState]:
        """The task instances of every run of the DAGs."""
        return [
            TaskState(
                dag_id=task["dag_id"],
                run_id=task["dag_run_id"],
                task=task["task_id"],
                state=task["state"],
                seconds=task["duration"],
                try_number=task["try_number"],
                shard=task["map_index"],
                started=task["start_date"] or "",
                ended=task["end_date"] or "",
                host=task["hostname"] or "",
            )
            for task in self._listed("/dags/~/dagRuns/~/taskInstances", "task_instances", dag_ids)
        ]

    def last_words(self, task: TaskState) -> str:
        """The error that ended a task, from its log."""
        path = f"/dags/{task.dag_id}/dagRuns/{task.run_id}/taskInstances/{task.task}/logs/{task.try_number}"
        wanted = {"full_content": True, "map_index": task.shard}
        answer = self._read("GET", path, params=wanted, headers={"Accept": "application/json"})
        events = [entry for entry in answer["content"] if isinstance(entry, dict)]
        for entry in reversed(events):
            for error in entry.get("error_detail") or []:
                return f"{error['exc_type']}: {error['exc_value']}"
        return " | ".join(str(entry.get("event", "")) for entry in events[-3:])

    def announce(self, asset: str, ds: str, extra: dict[str, Any]) -> None:
        """Emit the asset's partition event for a day that was promoted outside of a DAG run."""
        found = self._call("GET", "/assets", params={"name_pattern": asset})["assets"]
        ids = [entry["id"] for entry in found if entry["name"] == asset]
        if not ids:
            raise RuntimeError(f"Airflow knows no asset {asset!r}")
        self._call(
            "POST",
            "/assets/events",
            json={"asset_id": ids[0], "partition_key": ds, "extra": extra},
        )


def _day_of(run: dict[str, Any], timezone: str) -> str:
    if run.get("partition_key"):
        return str(run["partition_key"])
    start = run.get("data_interval_start")
    if start is None:
        return str((run.get("conf") or {}).get("ds", ""))
    return datetime.fromisoformat(start).astimezone(ZoneInfo(timezone)).date().isoformat()
