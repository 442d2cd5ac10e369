"""`rollback_<recipe>`: one press of "Trigger" and consumers read the champion before; seconds."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from airflow.sdk import DAG, Param, task

from dags import steps
from dags.common import TASK_DEFAULTS, announce, embeddings_asset, midnight
from trainer.recipes import USER_MODELS

if TYPE_CHECKING:
    from trainer.recipe import Recipe

DOC = """
Trigger it: the champion before becomes the champion again, the version that was is rejected, its embeddings vanish
from consumers, who are told. One step back per run. Who and why are kept with the version and in `alerts/R`.
With a day: that promoted day, which does not serve, is rejected, and the champion stays.
By hand: `usermodel snapshots rollback --recipe R --note why`; to undo: `usermodel snapshots promote --recipe R --ds D`.
"""


def rollback_dag(recipe: Recipe) -> DAG:
    """One step back, of one user model."""
    embeddings = embeddings_asset(recipe.name)

    @task(outlets=[embeddings], retries=0)  # a second attempt would be a second step back
    def rollback(recipe: str, *, dag_run: Any = None, params: Any = None, outlet_events: Any = None) -> Any:
        by = dag_run.triggering_user_name or "Airflow"
        how: dict[str, Any] = {"by": by, "note": params["note"] or ""}
        day = params["ds"]
        promotion = steps.take_back(recipe, day, **how) if day else steps.rollback(recipe, **how)
        announce(outlet_events, embeddings, promotion)
        return promotion

    with DAG(
        dag_id=f"rollback_{recipe.name}",
        schedule=None,
        start_date=midnight(recipe.schedule.start, recipe.schedule.timezone),
        params={
            "note": Param(None, type=["null", "string"], title="Note", description="Why; kept for ever."),
            "ds": Param(
                None, type=["null", "string"], format="date", title="Day", description="Empty: the champion's."
            ),
        },
        max_active_runs=1,
        default_args=TASK_DEFAULTS,
        doc_md=DOC,
        tags=["rollback", recipe.name],
    ) as dag:
        rollback(recipe.name)
    return dag


for name, recipe_function in USER_MODELS.items():
    globals()[f"rollback_{name}"] = rollback_dag(recipe_function())
