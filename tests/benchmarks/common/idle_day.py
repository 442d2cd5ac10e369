"""A DAG of the day's shape whose tasks do nothing but tell when they began. Light to import."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import Any

DAG_FILE = "from tests.benchmarks.common.idle_day import day  # an airflow DAG file\ndag = day()\n"
BEFORE = ("build_examples", "train", "publish")
AFTER = ("commit_inference", "check_shift", "gate", "promote")
MAPPED, SHARDS = "infer_shard", 2
START = datetime(2026, 1, 1, tzinfo=UTC)


def day() -> Any:
    """The chain of `user_model_<recipe>`, without the work."""
    from airflow.sdk import DAG, CronDataIntervalTimetable, chain, task

    def began(**_: Any) -> float:
        return time.time()

    @task
    def plan_inference() -> list[int]:
        return list(range(SHARDS))

    @task
    def infer_shard(shard: int) -> float:
        return time.time()

    with DAG(
        dag_id="idle_day",
        schedule=CronDataIntervalTimetable("0 0 * * *", timezone="UTC"),
        start_date=START,
        catchup=False,
        max_active_runs=1,
    ) as dag:
        planned = plan_inference()
        before = [task(task_id=name)(began)() for name in BEFORE]
        after = [task(task_id=name)(began)() for name in AFTER]
        chain(*before, planned, infer_shard.expand(shard=planned), *after)
    return dag
