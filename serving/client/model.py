"""What a client knows of a user model without asking: its policy, its shape and its features."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from features.schema import Schema
from serving.features import FeatureCodec
from trainer.serving import Serving

if TYPE_CHECKING:
    from trainer.recipe import Recipe


@dataclass(frozen=True, kw_only=True)
class Model:
    """One user model. source: the name of its source. num_embeddings, dim: K and D, the shape of the default."""

    name: str
    source: str
    schema: Schema
    num_embeddings: int
    dim: int
    serving: Serving = field(default_factory=Serving)

    @classmethod
    def of(cls, recipe: Recipe) -> Model:
        """The one that `recipe` trains."""
        return cls(
            name=recipe.name,
            source=recipe.source.name,
            schema=recipe.schema,
            num_embeddings=recipe.user_tower.num_embeddings,
            dim=recipe.user_tower.dim,
            serving=recipe.serving,
        )

    def default(self) -> NDArray[np.float16]:
        """[K, D] zeros, the declared default: what a user of whom nothing is known has."""
        return np.zeros((self.num_embeddings, self.dim), np.float16)


class SourcePlan:
    """Models of one source: a request of one computes all of them, from the same features."""

    def __init__(self, models: Sequence[Model], *, partitions: int) -> None:
        self.source = models[0].source
        self.codec = FeatureCodec(models[0].schema)
        computed = [model.serving for model in models if model.serving.computes]
        self.computes = bool(computed)
        self.ttl_seconds = max((serving.failover_seconds for serving in computed), default=0.0)
        self.future_seconds = min((serving.future_seconds for serving in computed), default=0.0)
        self.per_second = min((serving.max_inferences_per_second for serving in computed), default=0.0) / partitions
        """Of each partition, in the store."""
