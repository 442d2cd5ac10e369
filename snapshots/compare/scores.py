"""Both versions on the same examples: NE, calibration and AUC, and how sure their differences are."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from trainer.downstream.scores import RESAMPLES
from trainer.metrics import normalized_entropy

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]
    Mask = NDArray[np.bool_]

METRICS = ("ne", "calibration", "auc")
_CENTRAL_95 = (2.5, 97.5)


@dataclass(frozen=True, kw_only=True)
class Difference:
    """One metric of one task on some of the users: B - A. None: without meaning (no positives, say)."""

    task: str
    metric: str
    users: str
    a: float | None
    b: float | None
    difference: float | None
    interval: tuple[float, float] | None
    """95 %, by bootstrap over users: a user's examples stay together, and both versions are scored on the same."""
    num_examples: int
    num_positives: int
    num_users: int

    @property
    def is_sure(self) -> bool:
        """Whether the interval leaves out zero."""
        return self.interval is not None and not self.interval[0] <= 0 <= self.interval[1]


@dataclass(frozen=True, kw_only=True)
class Scored:
    """The logits of both versions for one task, [N] each, and whose examples they are."""

    user_ids: NDArray[np.int64]
    labels: Floats
    a: Floats
    b: Floats


def score(task: str, scored: Scored, slices: Mapping[str, Mask], *, seed: int) -> Iterator[Difference]:
    """Every metric on every slice [N]."""
    for users, mask in slices.items():
        if mask.any():
            yield from _score(task, users, scored, mask, seed=seed)


def _score(task: str, users: str, scored: Scored, mask: Mask, *, seed: int) -> Iterator[Difference]:
    found, owner = np.unique(scored.user_ids[mask], return_inverse=True)
    labels = scored.labels[mask]
    arms = [_Arm.of(logits[mask], labels) for logits in (scored.a, scored.b)]
    everyone = np.ones(len(labels))
    values = [arm.metrics(everyone) for arm in arms]
    drawn = _resampled(arms, owner, len(found), seed=seed)
    for index, metric in enumerate(METRICS):
        a, b = (_meaningful(of[index]) for of in values)
        differences = drawn[:, index][np.isfinite(drawn[:, index])]
        sure = len(differences) > RESAMPLES // 2 and len(found) > 1
        low, high = np.percentile(differences, _CENTRAL_95) if sure else (0.0, 0.0)
        yield Difference(
            task=task,
            metric=metric,
            users=users,
            a=a,
            b=b,
            difference=None if a is None or b is None else b - a,
            interval=(float(low), float(high)) if sure else None,
            num_examples=len(labels),
            num_positives=int(labels.sum()),
            num_users=len(found),
        )


def _resampled(arms: Sequence[_Arm], owner: NDArray[np.int64], num_users: int, *, seed: int) -> Floats:
    """[RESAMPLES, metrics]: B - A when users are drawn anew."""
    rng = np.random.default_rng([seed, num_users])
    differences = np.empty((RESAMPLES, len(METRICS)))
    for index in range(RESAMPLES):
        weights = np.bincount(rng.integers(num_users, size=num_users), minlength=num_users)[owner].astype(np.float64)
        a, b = (arm.metrics(weights) for arm in arms)
        differences[index] = np.subtract(b, a)
    return differences


@dataclass(frozen=True, kw_only=True)
class _Arm:
    """One version's predictions, sorted once: [N] each."""

    labels: Floats
    predicted: Floats
    entropy: Floats
    order: NDArray[np.int64]
    starts: NDArray[np.int64]
    """Where runs of equal predictions begin, in order."""

    @classmethod
    def of(cls, logits: Floats, labels: Floats) -> _Arm:
        order = np.argsort(logits, kind="stable")
        ranked = logits[order]
        return cls(
            labels=labels,
            predicted=1 / (1 + np.exp(-logits)),
            entropy=np.logaddexp(0, logits) - labels * logits,
            order=order,
            starts=np.flatnonzero(np.r_[True, ranked[1:] != ranked[:-1]]),
        )

    def metrics(self, weights: Floats) -> tuple[float, float, float]:
        """METRICS of the examples, each counted `weights` times; NaN where one has no meaning."""
        positives, examples = float(weights @ self.labels), float(weights.sum())
        ne = normalized_entropy(float(weights @ self.entropy), positives=positives, examples=examples)
        calibration = float(weights @ self.predicted) / positives if positives else math.nan
        return ne, calibration, self._auc(weights)

    def _auc(self, weights: Floats) -> float:
        """The share of pairs in order; a tie counts half."""
        ranked, labels = weights[self.order], self.labels[self.order]
        positives = np.add.reduceat(ranked * labels, self.starts)
        negatives = np.add.reduceat(ranked * (1 - labels), self.starts)
        pairs = positives.sum() * negatives.sum()
        below = np.cumsum(negatives) - negatives
        return float((positives * (below + negatives / 2)).sum() / pairs) if pairs else math.nan


def _meaningful(value: float) -> float | None:
    return value if math.isfinite(value) else None
