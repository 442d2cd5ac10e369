"""What one user model costs: its sizes, and its plan's step on so many hosts."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from infra.experiments.capacity import tower_multiply_adds
from trainer.config import TrainingConfig
from trainer.planning.cluster import HARDWARE, Cluster
from trainer.planning.forecast import forecast
from trainer.planning.misfit import DoesNotFitError
from trainer.planning.model_plan import ModelPlanner
from trainer.recipe import Recipe

FLOAT_BYTES = 4
MOST_HOSTS = 1_024


@dataclass(frozen=True, kw_only=True)
class Model:
    """Sizes of one recipe. FLOPs count a multiplication and an addition as two."""

    name: str
    tower_flops: float
    """Of one user's inference."""
    example_flops: float
    """Forward of one example, both towers."""
    tower_bytes: float
    """Tables of the user side."""
    num_lists: int
    """Sparse user features."""
    num_dense: int
    item_values: float
    """Ids and dense values of an example's item side, labels with them."""
    num_embeddings: int
    """K."""
    dim: int
    """D."""

    def user_values(self, ids_per_feature: float) -> float:
        """Ids and dense values of a user."""
        return self.num_lists * ids_per_feature + self.num_dense


def model_of(recipe: Recipe, planner: ModelPlanner) -> Model:
    """The recipe's sizes, as its plan counts them."""
    schema, tower = recipe.schema, recipe.user_tower
    [user_tables] = [tables for path, tables in planner.tables.items() if "user_tower" in path]
    return Model(
        name=recipe.name,
        tower_flops=2 * tower_multiply_adds(recipe),
        example_flops=planner.example_flops,
        tower_bytes=sum(FLOAT_BYTES * table.num_embeddings * table.embedding_dim for table in user_tables),
        num_lists=len(schema.sparse_of("user")),
        num_dense=len(schema.dense_of("user")),
        item_values=len(schema.sparse_of("item")) + len(schema.dense_of("item")) + len(recipe.tasks),
        num_embeddings=tower.num_embeddings,
        dim=tower.dim,
    )


def planner_of(recipe: Recipe, *, ids_per_feature: float) -> ModelPlanner:
    """For several questions: the model is built once, without memory."""
    return ModelPlanner(TrainingConfig.of(recipe), ids_per_feature=ids_per_feature)


@dataclass(frozen=True, kw_only=True)
class Trained:
    """What learns the day in time. examples_per_second: of the plan, nothing overlapped."""

    hosts: int
    examples_per_second: float


def gpu_hosts(planner: ModelPlanner, *, gpus: int, wanted: float, say: Callable[[str], None]) -> Trained:
    """The fewest full GPU hosts whose plan holds the model and learns `wanted` examples per second.

    The plan is asked at 1, 2, 4 … hosts, then between the last two. ValueError when 1,024 are too few.
    """

    def rate(hosts: int) -> float:
        say(f"planning {hosts} GPU hosts")
        try:
            planned = planner.plan(Cluster(hosts=hosts, ranks_per_host=gpus, hardware=HARDWARE["cuda"]))
        except DoesNotFitError as error:
            if not error.more_hosts_help:
                raise
            return 0.0
        return planned.batch_size * planned.cluster.world_size * 1000 / forecast(planned).step_ms

    enough, found = 1, rate(1)
    while found < wanted:
        if enough >= MOST_HOSTS:
            raise ValueError(
                f"{MOST_HOSTS} GPU hosts learn {found:,.0f} examples/s of {wanted:,.0f}; allow more --train-hours"
            )
        enough, found = 2 * enough, rate(2 * enough)
    few = enough // 2
    while enough - few > max(1, enough // 16):
        middle = math.ceil((few + enough) / 2)
        at = rate(middle)
        if at >= wanted:
            enough, found = middle, at
        else:
            few = middle
    return Trained(hosts=enough, examples_per_second=found)
