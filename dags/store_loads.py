"""`serve_<recipe>`: each promoted day goes into the feature store, from where requests are answered."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from airflow.sdk import DAG, PartitionedAssetTimetable, task
from airflow.sdk.exceptions import AirflowSkipException

from dags import steps
from dags.common import TASK_DEFAULTS, embeddings_asset, midnight, released_asset
from trainer.recipes import USER_MODELS

if TYPE_CHECKING:
    from trainer.recipe import Recipe

DOC = """
Loads the computed vectors of the promoted days that pooling reaches back to into the feature store (Redis), those that
it does not hold yet; after a rollback, drops those that were withdrawn. It never takes the place of anything newer. A
store that lost everything is filled again. Where consumers learn a version before it serves (`Serving.after`), what
waits for them is left out, and the release by the last of them begins another run.
By hand: `usermodel serving load --recipe R [--ds D]`.
"""


def serving(recipe: Recipe) -> DAG:
    """The loading of one user model, triggered by each promoted partition, and by what is released later."""
    promoted = embeddings_asset(recipe.name)
    wakes: Any = promoted | released_asset(recipe.name) if recipe.serving.after == "learning" else promoted

    @task
    def load(recipe: str, *, dag_run: Any = None) -> Any:
        try:
            return steps.load_embeddings(recipe, dag_run.partition_key)
        except steps.NothingToLoadError as nothing:
            raise AirflowSkipException(str(nothing)) from nothing

    with DAG(
        dag_id=f"serve_{recipe.name}",
        schedule=PartitionedAssetTimetable(assets=wakes),
        start_date=midnight(recipe.schedule.start, recipe.schedule.timezone),
        max_active_runs=1,
        default_args=TASK_DEFAULTS,
        doc_md=DOC,
        tags=["serving", recipe.name],
    ) as dag:
        load(recipe.name)
    return dag


for name, recipe_function in USER_MODELS.items():
    globals()[f"serve_{name}"] = serving(recipe_function())
