"""The real day of a small world as an Airflow DAG, whose steps wait where a fault is to meet them. Light to import."""

from __future__ import annotations

import functools
import os
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

from features.sources.synthetic import SyntheticWorld
from infra.settings import get_settings
from trainer.recipe import Inference, Recipe
from trainer.recipes import USER_MODELS
from trainer.recipes.demo import demo

DAG_FILE = "from tests.faults.small_day import dags  # an airflow DAG file\nglobals().update(dags())\n"
HELD_STEPS = ("train", "infer_shard")
NUM_TICKS = 60
TICK = timedelta(seconds=2)
_LONGEST_SECONDS = 300.0


def small() -> Recipe:
    """Seconds of work a step."""
    source = SyntheticWorld(name="small", num_users=400, num_items=200, events_per_day=4_000)
    return replace(demo(), name="small", source=source, inference=Inference(shards=4))


def dags() -> dict[str, Any]:
    """What the DAG file defines: the user model's day, and one of many short intervals."""
    from dags import common, steps

    USER_MODELS.clear()
    USER_MODELS["small"] = small
    common.TASK_DEFAULTS["retry_delay"] = timedelta(seconds=1)
    for name in HELD_STEPS:
        setattr(steps, name, _held(getattr(steps, name)))
    from dags.user_models import user_model

    return {"day": user_model(small()), "ticks": _ticks()}


def _held(step: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(step)
    def wait_and_run(recipe: str, ds: str, *rest: Any) -> Any:
        folder = get_settings().shared / "hold" / step.__name__
        if folder.exists():
            mark = folder / "-".join(map(str, (*rest, os.getpid())))
            mark.touch()
            deadline = time.monotonic() + _LONGEST_SECONDS
            while folder.exists() and time.monotonic() < deadline:
                time.sleep(0.05)
        return step(recipe, ds, *rest)

    return wait_and_run


def _ticks() -> Any:
    from airflow.providers.standard.operators.empty import EmptyOperator
    from airflow.sdk import DAG, DeltaDataIntervalTimetable

    start = datetime(2026, 1, 1, tzinfo=UTC)
    with DAG(
        dag_id="ticks",
        schedule=DeltaDataIntervalTimetable(TICK),
        start_date=start,
        end_date=start + (NUM_TICKS - 1) * TICK,
        catchup=True,
        max_active_runs=8,
    ) as dag:
        EmptyOperator(task_id="tick")
    return dag
