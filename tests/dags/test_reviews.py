"""A person's answer, from Airflow's question to the step that records it: a real run, answered as the UI does."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from dags import steps
from trainer.recipes import USER_MODELS, get_downstream, get_recipe
from trainer.serving import Serving

DS = "2026-01-05"
PROMOTION = {"model": "demo", "ds": "2026-01-04", "version": 4, "partitions": ["2026-01-04", "2026-01-05"]}
ANSWER_SECONDS = 300.0

Called = list[tuple[str, tuple[Any, ...], dict[str, Any]]]


@pytest.fixture
def called(monkeypatch: pytest.MonkeyPatch) -> Called:
    """The steps that a run calls, with what: what they do is tested elsewhere."""
    found: Called = []

    def recorder(name: str, outcome: object) -> Callable[..., object]:
        def step(*args: object, **kwargs: object) -> object:
            found.append((name, args, kwargs))
            return outcome

        return step

    for name in ("promote", "hold", "reject", "rollback"):
        monkeypatch.setattr(steps, name, recorder(name, PROMOTION))
    monkeypatch.setattr(steps, "check_freshness", recorder("check_freshness", {}))
    monkeypatch.setattr(steps, "read_report", lambda recipe, ds: f"# {recipe} {ds}: HOLD")
    return found


def _answer(option: str, note: str | None, *, by: dict[str, str] | None) -> None:
    """Wait for the question and answer it: what the API's handler does with a response."""
    from airflow.models.hitl import HITLDetail
    from airflow.models.taskinstance import TaskInstance
    from airflow.models.trigger import handle_event_submit
    from airflow.sdk.timezone import utcnow
    from airflow.triggers.base import TriggerEvent
    from airflow.utils.session import create_session
    from airflow.utils.state import TaskInstanceState
    from sqlalchemy import select
    from sqlalchemy.exc import OperationalError

    deadline = time.monotonic() + ANSWER_SECONDS
    while time.monotonic() < deadline:
        with contextlib.suppress(OperationalError), create_session() as session:  # the run locks SQLite's file
            waiting = select(TaskInstance).where(TaskInstance.state == TaskInstanceState.AWAITING_INPUT)
            task = session.scalars(waiting).first()
            if task is not None:
                detail = session.get(HITLDetail, task.id)
                assert detail is not None
                assert "# demo 2026-01-05: HOLD" in detail.body
                detail.responded_by, detail.responded_at = by, utcnow()
                detail.chosen_options, detail.params_input = [option], {"note": note}
                event = TriggerEvent(detail.as_resume_event_payload(timedout=by is None))
                handle_event_submit(event, task_instance=task, session=session)
                return
        time.sleep(0.2)


ALICE = {"id": "7", "name": "alice"}
DAY = {"recipe": "demo", "ds": DS}


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("option", "note", "by", "wanted"),
    [
        pytest.param(
            "promote", 'a "world cup", {{ 1 }}', ALICE,
            [("promote", {**DAY, "by": "alice", "note": 'a "world cup", {{ 1 }}', "allow_older": True})],
            id="promote",
        ),
        pytest.param("reject", None, ALICE, [("reject", {**DAY, "by": "alice", "note": ""})], id="reject, no note"),
        pytest.param("hold", "later", ALICE, [("hold", {**DAY, "by": "alice", "note": "later"})], id="hold"),
        pytest.param("hold", None, None, [], id="nobody answers"),
        pytest.param(
            "rollback", "ctr fell", ALICE,
            [("rollback", {"recipe": "demo", "by": "alice", "note": "ctr fell"})],
            id="rollback",
        ),
    ],
)  # fmt: skip
def test_an_answer_reaches_the_step_with_name_and_note(
    called: Called, airflow_home: Path, option: str, note: str | None, by: dict[str, str] | None, wanted: Any
) -> None:
    from dags.reviews import review

    dag: Any = review(get_recipe("demo"))
    person = threading.Thread(target=_answer, args=(option, note), kwargs={"by": by}, daemon=True)
    person.start()
    run = dag.test(run_conf={"ds": DS})
    person.join()
    states = {task.task_id: str(task.state) for task in run.get_task_instances()}
    branch = "keep_on_hold" if option == "hold" else option
    assert states.pop(branch) == "success"
    assert {state for name, state in states.items() if name not in ("report", "decide")} == {"skipped"}
    assert [(name, _named(name, args, kwargs)) for name, args, kwargs in called] == wanted


def _named(step: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
    return dict(zip(("recipe", "ds"), args, strict=False)) | kwargs


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_what_a_consumer_releases_is_told(airflow_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from airflow.models.asset import AssetEvent
    from airflow.utils.session import create_session
    from sqlalchemy import select

    from dags.downstreams import downstream_model

    demo = replace(get_recipe("demo"), serving=Serving(after="learning"))
    monkeypatch.setitem(USER_MODELS, "demo", lambda: demo)
    monkeypatch.setattr(steps, "waits_for", lambda *_: ())
    monkeypatch.setattr(steps, "retrain_downstream", lambda *_: {})
    monkeypatch.setattr(steps, "release", lambda _: {"partitions": ["2026-01-03"], "sentence": "version 3 serves"})
    dag: Any = downstream_model(get_downstream("demo_ctr"))
    assert str(dag.test().state) == "success"
    with create_session() as session:
        events = session.scalars(select(AssetEvent).where(AssetEvent.source_task_id == "release_demo")).all()
        assert [event.partition_key for event in events] == ["2026-01-03"]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_a_rollback_is_one_press_and_tells_consumers(called: Called, airflow_home: Path) -> None:
    from airflow.models.asset import AssetEvent
    from airflow.utils.session import create_session
    from sqlalchemy import select

    from dags.rollbacks import rollback_dag

    run: Any = rollback_dag(get_recipe("demo")).test(run_conf={"note": "ctr fell"})
    assert str(run.state) == "success"
    assert called == [("rollback", ("demo",), {"by": "dag_test", "note": "ctr fell"})]
    with create_session() as session:
        events = session.scalars(select(AssetEvent).where(AssetEvent.source_dag_id == "rollback_demo")).all()
        assert {event.partition_key for event in events} == set(PROMOTION["partitions"])


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_freshness_is_judged_at_the_end_of_the_interval(called: Called, airflow_home: Path) -> None:
    from datetime import UTC, datetime

    from dags.freshness import freshness

    run: Any = freshness(get_recipe("demo")).test(logical_date=datetime(2026, 1, 5, 12, 5, tzinfo=UTC))
    assert str(run.state) == "success"
    (step, args, kwargs) = called[0]
    assert (step, args) == ("check_freshness", ("demo",))
    assert datetime.fromisoformat(kwargs["now"]) == datetime(2026, 1, 5, 12, 5, tzinfo=UTC)
