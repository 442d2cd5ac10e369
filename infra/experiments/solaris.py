"""SOLARIS: what representations of pairs, computed before they are asked for, are worth to a consumer, and their cost.

A foundation model (the user model with a larger mix tower) learns day by day. Before a day begins it represents the
pairs that are likely to be asked for; a consumer takes what each request is served beside the user's SUM embeddings.
Against it: the consumer that has the SUM embeddings alone, the one that was distilled from the foundation model on the
same examples, and the one for which the foundation model is computed at every request.

In the synthetic world pairs are drawn by popularity, independent of the user: that part is hard to predict. In the
other part half of the events repeat what the user was shown lately, as ads are shown again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from itertools import count
from typing import Any

import numpy as np
from numpy.typing import NDArray

from features.lake import Partition
from features.reader import DayReader
from features.sources.globo import GloboClicks
from features.sources.synthetic import SyntheticWorld
from infra.experiments.following import Losses
from infra.experiments.foundations import foundations
from infra.experiments.lab import EVALUATION_BATCH
from infra.experiments.setting import Setting
from infra.experiments.solaris_arms import DISTILLED, INDEPENDENT, REPEATED, SERVED, beside
from infra.experiments.solaris_day import Day, Replay
from infra.experiments.solaris_finding import conclude
from infra.experiments.study import Study, Trial, Values, open_lab
from serving.solaris.joined import ImpressionEncoder
from serving.solaris.levels import shares
from serving.solaris.replay import flag_shapes
from trainer.downstream.arms import BASELINE, SUM, TEACHER, Arms, own_features, shape_of, small_tables
from trainer.downstream.joined import Lookup, SideBySide
from trainer.downstream.rate import positive_rate
from trainer.recipe import DownstreamRecipe, Recipe, Task
from trainer.recipes.towers import large_mix_tower

REPEATED_SHARE = 0.5
MOST_LEARNT = 20
"""Days that the foundation model learns, the setting's last: what consumers are scored on has settled by then."""
MOST_FOLLOWED = 8
"""Days that the consumers follow, the last ones; of fewer than twice as many days the second half."""
SETTLING = 2
"""Of those, the first so many, on which consumers are too young to be scored."""
_TRAINING = 0.5
"""Share of a unit's work, about."""


def foundation_of(setting: Setting) -> Recipe:
    """The setting's user model with every task of its source, every example, and a larger mix tower."""
    recipe = setting.user_models["a"]
    first, *others = recipe.source.schema.tasks
    return replace(
        recipe,
        name=f"{recipe.source.name}_foundation",
        tasks=(Task(name=first), *(Task(name=task, weight=0.5) for task in others)),
        examples=(),
        mix_tower=recipe.mix_tower if setting.name == "quick" else large_mix_tower(),
    )


def repeating(setting: Setting) -> Setting:
    """The setting in a world of the same users and items in which half of the events repeat what was shown."""
    assert isinstance(setting.source, SyntheticWorld), f"{setting.source.name} is what it is"
    source = replace(setting.source, name=f"{setting.source.name}_repeated", repeated_share=REPEATED_SHARE)
    models = {role: replace(recipe, source=source) for role, recipe in setting.user_models.items()}
    return replace(setting, source=source, user_models=models)


def last_days(setting: Setting, count: int) -> Setting:
    """The setting without the days before its last `count`."""
    skipped = max(setting.num_days - count, 0)
    days = setting.num_days - skipped
    followed = min(setting.num_followed, days - 1)
    return replace(
        setting, start=setting.start + timedelta(days=skipped), num_days=days, num_followed=followed,
        num_settling=min(setting.num_settling, followed - 1),
    )  # fmt: skip


def measure(trial: Trial) -> Values:
    """By arm: the consumer's loss, the levels it was served and what that cost; of the predictor: its recall."""
    setting, seed, learnt = last_days(trial.setting, MOST_LEARNT), trial.seed, count(1)
    if trial.unit.part == REPEATED:
        if not isinstance(setting.source, SyntheticWorld):
            return {}  # real requests repeat what they repeat
        setting = repeating(setting)
    lab = open_lab(
        setting, trial.settings, say=lambda line: trial.progress(line, next(learnt) / setting.num_days * _TRAINING)
    )
    recipe = foundation_of(setting)
    item = "item_article" if isinstance(setting.source, GloboClicks) else "item"
    replay = Replay(lab=lab, foundations=foundations(lab, recipe), item=item, seed=seed)
    consumer = replace(setting.consumers["ctr_a"], upstreams=(recipe.name,), task=recipe.tasks[0].name, examples=())
    days = range(max(setting.num_days // 2, setting.num_days - MOST_FOLLOWED), setting.num_days)
    following = Following(replay, consumer, first=days[0], user_shape=shape_of(recipe.user_tower))
    for number, day in enumerate(days, start=1):
        following.day(day)
        trial.progress(f"{trial.unit.part} {lab.days[day]}", _TRAINING + (1 - _TRAINING) * number / len(days))
    return {**following.values(first=min(SETTLING, len(days) - 1)), **replay.mflop()}


class Following:
    """The consumer's arms, scored on each day with what they know and are served, then trained on it; all start at the
    rate of positives on the day before the first."""

    def __init__(self, replay: Replay, consumer: DownstreamRecipe, *, first: int, user_shape: tuple[int, int]) -> None:
        self._replay, self._consumer = replay, consumer
        self._schema = small_tables(replay.lab.source.schema)
        pair_shapes = (user_shape, *flag_shapes(replay.model.width))
        self._shapes: dict[str, Any] = {BASELINE: (), SUM: (user_shape,), **dict.fromkeys(SERVED, pair_shapes)}
        self._shapes |= {name: self._shapes[beside(name)] for name in DISTILLED}
        self._arms = Arms(consumer, self._schema, self._shapes, distilled=DISTILLED)
        self._arms.start_at(positive_rate(replay.lab.lake, self._examples(first - 1), consumer))
        self._losses, self._days = Losses(), list[_Kept]()

    def day(self, number: int) -> None:
        """Score, then train."""
        day, users = self._replay.day(number), self._replay.users(number)
        evaluation = self._arms.evaluate(self._batches(number, day, users, learns=False))
        self._losses.add(self._arms.train(self._batches(number, day, users, learns=True)), evaluation)
        levels = {name: of.levels for name, of in day.served.items()}
        ages = {name: of.age_hours for name, of in day.served.items()}
        self._days.append(_Kept(levels=levels, ages=ages, forwards=day.forwards, recalls=day.recalls))

    def _batches(self, number: int, day: Day, users: Lookup, *, learns: bool) -> DayReader:
        served = {**day.served, **(day.trained if learns else {})}
        lookups: dict[str, Lookup] = {SUM: users}
        lookups |= {name: SideBySide(parts=(users, served[name])) for name in SERVED}
        lookups |= {name: lookups[beside(name)] for name in DISTILLED if beside(name) != BASELINE}
        lookups |= {TEACHER: day.taught} if learns else {}
        lab, consumer = self._replay.lab, self._consumer
        encoder = ImpressionEncoder(
            self._schema, day.impressions, item=self._replay.item, task=consumer.task,
            features=own_features(consumer, self._schema), embeddings=lookups,
        )  # fmt: skip
        size = consumer.batch_size if learns else min(EVALUATION_BATCH, len(day.impressions))
        return DayReader(lab.lake, self._examples(number), encoder, batch_size=size, seed=consumer.seed)

    def _examples(self, number: int) -> Partition:
        lab = self._replay.lab
        return lab.lake.get(f"examples/{lab.source.name}", lab.days[number])

    def values(self, *, first: int) -> Values:
        """Of the days from `first` on."""
        days, losses = self._days[first:], self._losses
        arms: dict[str, Any] = {}
        for name in self._shapes:
            arms[name] = {
                "ne": losses.ne(name, kind="eval", first=first),
                "to_sum": losses.diff_percent(name, kind="eval", first=first, reference=SUM),
                "to_baseline": losses.diff_percent(name, kind="eval", first=first),
            }
            of = beside(name) if name in DISTILLED else name
            if of in SERVED:
                arms[name] |= _served([day.levels[of] for day in days], [day.ages[of] for day in days])
                arms[name]["forwards"] = float(np.mean([day.forwards[of] for day in days]))
        recalls = {name: float(np.mean([day.recalls[name] for day in days])) for name in days[0].recalls}
        return {"arms": arms, "recalls": recalls}


@dataclass(frozen=True, kw_only=True)
class _Kept:
    """What is told of a day when it is over."""

    levels: Mapping[str, NDArray[np.uint8]]
    ages: Mapping[str, NDArray[np.float32]]
    forwards: Mapping[str, float]
    recalls: Mapping[str, float]


def _served(levels: Sequence[NDArray[np.uint8]], ages: Sequence[NDArray[np.float32]]) -> Mapping[str, Any]:
    """Shares of the levels, and the median age in hours of exact pairs (None: there is none)."""
    every = np.concatenate(ages)
    known = every[np.isfinite(every)]
    return {**shares(np.concatenate(levels)), "age_hours": float(np.median(known)) if len(known) else None}


STUDY = Study(name="solaris", measure=measure, conclude=conclude, parts=(INDEPENDENT, REPEATED))
