"""`review_<recipe>`: a held day waits here for a person, in a run of its own so that the next day goes on."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any

from airflow.providers.standard.operators.hitl import HITLBranchOperator
from airflow.sdk import DAG, Param, task

from dags import steps
from dags.common import TASK_DEFAULTS, announce, embeddings_asset, midnight
from trainer.recipes import USER_MODELS

if TYPE_CHECKING:
    from trainer.recipe import Recipe

ANSWER_WITHIN = timedelta(hours=12)
DAY = "{{ params.ds }}"
ANSWER = "{{{{ ti.xcom_pull(task_ids='decide', key='answer')['{}'] }}}}"
DOC = """
A held day: read the report, answer under "Required Actions", with a note for whoever asks later why. Who answered,
when and why is kept with the version in MLflow and in the table `alerts/R`.

- hold: the champion and the consumers stay on the last promoted day. So they do without an answer within 12 hours.
- promote: the day becomes visible to consumers, and the champion unless a later day is; where consumers learn a version
  before it serves (`Serving.after`), the champion when they have.
- reject: the day is refused.
- rollback: the champion before becomes the champion again; this day stays on hold.

A day can be decided later all the same: `usermodel snapshots promote --recipe R --ds D`, or trigger this DAG again.
"""


class Decide(HITLBranchOperator):
    """The question; hands on who answered and the note, which the tasks behind it record."""

    def execute_complete(self, context: Any, event: dict[str, Any]) -> Any:
        person = event.get("responded_by_user") or {}
        answer = {
            "by": person.get("name") or person.get("id") or "",
            "note": (event.get("params_input") or {}).get("note") or "",
        }
        context["ti"].xcom_push(key="answer", value=answer)
        return super().execute_complete(context, event)


def review(recipe: Recipe) -> DAG:
    """The review of one held day of one user model."""
    embeddings = embeddings_asset(recipe.name)

    @task(outlets=[embeddings])
    def promote(recipe: str, ds: str, by: str, note: str, *, outlet_events: Any = None) -> Any:
        promotion = steps.promote(recipe, ds, by=by, note=note, allow_older=True)
        announce(outlet_events, embeddings, promotion)
        return promotion

    @task
    def keep_on_hold(recipe: str, ds: str, by: str, note: str) -> Any:
        if not by:
            return f"{recipe} {ds} stays on hold: nobody answered within {ANSWER_WITHIN}; the champion is unchanged"
        return steps.hold(recipe, ds, by=by, note=note)

    @task
    def reject(recipe: str, ds: str, by: str, note: str) -> Any:
        return steps.reject(recipe, ds, by=by, note=note)

    @task(outlets=[embeddings], retries=0)  # a second attempt would be a second step back
    def rollback(recipe: str, by: str, note: str, *, outlet_events: Any = None) -> Any:
        promotion = steps.rollback(recipe, by=by, note=note)
        announce(outlet_events, embeddings, promotion)
        return promotion

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
        answer: dict[str, Any] = {"by": ANSWER.format("by"), "note": ANSWER.format("note")}
        report = task(task_id="report")(steps.read_report)(**day)
        decide = Decide(
            task_id="decide",
            subject=f"Promote the embeddings of {recipe.name}, {DAY}?",
            body="{{ ti.xcom_pull(task_ids='report') }}",
            options=["hold", "promote", "reject", "rollback"],
            defaults="hold",
            options_mapping={"hold": "keep_on_hold"},
            params={"note": Param(None, type=["null", "string"], title="Note", description="Why; kept for ever.")},
            response_timeout=ANSWER_WITHIN,
        )
        (
            report
            >> decide
            >> [
                keep_on_hold(**day, **answer),
                promote(**day, **answer),
                reject(**day, **answer),
                rollback(recipe.name, **answer),
            ]
        )
    return dag


for name, recipe_function in USER_MODELS.items():
    globals()[f"review_{name}"] = review(recipe_function())
