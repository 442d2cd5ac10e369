"""The daily loop over some days, driven through Airflow, with a line per finished step."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from datetime import date, datetime
from zoneinfo import ZoneInfo

from infra.airflow import Airflow, Run, TaskState
from trainer.recipe import Recipe
from trainer.recipes import consumers_of

POLL_SECONDS = 1.0
PARSE_TIMEOUT_SECONDS = 120.0
DOWNSTREAM_TIMEOUT_SECONDS = 600.0
FINISHED = frozenset({"success", "failed"})
DONE = frozenset({"success", "failed"})

Say = Callable[[str], None]


class DayFailedError(RuntimeError):
    """A day's run failed; the message holds the failing task's last words."""


def run_days(airflow: Airflow, recipe: Recipe, days: Sequence[date], *, say: Say) -> None:
    """Run the user model's DAG over `days`, in order, and what consumes each promoted day.

    Days with a successful run are left alone. Raises DayFailedError at the first failed day.
    """
    upstream = f"user_model_{recipe.name}"
    consumers = [f"downstream_{name}" for name in consumers_of(recipe.name)]
    beside = [f"{kind}_{recipe.name}" for kind in ("review", "rollback", "freshness")]
    unpause(airflow, [upstream, *beside, *consumers], say=say)
    if _days(airflow, upstream, recipe, states={"success"}).issuperset(days):
        say(f"{recipe.name}: {days[0]}..{days[-1]} ran before; nothing to do")
        return
    zone = ZoneInfo(recipe.schedule.timezone)
    first, last = (datetime(day.year, day.month, day.day, tzinfo=zone) for day in (days[0], days[-1]))
    told = False
    while not airflow.backfill(upstream, first, last):
        if _days(airflow, upstream, recipe, states={"queued", "running"}).issuperset(days):
            break
        if not told:
            say(f"{recipe.name}: another backfill is under way; waiting for it")
        told = True
        time.sleep(POLL_SECONDS)
    follower = _Follower(airflow, recipe, say=say)
    wanted = {day.isoformat() for day in days}
    follower.follow(upstream, wanted, consumers=consumers)
    for consumer in consumers:
        follower.follow_consumer(consumer, upstream, wanted)


def unpause(airflow: Airflow, dag_ids: Sequence[str], *, say: Say) -> None:
    """Let the DAGs run, once Airflow has found their files. RuntimeError where it does not."""
    _wait_for_dags(airflow, dag_ids, say=say)
    for dag_id in dag_ids:
        airflow.unpause(dag_id)


def _days(airflow: Airflow, dag_id: str, recipe: Recipe, *, states: set[str]) -> set[date]:
    """The days that have a run in one of `states`."""
    runs = airflow.runs(dag_id, timezone=recipe.schedule.timezone)
    return {date.fromisoformat(run.day) for run in runs if run.state in states}


def _wait_for_dags(airflow: Airflow, dag_ids: Sequence[str], *, say: Say) -> None:
    deadline = time.monotonic() + PARSE_TIMEOUT_SECONDS
    while missing := set(dag_ids) - airflow.dag_ids():
        if errors := airflow.import_errors():
            raise RuntimeError(f"Airflow cannot read the DAG files: {errors[0]}")
        if time.monotonic() > deadline:
            raise RuntimeError(f"Airflow did not find {sorted(missing)} within {PARSE_TIMEOUT_SECONDS:.0f} s")
        time.sleep(POLL_SECONDS)
    say(f"DAGs ready: {', '.join(dag_ids)}")


class _Follower:
    """Prints each task's end once, and stops at the first failed run."""

    def __init__(self, airflow: Airflow, recipe: Recipe, *, say: Say) -> None:
        self._airflow = airflow
        self._timezone = recipe.schedule.timezone
        self._say = say
        self._seen: set[tuple[str, str, str, int, int]] = set()

    def follow(self, dag_id: str, days: set[str], *, consumers: Sequence[str]) -> None:
        """Until every day's run has ended."""
        while True:
            runs = [r for r in self._airflow.runs(dag_id, timezone=self._timezone) if r.day in days]
            self._report(dag_id, runs)
            for consumer in consumers:
                self._report(consumer, [run for run in self._airflow.runs(consumer) if run.day in days])
            for run in runs:
                if run.state == "failed":
                    raise DayFailedError(self._last_words(dag_id, run))
            if {run.day for run in runs if run.state in FINISHED} == days:
                return
            time.sleep(POLL_SECONDS)

    def follow_consumer(self, dag_id: str, upstream: str, wanted: set[str]) -> None:
        """Until the consumer's run of every promoted day among `wanted` has ended."""
        promoted = {
            task.run_id for task in self._airflow.tasks(upstream) if task.task == "promote" and task.state == "success"
        }
        runs = self._airflow.runs(upstream, timezone=self._timezone)
        days = {run.day for run in runs if run.run_id in promoted} & wanted
        deadline = time.monotonic() + DOWNSTREAM_TIMEOUT_SECONDS
        while time.monotonic() < deadline:
            runs = [run for run in self._airflow.runs(dag_id) if run.day in days]
            self._report(dag_id, runs)
            if {run.day for run in runs if run.state in FINISHED} == days:
                return
            time.sleep(POLL_SECONDS)
        raise RuntimeError(f"{dag_id} did not finish {sorted(days)} within {DOWNSTREAM_TIMEOUT_SECONDS:.0f} s")

    def _report(self, dag_id: str, runs: Sequence[Run]) -> None:
        day_of = {run.run_id: run.day for run in runs}
        for task in sorted(self._airflow.tasks(dag_id), key=lambda task: task.ended):
            key = (dag_id, task.run_id, task.task, task.shard, task.try_number)
            if task.run_id in day_of and task.state in DONE and key not in self._seen:
                self._seen.add(key)
                self._say(_line(dag_id, day_of[task.run_id], task))

    def _last_words(self, dag_id: str, run: Run) -> str:
        failed = [t for t in self._airflow.tasks(dag_id, run.run_id) if t.state == "failed"]
        if not failed:
            return f"{dag_id} {run.day} failed"
        words = self._airflow.last_words(dag_id, run.run_id, failed[0])
        return f"{dag_id} {run.day}: task {failed[0].task} failed: {words}"


def _line(dag_id: str, day: str, task: TaskState) -> str:
    seconds = f"{task.seconds:6.1f} s" if task.seconds is not None else "        "
    name = task.task if dag_id.startswith("user_model") else dag_id
    name += f" {task.shard}" if task.shard >= 0 else ""
    mark = "" if task.state == "success" else f"  {task.state}"
    return f"{day}  {name:<24}{seconds}{mark}"
