"""`review_<recipe>`: a held day waits here for a person, in a run of its own so that the next day goes on."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any

from airflow.providers.standard.operators.hitl import HITLBranchOperator
from airflow.sdk import DAG, Param, task

from dags import steps
from dags.common import TASK_DEFAULTS, embeddings_asset, midnight
from trainer.recipes import USER_MODELS

if TYPE_CHECKING:
    from trainer.recipe import Recipe

ANSWER_WITHIN = timedelta(hours=12)
DAY = "{{ params.ds }}"
DOC = """
A held day: read the report, answer under "Required Actions". No answer within 12 hours keeps the day on hold:
the champion and the consumers stay on the last promoted day. When later days were promoted meanwhile, a yes
makes this day visible to consumers and leaves the champion where it is. A day can be promoted later all the same:
`usermodel snapshots promote --recipe R --ds D`, or trigger this DAG again.
"""


def review(recipe: Recipe) -> DAG:
    """The review of one held day of one user model."""
    embeddings = embeddings_asset(recipe.name)

    @task(outlets=[embeddings])
    def promote(recipe: str, ds: str, *, outlet_events: Any = None) -> Any:
        promotion = steps.promote(recipe, ds, by="review", allow_older=True)
        outlet_events[embeddings].add_partitions(promotion["partitions"])
        outlet_events[embeddings].extra = promotion
        return promotion

    @task
    def reject(recipe: str, ds: str) -> Any:
        return steps.reject(recipe, ds, by="review")

    @task
    def keep_on_hold(recipe: str, ds: str) -> str:
        return f"{recipe} {ds} stays on hold; the champion is unchanged"

    with DAG(
        dag_id=f"review_{recipe.name}",
        schedule=None,
        start_date=midnight(recipe.schedule.start, recipe.schedule.timezone),
        params={"ds": Param(recipe.schedule.start.isoformat(), type="string", format="date")},
        default_args=TASK_DEFAULTS,
        doc_md=DOC,
        tags=["review", recipe.name],
    ) as dag:
        day: dict[str, Any] = {"recipe": recipe.name, "ds": DAY}
        report = task(task_id="report")(steps.read_report)(**day)
        decide = HITLBranchOperator(
            task_id="decide",
            subject=f"Promote the embeddings of {recipe.name}, {DAY}?",
            body="{{ ti.xcom_pull(task_ids='report') }}",
            options=["hold", "promote", "reject"],
            defaults="hold",
            options_mapping={"hold": "keep_on_hold", "promote": "promote", "reject": "reject"},
            response_timeout=ANSWER_WITHIN,
        )
        report >> decide >> [keep_on_hold(**day), promote(**day), reject(**day)]
    return dag


for name, recipe_function in USER_MODELS.items():
    globals()[f"review_{name}"] = review(recipe_function())
