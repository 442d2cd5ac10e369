"""Foundation models of an experiment: a user model's whole model of every day, user tower and mix tower."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from infra.experiments.lab import Lab, one_rank
from infra.experiments.towers import DailyTowers, beside, locked, train_days, weights
from serving.solaris.foundation import FoundationModel
from trainer.config import Sum, TrainingConfig
from trainer.model.sum_model import SumModel
from trainer.recipe import Recipe
from trainer.sharding import ShardedModel
from trainer.shards import local_parts


@dataclass(frozen=True, kw_only=True)
class Foundations:
    """By day, from 0."""

    towers: DailyTowers
    """Their user towers."""
    models: Sequence[FoundationModel]
    """The version is the day."""


def foundations(lab: Lab, recipe: Recipe) -> Foundations:
    """The recipe trained over the lab's days as any user model is; trained once, then read from the lab's folder."""
    config = TrainingConfig.of(recipe)
    place = lab.place(recipe)
    place = place.with_name(f"{place.name}-whole")
    with locked(place):
        if not place.exists():
            with beside(place) as partial, one_rank():
                day = count()
                train_days(
                    recipe, lab.days, lake=lab.lake, users=lab.users, say=lab.say,
                    keep=lambda sharded: _save(sharded, weights(partial, next(day))),
                )  # fmt: skip
    models = [_load(config, weights(place, day)) for day in range(len(lab.days))]
    towers = DailyTowers(recipe=recipe, users=lab.users, towers=[model.user_tower for model in models])
    return Foundations(
        towers=towers,
        models=[FoundationModel(model, recipe, version=day) for day, model in enumerate(models)],
    )


def _save(sharded: ShardedModel, path: Path) -> None:
    """What the one rank holds."""
    whole: dict[str, torch.Tensor] = {}
    for name, value in sharded.module.state_dict().items():
        ((_, part),) = local_parts(value)
        whole[name] = part.detach().clone().contiguous()
    save_file(whole, path)


def _load(config: TrainingConfig, path: Path) -> SumModel:
    assert isinstance(config.model, Sum), f"{config.name} is no user model"
    model = SumModel(config, config.model)
    model.load_state_dict(load_file(path))
    return model.eval()
