"""`freshness_<recipe>`: every hour, is the newest promoted day as recent as the schedule promises?"""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

from airflow.sdk import DAG, CronDataIntervalTimetable, task

from dags import steps
from dags.common import TASK_DEFAULTS, midnight
from trainer.recipes import USER_MODELS

if TYPE_CHECKING:
    from trainer.recipe import Recipe

HOURLY = "5 * * * *"
NOW = "{{ data_interval_end.isoformat() }}"
DOC = """
Raises an alarm, once per day of data, when no version of that day (or a later one) was promoted by its deadline: the
recipe's `Schedule.promote_by` after the day's end. Ends it when one is. So for a promoted version that consumers have
not learnt after two days, where they do so before it serves (`Serving.after`). Sends alerts that could not be
delivered. A recipe whose schedule has ended has no deadline. By hand, and for a watchdog outside of Airflow, which sees
that Airflow itself is down: `usermodel snapshots freshness --recipe R`, exit status 1 when late.
"""


def freshness(recipe: Recipe) -> DAG:
    """The alarm of one user model."""
    schedule = recipe.schedule
    with DAG(
        dag_id=f"freshness_{recipe.name}",
        schedule=CronDataIntervalTimetable(HOURLY, timezone="UTC"),
        start_date=midnight(schedule.start, schedule.timezone),
        end_date=None
        if schedule.end is None
        else midnight(schedule.end, schedule.timezone) + schedule.promote_by + timedelta(days=2),
        catchup=False,
        max_active_runs=1,
        default_args=TASK_DEFAULTS,
        doc_md=DOC,
        tags=["freshness", recipe.name],
    ) as dag:
        task(steps.check_freshness)(recipe.name, now=NOW)
    return dag


for name, recipe_function in USER_MODELS.items():
    globals()[f"freshness_{name}"] = freshness(recipe_function())
