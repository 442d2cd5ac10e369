"""`user_model_<recipe>`: one DAG per user model, one run per day of data, days in order."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from airflow.providers.standard.operators.trigger_dagrun import TriggerDagRunOperator
from airflow.sdk import DAG, CronDataIntervalTimetable, chain, task
from airflow.sdk.exceptions import AirflowFailException

from dags import steps
from dags.common import TASK_DEFAULTS, announce, data_day, embeddings_asset, midnight, place
from trainer.recipes import USER_MODELS

if TYPE_CHECKING:
    from trainer.recipe import Recipe

DOC = """
Lands the day's examples, trains the user model one day further, publishes a sealed snapshot, embeds every
active user, measures how far the embeddings moved, and promotes or holds. The day is the start of the run's
data interval; a day whose day before is missing fails in `train` and says what to do.

Every task can be run by hand: `usermodel features build`, `usermodel trainer train`, `usermodel snapshots
publish | infer | shift | gate | promote | hold | reject`, each with `--recipe R --ds D`.
Missed days: `airflow backfill create --dag-id user_model_R --from-date D --to-date D --max-active-runs 1`.
"""


def user_model(recipe: Recipe) -> DAG:
    """The daily DAG of one user model."""
    schedule = recipe.schedule
    embeddings = embeddings_asset(recipe.name)

    @task(map_index_template="shard {{ task.op_kwargs['shard'] }}", **place("infer_shard"))
    def infer_shard(recipe: str, day: str, shard: int) -> Any:  # a mapped task cannot be given a `ds`
        return steps.infer_shard(recipe, day, shard)

    @task.branch
    def gate(recipe: str, ds: str) -> str:
        return str(steps.gate(recipe, ds)["verdict"])

    @task(outlets=[embeddings])
    def promote(recipe: str, ds: str, *, outlet_events: Any = None) -> Any:
        promotion = steps.promote(recipe, ds, by="gate")
        announce(outlet_events, embeddings, promotion)
        return promotion

    @task
    def reject(recipe: str, ds: str) -> None:
        raise AirflowFailException(f"rejected: {steps.reject(recipe, ds, by='gate')}")

    with DAG(
        dag_id=f"user_model_{recipe.name}",
        schedule=CronDataIntervalTimetable(schedule.cron, timezone=schedule.timezone),
        start_date=midnight(schedule.start, schedule.timezone),
        end_date=midnight(schedule.end, schedule.timezone) if schedule.end else None,
        catchup=False,
        max_active_runs=1,
        default_args=TASK_DEFAULTS,
        doc_md=DOC,
        tags=["user model", recipe.name],
    ) as dag:
        day: dict[str, Any] = {"recipe": recipe.name, "ds": data_day(schedule.timezone)}
        decide = gate(**day)
        planned = task(steps.plan_inference)(**day)
        chain(
            task(steps.build_examples)(**day),
            task(**place("train"))(steps.train)(**day),
            task(steps.publish)(**day),
            planned,
            infer_shard.partial(recipe=recipe.name, day=day["ds"]).expand(shard=planned),
            task(steps.commit_inference)(**day),
            task(steps.check_shift)(**day),
            decide,
        )
        decide >> [promote(**day), reject(**day)]
        (
            decide
            >> task(steps.hold)(**day)
            >> TriggerDagRunOperator(
                task_id="request_review",
                trigger_dag_id=f"review_{recipe.name}",
                trigger_run_id=f"held__{day['ds']}",
                conf={"ds": day["ds"]},
                skip_when_already_exists=True,
            )
        )
    return dag


for name, recipe_function in USER_MODELS.items():
    globals()[f"user_model_{name}"] = user_model(recipe_function())
