"""What keeps the embeddings of one day near those of the day before (section 5.2, option 2): a recipe's choices.

Beside average pooling (`Recipe.pooling_versions`), which works on what is served. Regularizers work on the weights
while they are learnt; alignments on the finished snapshot. Light to import: DAG files read recipes at parse time.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


def _check(config: object, name: str, value: float) -> None:
    """ValueError unless `value` is a number of at least 0."""
    if not 0 <= value < float("inf"):
        raise ValueError(f"{type(config).__name__}: {name} is {value}; it is at least 0 and finite")


@dataclass(frozen=True, kw_only=True)
class L2ToPrevious:
    """Adds `weight * sum_p ||p - p'||^2` to the loss, over the dense weights p of the user tower and those of the
    parent, p': L2-SP (Li, Grandvalet, Davoine, 2018). The rows of tables are left out: `trainer.anchor` says why."""

    weight: float
    """0: off."""
    kind: Literal["l2_to_previous"] = "l2_to_previous"

    def __post_init__(self) -> None:
        _check(self, "weight", self.weight)


@dataclass(frozen=True, kw_only=True)
class Distillation:
    """Adds `weight * 1/N sum_i 1/K sum_k d(u_ik, u'_ik)` to the loss: the day's embeddings u of the users of a batch,
    against those of the parent's user tower for the same inputs, u'.

    distance: `squared` is `||u - u'||^2 / D`, `cosine` is `1 - cos(u, u')`, which leaves the length free.
    """

    weight: float
    """0: off."""
    distance: Literal["squared", "cosine"] = "squared"
    kind: Literal["distillation"] = "distillation"

    def __post_init__(self) -> None:
        _check(self, "weight", self.weight)


Regularizer = L2ToPrevious | Distillation


@dataclass(frozen=True, kw_only=True)
class Procrustes:
    """Each of the K embeddings is rotated (or reflected) to where the previous snapshot has it; lengths and angles
    between users stay."""

    kind: Literal["procrustes"] = "procrustes"


@dataclass(frozen=True, kw_only=True)
class BackwardCompatible:
    """The K embeddings, side by side, go through the linear map that predicts the previous snapshot's best.

    ridge: how strongly the map is pulled towards `Procrustes`'s, in mean variances of the new embeddings. Small ones
    keep of every day only what the day before predicts of it: for one change of model, not for every day
    (infra/decisions/014-stabilisers.md).
    """

    ridge: float = 1.0
    kind: Literal["backward_compatible"] = "backward_compatible"

    def __post_init__(self) -> None:
        if not 0 < self.ridge < float("inf"):
            raise ValueError(f"{type(self).__name__}: ridge is {self.ridge}; it is positive and finite")


Alignment = Procrustes | BackwardCompatible


def check_regularizers(name: str, regularizers: tuple[Regularizer, ...]) -> None:
    """ValueError where recipe `name` has two of a kind."""
    kinds = [regularizer.kind for regularizer in regularizers]
    if twice := sorted({kind for kind in kinds if kinds.count(kind) > 1}):
        raise ValueError(f"recipe {name}: regularizers {twice} stand twice; add their weights")
