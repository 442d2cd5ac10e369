"""`retention_<recipe>`: once a week, what is old and nothing points to is deleted."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

from airflow.sdk import DAG, CronTriggerTimetable, chain, task

from dags import steps
from dags.common import TASK_DEFAULTS, midnight
from trainer.recipes import USER_MODELS

if TYPE_CHECKING:
    from trainer.recipe import Recipe

DOC = """
Deletes checkpoints, sealed snapshots and candidate embeddings of days older than the recipe's `keep_days`. What an
alias names, a person has still to decide, or a kept version was trained from stays; so does all that consumers see.
By hand: `usermodel trainer prune --recipe R`, `usermodel snapshots prune --recipe R --dry-run`.
"""


def retention(recipe: Recipe) -> DAG:
    """The weekly clean-up of one user model."""
    schedule = recipe.schedule
    with DAG(
        dag_id=f"retention_{recipe.name}",
        schedule=CronTriggerTimetable("0 3 * * 0", timezone=schedule.timezone),
        start_date=midnight(schedule.start + timedelta(days=recipe.keep_days), schedule.timezone),
        catchup=False,
        max_active_runs=1,
        default_args=TASK_DEFAULTS,
        doc_md=DOC,
        tags=["retention", recipe.name],
    ) as dag:
        chain(task(steps.prune_snapshots)(recipe.name), task(steps.prune_checkpoints)(recipe.name))
    return dag


for name, recipe_function in USER_MODELS.items():
    globals()[f"retention_{name}"] = retention(recipe_function())
