"""What of a recipe decides the weights: the part that the training job is given and that names its result."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from features.fingerprint import ADDED_LATER
from features.schema import Schema
from features.selection import Selection
from trainer.recipe import Compute, Optimizer, Recipe, Task
from trainer.stabilizers import Regularizer
from trainer.towers import MixTower, UserTower


@dataclass(frozen=True, kw_only=True)
class Sum:
    """The paper's model: a user tower and a mix tower (section 3)."""

    user_tower: UserTower
    mix_tower: MixTower
    kind: Literal["sum"] = "sum"


@dataclass(frozen=True, kw_only=True)
class Dlrm:
    """The classic DLRM: a bottom MLP on the dense features, pairwise dot products, an over MLP."""

    dim: int
    bottom: tuple[int, ...]
    """Hidden widths, before the one of `dim`."""
    over: tuple[int, ...]
    """Hidden widths, before the logits."""
    kind: Literal["dlrm"] = "dlrm"


@dataclass(frozen=True, kw_only=True)
class TrainingConfig:
    """A recipe without its schedule, its gate and the way its log is read."""

    name: str
    schema: Schema
    tasks: tuple[Task, ...]
    model: Sum | Dlrm
    optimizer: Optimizer
    batch_size: int
    seed: int
    compute: Compute = field(default_factory=Compute)
    regularizers: tuple[Regularizer, ...] = field(default=(), metadata=ADDED_LATER)
    examples: tuple[Selection, ...] = field(default=(), metadata=ADDED_LATER)

    @classmethod
    def of(cls, recipe: Recipe) -> TrainingConfig:
        """The training part of `recipe`."""
        return cls(
            name=recipe.name,
            schema=recipe.schema,
            tasks=recipe.tasks,
            model=Sum(user_tower=recipe.user_tower, mix_tower=recipe.mix_tower),
            optimizer=recipe.optimizer,
            batch_size=recipe.batch_size,
            seed=recipe.seed,
            compute=recipe.compute,
            regularizers=recipe.regularizers,
            examples=recipe.examples,
        )

    @property
    def task_names(self) -> tuple[str, ...]:
        """The label columns, in the order of the logits."""
        return tuple(task.name for task in self.tasks)

    @property
    def is_anchored(self) -> bool:
        """Whether the day's pass needs the model that it began from."""
        return any(regularizer.weight > 0 for regularizer in self.regularizers)
