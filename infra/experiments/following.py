"""A consumer that follows the days: scored on each with what it knows, then trained on it; any arms in step."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from features.columns import Ids
from infra.experiments.lab import EVALUATION_BATCH, Lab
from trainer.downstream.arms import BASELINE, Arms, Shape, small_tables
from trainer.downstream.joined import Lookup
from trainer.downstream.rate import positive_rate
from trainer.downstream.scores import Predictions, bootstrap_interval
from trainer.recipe import DownstreamRecipe

OfDay = Callable[[int], Lookup]
"""The embeddings that the examples of a day join."""


@dataclass(frozen=True, kw_only=True)
class Joined:
    """An arm: what it joins."""

    shapes: Sequence[Shape]
    """(K, D) of each user model's embeddings; `trainer.downstream.joined.SideBySide` joins several."""
    trained: OfDay
    evaluated: OfDay | None = None
    """None: as in training."""


@dataclass(kw_only=True)
class Losses:
    """Summed cross entropy in nats by arm and day; `train` is progressive, `eval` from before the day was learnt."""

    num_examples: list[int] = field(default_factory=list)
    num_positives: list[int] = field(default_factory=list)
    train: dict[str, list[float]] = field(default_factory=dict)
    eval: dict[str, list[float]] = field(default_factory=dict)
    _by_user: list[tuple[Ids, dict[str, NDArray[np.float64]]]] = field(default_factory=list)
    """Of each day's evaluation: users, and by arm the sum of each one's losses."""

    def diff_percent(self, arm: str, *, kind: str, first: int, reference: str = BASELINE) -> float:
        """100 (NE / NE of the reference - 1) over the examples of the days from `first` on, counted from 0: the
        background entropy of Eq. 9 cancels."""
        losses = {"train": self.train, "eval": self.eval}[kind]
        return 100 * (sum(losses[arm][first:]) / sum(losses[reference][first:]) - 1)

    def ne(self, arm: str, *, kind: str, first: int) -> float:
        """Eq. 9 over the same examples."""
        losses = {"train": self.train, "eval": self.eval}[kind]
        examples, positives = sum(self.num_examples[first:]), sum(self.num_positives[first:])
        p = positives / examples
        return sum(losses[arm][first:]) / -(examples * (p * math.log(p) + (1 - p) * math.log1p(-p)))

    def interval(self, arm: str, *, first: int, seed: int = 0) -> tuple[float, float]:
        """The 95 % interval of the eval difference in percent by bootstrap over the users of one seed: of what it
        would have been for others like them, with the same models."""
        users, owner = np.unique(np.concatenate([ids for ids, _ in self._by_user[first:]]), return_inverse=True)
        columns = (np.concatenate([of[name] for _, of in self._by_user[first:]]) for name in (BASELINE, arm))
        per_user = np.stack([_sums(owner, of, num=len(users)) for of in columns], axis=1)
        return bootstrap_interval(per_user, seed=seed)

    def add(self, training: Predictions, evaluation: Predictions) -> None:
        """A day."""
        self.num_examples.append(len(training.user_ids))
        self.num_positives.append(int(training.labels.sum()))
        for arm in training.logits:
            self.train.setdefault(arm, []).append(float(training.losses(arm).sum()))
            self.eval.setdefault(arm, []).append(float(evaluation.losses(arm).sum()))
        users, owner = np.unique(evaluation.user_ids, return_inverse=True)
        self._by_user.append(
            (users, {arm: _sums(owner, evaluation.losses(arm), num=len(users)) for arm in evaluation.logits})
        )


def follow(
    lab: Lab,
    consumer: DownstreamRecipe,
    days: Sequence[int],
    arms: Mapping[str, Joined],
    *,
    progress: Callable[[str, float], None],
    told: Callable[[int, Predictions], None] = lambda day, evaluation: None,
    before: Callable[[int, Arms], None] = lambda day, model: None,
) -> Losses:
    """Score, then train, day by day, the baseline without embeddings and these arms; all start at the rate of positives
    on the day before the first.

    progress: told the share of the days that is done. told: given each day's evaluation, for intervals over users or
    breakdowns. before: given the arms as they are before each day is learnt.
    """
    model = Arms(consumer, small_tables(lab.source.schema), {BASELINE: (), **{n: a.shapes for n, a in arms.items()}})
    day_before = lab.lake.get(f"examples/{lab.source.name}", lab.days[max(days[0] - 1, 0)])
    model.start_at(positive_rate(lab.lake, day_before, consumer))
    found = Losses()
    for number, day in enumerate(days, start=1):
        in_training = {name: arm.trained(day) for name, arm in arms.items()}
        in_evaluation = {
            name: in_training[name] if arm.evaluated is None else arm.evaluated(day) for name, arm in arms.items()
        }
        evaluation = model.evaluate(lab.batches(consumer, day, in_evaluation, batch_size=EVALUATION_BATCH))
        told(day, evaluation)
        before(day, model)
        found.add(model.train(lab.batches(consumer, day, in_training)), evaluation)
        progress(f"{consumer.name} {lab.days[day]}", number / len(days))
    return found


def _sums(owner: NDArray[np.intp], losses: NDArray[np.float64], *, num: int) -> NDArray[np.float64]:
    """[num], of the losses of each owner."""
    return np.bincount(owner, weights=losses, minlength=num).astype(np.float64)
