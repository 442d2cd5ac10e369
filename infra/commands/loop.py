"""The daily loop over some days, driven through Airflow, with a line per finished step: one user model, or several side
by side."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from zoneinfo import ZoneInfo

from infra.airflow import Airflow, Run, TaskState
from trainer.recipe import Recipe
from trainer.recipes import consumers_of, get_downstream, get_recipe

POLL_SECONDS = 1.0
PARSE_TIMEOUT_SECONDS = 120.0
DOWNSTREAM_TIMEOUT_SECONDS = 600.0
_SHOWN = 4
ENDED = frozenset({"success", "failed"})

Say = Callable[[str], None]


class DayFailedError(RuntimeError):
    """A day's run failed; the message holds the failing task's last words."""


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """A user model, and the days that it is to run."""

    recipe: Recipe
    days: tuple[date, ...]

    @property
    def dag_id(self) -> str:
        """Of its days."""
        return f"user_model_{self.recipe.name}"


def consumers_of_all(wanted: Sequence[Wanted]) -> list[str]:
    """Every downstream model that reads one of the user models, once."""
    return list(dict.fromkeys(name for one in wanted for name in consumers_of(one.recipe.name)))


def run_days(airflow: Airflow, wanted: Sequence[Wanted], *, say: Say) -> None:
    """Run the user models' DAGs over their days, each in order and all side by side, and what consumes each promoted
    day.

    Days with a successful run are left alone. Raises DayFailedError once the others have ended, if one of them failed.
    """
    for one in wanted:
        beside = [f"{kind}_{one.recipe.name}" for kind in ("review", "rollback", "freshness")]
        unpause(airflow, [one.dag_id, *beside], say=say)
    if consumers := consumers_of_all(wanted):
        unpause(airflow, [f"downstream_{name}" for name in consumers], say=say)
    if started := [one for one in wanted if _start(airflow, one, say=say)]:
        _Follower(airflow, started, say=say).follow()


def unpause(airflow: Airflow, dag_ids: Sequence[str], *, say: Say) -> None:
    """Let the DAGs run, once Airflow has found their files. RuntimeError where it does not."""
    _wait_for_dags(airflow, dag_ids, say=say)
    for dag_id in dag_ids:
        airflow.unpause(dag_id)


def _start(airflow: Airflow, one: Wanted, *, say: Say) -> bool:
    """Have the days run that have not; whether there are any."""
    name, days = one.recipe.name, one.days
    if _days(airflow, one, states={"success"}).issuperset(days):
        say(f"{name}: {days[0]}..{days[-1]} ran before; nothing to do")
        return False
    zone = ZoneInfo(one.recipe.schedule.timezone)
    first, last = (datetime(day.year, day.month, day.day, tzinfo=zone) for day in (days[0], days[-1]))
    told = False
    while not airflow.backfill(one.dag_id, first, last):
        if _days(airflow, one, states={"queued", "running"}).issuperset(days):
            break
        if not told:
            say(f"{name}: another backfill is under way; waiting for it")
        told = True
        time.sleep(POLL_SECONDS)
    return True


def _days(airflow: Airflow, one: Wanted, *, states: set[str]) -> set[date]:
    """The days that have a run in one of `states`."""
    runs = airflow.runs({one.dag_id: one.recipe.schedule.timezone})
    return {date.fromisoformat(run.day) for run in runs if run.state in states}


def _wait_for_dags(airflow: Airflow, dag_ids: Sequence[str], *, say: Say) -> None:
    deadline = time.monotonic() + PARSE_TIMEOUT_SECONDS
    while missing := set(dag_ids) - airflow.dag_ids():
        if errors := airflow.import_errors():
            raise RuntimeError(f"Airflow cannot read the DAG files: {errors[0]}")
        if time.monotonic() > deadline:
            raise RuntimeError(f"Airflow did not find {sorted(missing)} within {PARSE_TIMEOUT_SECONDS:.0f} s")
        time.sleep(POLL_SECONDS)
    more = f" and {len(dag_ids) - _SHOWN} more" if len(dag_ids) > _SHOWN else ""
    say(f"DAGs ready: {', '.join(dag_ids[:_SHOWN])}{more}")


@dataclass(frozen=True, kw_only=True)
class _Seen:
    """What Airflow says now."""

    runs: list[Run]
    tasks: list[TaskState]

    def of(self, dag_id: str, days: set[str]) -> list[Run]:
        """The DAG's runs of these days."""
        return [run for run in self.runs if run.dag_id == dag_id and run.day in days]

    def ended(self, dag_id: str, days: set[str]) -> bool:
        """Whether every day has a run that has ended."""
        return {run.day for run in self.of(dag_id, days) if run.state in ENDED} == days

    def promoted(self, dag_id: str) -> dict[str, str]:
        """The days that the user model's DAG promoted, and when."""
        promote = (dag_id, "promote", "success")
        when = {task.run_id: task.ended for task in self.tasks if (task.dag_id, task.task, task.state) == promote}
        return {run.day: when[run.run_id] for run in self.runs if run.dag_id == dag_id and run.run_id in when}

    def consumed(self, dag_id: str, day: str, *, since: str) -> bool:
        """Whether the consumer's runs of the day are over, one of them begun after `since`: those before had to wait,
        and may not have known yet."""
        runs = self.of(dag_id, {day})
        over = {task.run_id for task in self.tasks if task.dag_id == dag_id and task.started > since}
        return all(run.state in ENDED for run in runs) and any(run.run_id in over for run in runs)


class _Follower:
    """Prints each task's end once, until every day has ended and every promoted one is consumed."""

    def __init__(self, airflow: Airflow, wanted: Sequence[Wanted], *, say: Say) -> None:
        self._airflow = airflow
        self._say = say
        self._days = {one.dag_id: {day.isoformat() for day in one.days} for one in wanted}
        read = {name: get_downstream(name).upstreams for name in consumers_of_all(wanted)}
        self._upstreams = {
            f"downstream_{name}": [f"user_model_{upstream}" for upstream in upstreams]
            for name, upstreams in read.items()
        }
        """By consumer's DAG, those of its user models. The promotion of each makes a run; the last one's trains."""
        others = {upstream for upstreams in read.values() for upstream in upstreams}
        self._timezones = {one.dag_id: one.recipe.schedule.timezone for one in wanted}
        self._timezones |= {f"user_model_{name}": get_recipe(name).schedule.timezone for name in others}
        self._timezones |= dict.fromkeys(self._upstreams, "UTC")  # their days are partitions, of no time zone
        self._told: set[tuple[str, str, str, int, int]] = set()
        self._failures: dict[str, str] = {}

    def follow(self) -> None:
        """Until all have ended. DayFailedError says which failed, and of what."""
        deadline = None
        while True:
            seen = _Seen(runs=self._airflow.runs(self._timezones), tasks=self._airflow.tasks(self._timezones))
            self._report(seen)
            late: dict[str, set[str]] = {}
            if self._have_ended(seen):
                late = self._unconsumed(seen)
                deadline = deadline or time.monotonic() + DOWNSTREAM_TIMEOUT_SECONDS
                if not late:
                    break
            if deadline is not None and time.monotonic() > deadline:
                told = "; ".join(f"{dag_id} {sorted(days)}" for dag_id, days in late.items())
                raise RuntimeError(f"not finished within {DOWNSTREAM_TIMEOUT_SECONDS:.0f} s: {told}")
            time.sleep(POLL_SECONDS)
        if self._failures:
            raise DayFailedError("; ".join(self._failures.values()))

    def _have_ended(self, seen: _Seen) -> bool:
        for dag_id, days in self._days.items():
            failed = [run for run in seen.of(dag_id, days) if run.state == "failed"]
            if failed and dag_id not in self._failures:
                self._failures[dag_id] = self._last_words(min(failed, key=lambda run: run.day), seen.tasks)
                self._say(self._failures[dag_id])
        return all(dag_id in self._failures or seen.ended(dag_id, days) for dag_id, days in self._days.items())

    def _unconsumed(self, seen: _Seen) -> dict[str, set[str]]:
        """By consumer, the days that all its user models have promoted and that it has not ended since."""
        wanted = set().union(*self._days.values())
        late: dict[str, set[str]] = {}
        for consumer, upstreams in self._upstreams.items():
            promoted = [seen.promoted(upstream) for upstream in upstreams]
            for day in wanted.intersection(*promoted):
                if not seen.consumed(consumer, day, since=max(of[day] for of in promoted)):
                    late.setdefault(consumer, set()).add(day)
        return late

    def _report(self, seen: _Seen) -> None:
        wanted = set().union(*self._days.values())
        day_of = {
            (run.dag_id, run.run_id): run.day for run in seen.runs if run.day in self._days.get(run.dag_id, wanted)
        }
        for task in sorted(seen.tasks, key=lambda task: task.ended):
            key = (task.dag_id, task.run_id, task.task, task.shard, task.try_number)
            day = day_of.get((task.dag_id, task.run_id))
            followed = task.dag_id in self._days or task.dag_id in self._upstreams
            if followed and day is not None and task.state in ENDED and key not in self._told:
                self._told.add(key)
                self._say(self._line(day, task))

    def _line(self, day: str, task: TaskState) -> str:
        """`2026-01-02  demo_a  train  17.2 s`: the model where there are several."""
        seconds = f"{task.seconds:6.1f} s" if task.seconds is not None else "        "
        name = task.task if task.dag_id in self._days or task.task.startswith("release_") else task.dag_id
        name += f" {task.shard}" if task.shard >= 0 else ""
        mark = "" if task.state == "success" else f"  {task.state}"
        models = {dag_id: dag_id.removeprefix("user_model_") for dag_id in self._days}
        model = f"{models.get(task.dag_id, ''):<{max(map(len, models.values()))}}  " if len(models) > 1 else ""
        return f"{day}  {model}{name:<24}{seconds}{mark}"

    def _last_words(self, run: Run, tasks: Sequence[TaskState]) -> str:
        failed = [t for t in tasks if (t.dag_id, t.run_id, t.state) == (run.dag_id, run.run_id, "failed")]
        if not failed:
            return f"{run.dag_id} {run.day} failed"
        return f"{run.dag_id} {run.day}: task {failed[0].task} failed: {self._airflow.last_words(failed[0])}"
