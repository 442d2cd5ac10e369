"""Several user models side by side, through an Airflow that answers by HTTP and whose days pass poll by poll."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import date
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from infra.airflow import Airflow
from infra.commands import loop
from infra.commands.loop import DayFailedError, Wanted, run_days
from infra.settings import LOOPBACK, Settings
from trainer.recipes import DOWNSTREAM_MODELS, get_downstream, get_recipe

DAYS = (date(2026, 1, 1), date(2026, 1, 2))
STEPS = ("build_examples", "train", "promote")


def of_place(place: int) -> dict[str, str]:
    """Times of a task: the order in which tasks end."""
    return {"start_date": f"{place:06}", "end_date": f"{place:06}"}


@dataclass
class Script:
    """Every question for runs lets each DAG end one more task. fails: (DAG, day, task)."""

    dag_ids: list[str]
    fails: tuple[str, str, str] | None = None
    days: dict[str, list[str]] = field(default_factory=dict)
    """Of each DAG, as they were asked for."""
    ended: list[tuple[str, str, str, str]] = field(default_factory=list)
    """DAG, day, task, state."""
    waited: dict[tuple[str, str], int] = field(default_factory=dict)
    """The runs of consumers that found a user model missing and were skipped, and when."""
    backfills: list[str] = field(default_factory=list)
    unpaused: set[str] = field(default_factory=set)
    refusals: int = 0
    """Of so many questions the connection breaks."""

    def pass_time(self) -> None:
        """One task of every DAG, in order of its days."""
        for dag_id in list(self.days):
            tasks = ("retrain",) if dag_id.startswith("downstream") else STEPS
            for day in self.days[dag_id]:
                done = [task for of, on, task, _ in self.ended if (of, on) == (dag_id, day)]
                if self.state(dag_id, day) == "running":
                    task = tasks[len(done)]
                    failed = (dag_id, day, task) == self.fails
                    self.ended.append((dag_id, day, task, "failed" if failed else "success"))
                    break
        self._trigger()

    def _trigger(self) -> None:
        promoted = {(dag_id, day) for dag_id, day, task, state in self.ended if (task, state) == ("promote", "success")}
        for name in DOWNSTREAM_MODELS:
            dag_id, upstreams = f"downstream_{name}", get_downstream(name).upstreams
            of = self.days.setdefault(dag_id, [])
            for day in map(str, DAYS):
                done = [(f"user_model_{upstream}", day) in promoted for upstream in upstreams]
                if day not in of and all(done):
                    of.append(day)
                elif day not in of and any(done):
                    self.waited.setdefault((dag_id, day), len(self.ended))

    def state(self, dag_id: str, day: str) -> str:
        """Of the day's run."""
        ended = {task: state for of, on, task, state in self.ended if (of, on) == (dag_id, day)}
        if "failed" in ended.values():
            return "failed"
        return "success" if {"promote", "retrain"} & set(ended) else "running"

    def answer(self, path: str, body: Any) -> dict[str, Any]:
        """What Airflow would."""
        if path.endswith("/dagRuns/list"):
            self.pass_time()
            wanted = [(dag_id, day) for dag_id in body["dag_ids"] for day in self.days.get(dag_id, [])]
            found = [
                {"dag_id": dag_id, "dag_run_id": day, "state": self.state(dag_id, day), "run_type": "backfill",
                 "partition_key": day}
                for dag_id, day in wanted
            ]  # fmt: skip
            found += [
                {"dag_id": dag_id, "dag_run_id": f"{day} waited", "state": "success", "run_type": "asset_triggered",
                 "partition_key": day}
                for dag_id, day in self.waited
                if dag_id in body["dag_ids"]
            ]  # fmt: skip
            return _page(found, "dag_runs", body)
        if path.endswith("/taskInstances/list"):
            found = [
                {"dag_id": dag_id, "dag_run_id": day, "task_id": task, "state": state, "duration": 1.0,
                 "try_number": 1, "map_index": -1, "hostname": "", **of_place(place)}
                for place, (dag_id, day, task, state) in enumerate(self.ended)
                if dag_id in body["dag_ids"]
            ]  # fmt: skip
            found += [
                {"dag_id": dag_id, "dag_run_id": f"{day} waited", "task_id": "retrain", "state": "skipped",
                 "duration": 1.0, "try_number": 1, "map_index": -1, "hostname": "", **of_place(place)}
                for (dag_id, day), place in self.waited.items()
                if dag_id in body["dag_ids"]
            ]  # fmt: skip
            return _page(found, "task_instances", body)
        if path.endswith("/backfills"):
            self.backfills.append(body["dag_id"])
            first, last = (date.fromisoformat(body[name][:10]) for name in ("from_date", "to_date"))
            self.days[body["dag_id"]] = [str(day) for day in DAYS if first <= day <= last]
            return {}
        if "/logs/" in path:
            return {
                "content": [{"event": "", "error_detail": [{"exc_type": "ValueError", "exc_value": "no such luck"}]}]
            }
        return {"dags": [{"dag_id": dag_id} for dag_id in self.dag_ids], "total_entries": len(self.dag_ids)}


def _page(found: list[dict[str, Any]], key: str, body: Mapping[str, int]) -> dict[str, Any]:
    first = body["page_offset"]
    return {key: found[first : first + body["page_limit"]], "total_entries": len(found)}


@contextmanager
def airflow_of(script: Script, home: Path) -> Iterator[Airflow]:
    class Handler(BaseHTTPRequestHandler):
        def _answer(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers.get("content-length", 0))) or "null")
            if "list" in self.path and script.refusals:
                script.refusals -= 1
                self.close_connection = True
                return
            if self.command == "PATCH":
                script.unpaused.add(self.path.rpartition("/")[2])
            text = json.dumps(script.answer(self.path.partition("?")[0], body)).encode()
            self.send_response(200)
            self.send_header("content-length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

        do_GET = do_POST = do_PATCH = _answer

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer((LOOPBACK, 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        settings = Settings(home=home, airflow_port=server.server_address[1], _env_file=None)
        with Airflow(settings, token="t") as airflow:  # noqa: S106
            yield airflow
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture
def fast(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "POLL_SECONDS", 0.0)
    monkeypatch.setattr("infra.airflow.PAGE", 7)  # the answers come in several pages


def wanted(*names: str) -> list[Wanted]:
    return [Wanted(recipe=get_recipe(name), days=DAYS) for name in names]


def scripted(*names: str, **options: Any) -> Script:
    kinds = ("user_model", "review", "rollback", "freshness")
    dags = [f"{kind}_{name}" for name in names for kind in kinds]
    return Script(dag_ids=[*dags, *(f"downstream_{name}" for name in DOWNSTREAM_MODELS)], **options)


@pytest.mark.usefixtures("fast")
def test_two_models_go_through_the_same_days_at_once(tmp_path: Path) -> None:
    script, lines = scripted("demo_a", "demo_b", refusals=2), list[str]()
    with airflow_of(script, tmp_path) as airflow:
        run_days(airflow, wanted("demo_a", "demo_b"), say=lines.append)
        told = [line.split()[:3] for line in lines if line.startswith("2026")]
        for name in ("demo_a", "demo_b"):
            steps = [(day, step) for day, model, step in told if model == name]
            assert steps == [(str(day), step) for day in DAYS for step in STEPS], "each in order, each told once"
        last_of_a, first_of_b = (
            told.index([str(ds), *of])
            for ds, of in ((DAYS[1], ["demo_a", "promote"]), (DAYS[0], ["demo_b", "build_examples"]))
        )
        assert first_of_b < last_of_a, "side by side"
        consumers = [tuple(line.split()[:2]) for line in lines if "downstream_" in line and line.startswith("2026")]
        due = [(str(day), f"downstream_{name}") for name in loop.consumers_of_all(wanted("demo_a", "demo_b"))
               if set(get_downstream(name).upstreams) <= {"demo_a", "demo_b"} for day in DAYS]  # fmt: skip
        assert sorted(consumers) == sorted(due)
        assert any(dag_id == "downstream_demo_a_ctr_large" for dag_id, _ in script.waited), "it had to wait for one"
        assert script.backfills == ["user_model_demo_a", "user_model_demo_b"]
        assert script.unpaused >= {"user_model_demo_a", "review_demo_b", *(dag_id for _, dag_id in due)}
        run_days(airflow, wanted("demo_a", "demo_b"), say=lines.append)
    assert [line for line in lines if "nothing to do" in line] == [
        f"{name}: 2026-01-01..2026-01-02 ran before; nothing to do" for name in ("demo_a", "demo_b")
    ]
    assert len(script.backfills) == 2


@pytest.mark.usefixtures("fast")
def test_one_model_alone_is_not_named_on_every_line(tmp_path: Path) -> None:
    script, lines = scripted("demo"), list[str]()
    with airflow_of(script, tmp_path) as airflow:
        run_days(airflow, wanted("demo"), say=lines.append)
    steps = [line.split()[:2] for line in lines if line.startswith("2026")]
    assert [step for step in steps if step[1] in STEPS] == [[str(day), step] for day in DAYS for step in STEPS]


@pytest.mark.usefixtures("fast")
def test_a_model_that_fails_does_not_stop_the_other(tmp_path: Path) -> None:
    script, lines = scripted("demo_a", "demo_b", fails=("user_model_demo_a", "2026-01-02", "train")), list[str]()
    words = "user_model_demo_a 2026-01-02: task train failed: ValueError: no such luck"
    with airflow_of(script, tmp_path) as airflow, pytest.raises(DayFailedError, match=words):
        run_days(airflow, wanted("demo_a", "demo_b"), say=lines.append)
    assert lines.count(words) == 1
    assert [line.split()[:3] for line in lines if "promote" in line] == [
        ["2026-01-01", "demo_a", "promote"],
        ["2026-01-01", "demo_b", "promote"],
        ["2026-01-02", "demo_b", "promote"],
    ]
