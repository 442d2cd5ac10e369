"""`downstream_<name>`: one DAG per consumer, trained on every day that all its user models have promoted."""

from __future__ import annotations

from functools import reduce
from operator import or_
from typing import TYPE_CHECKING, Any

from airflow.sdk import DAG, PartitionedAssetTimetable, task
from airflow.sdk.exceptions import AirflowSkipException

from dags import steps
from dags.common import TASK_DEFAULTS, announce, embeddings_asset, midnight, place, released_asset
from trainer.recipes import DOWNSTREAM_MODELS, get_recipe

if TYPE_CHECKING:
    from trainer.recipe import DownstreamRecipe

DOC = """
Scores the downstream model, with and without the user embeddings, on the promoted day; then trains both one
day further. The embeddings are joined as of the day before. Each promotion of one of its user models starts a run of
the day, also on retry, backfill and rollback; a day that another one has not promoted yet is skipped, and waits for
that promotion. By hand: `usermodel trainer downstream --name N --ds D`. Where a user model serves only what its
consumers have learnt (`Serving.after`), the last of them moves its champion: `usermodel snapshots release --recipe R`.
"""


def downstream_model(downstream: DownstreamRecipe) -> DAG:
    """The consumer's DAG, triggered by each promoted partition."""
    schedule = get_recipe(downstream.upstreams[0]).schedule
    embeddings = [embeddings_asset(upstream) for upstream in downstream.upstreams]

    def retrain(downstream: str, *, dag_run: Any = None) -> Any:
        day = dag_run.partition_key
        if waits := steps.waits_for(downstream, day):
            raise AirflowSkipException(f"{day} waits for the promotion by {', '.join(waits)}")
        try:
            return steps.retrain_downstream(downstream, day)
        except steps.NothingToJoinError as nothing:
            raise AirflowSkipException(str(nothing)) from nothing

    with DAG(
        dag_id=f"downstream_{downstream.name}",
        schedule=PartitionedAssetTimetable(assets=reduce(or_, embeddings)),
        start_date=midnight(schedule.start, schedule.timezone),
        max_active_runs=1,
        default_args=TASK_DEFAULTS,
        doc_md=DOC,
        tags=["downstream", *downstream.upstreams],
    ) as dag:
        trained = task(**place("retrain"))(retrain)(downstream.name)
        for upstream in downstream.upstreams:
            if get_recipe(upstream).serving.after == "learning":
                trained >> _release(upstream)
    return dag


def _release(upstream: str) -> Any:
    """The task that lets what every consumer of the user model has learnt serve; skipped while there is nothing new."""
    released = released_asset(upstream)

    @task(task_id=f"release_{upstream}", outlets=[released])
    def release(recipe: str, *, outlet_events: Any = None) -> Any:
        found = steps.release(recipe)
        if not found["partitions"]:
            raise AirflowSkipException(found["sentence"])
        announce(outlet_events, released, found)
        return found

    return release(upstream)


for name, downstream_function in DOWNSTREAM_MODELS.items():
    globals()[f"downstream_{name}"] = downstream_model(downstream_function())
