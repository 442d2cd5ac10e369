"""What of a recipe decides the weights: the part that the training job is given and that names its result."""

from __future__ import annotations

from dataclasses import dataclass

from features.schema import Schema
from trainer.recipe import MixTower, Optimizer, Recipe, Task, UserTower


@dataclass(frozen=True, kw_only=True)
class TrainingConfig:
    """A recipe without its schedule, its gate and the way its log is read."""

    name: str
    schema: Schema
    tasks: tuple[Task, ...]
    user_tower: UserTower
    mix_tower: MixTower
    optimizer: Optimizer
    embedding_dim: int
    batch_size: int
    seed: int

    @classmethod
    def of(cls, recipe: Recipe) -> TrainingConfig:
        """The training part of `recipe`."""
        return cls(
            name=recipe.name,
            schema=recipe.source.schema,
            tasks=recipe.tasks,
            user_tower=recipe.user_tower,
            mix_tower=recipe.mix_tower,
            optimizer=recipe.optimizer,
            embedding_dim=recipe.embedding_dim,
            batch_size=recipe.batch_size,
            seed=recipe.seed,
        )
