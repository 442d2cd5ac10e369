"""Feature importance by permutation (section 6.1.2): how much worse a model predicts when one feature is shuffled.

The values of a feature are dealt out anew among the examples, which keeps its distribution and breaks its tie
to everything else. Its importance is the rise of NE (Eq. 9). The background entropy of Eq. 9 is the same before
and after, so the rise is the mean difference of cross entropies over it.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
import torch

from features.fingerprint import fingerprint
from trainer.metrics import normalized_entropy

log = logging.getLogger(__name__)

STANDARD_ERRORS = 2.0
"""An importance nearer to zero than this many standard errors is not told from zero (about 95 %)."""
_PROGRESS_SECONDS = 5.0

Kind = Literal["sparse", "dense", "embedding"]
Verdict = Literal["helps", "zero", "harms"]
"""harms: the model predicts better without what this feature says."""


@dataclass(frozen=True, kw_only=True)
class Feature:
    """What is permuted at once: a feature of a side, or user embeddings in a downstream model."""

    name: str
    side: str
    kind: Kind
    members: tuple[str, ...] = ()
    """The features that it permutes together, which also stand for themselves; a rank counts no feature twice."""


class Subject(Protocol):
    """A model and a sample of N examples that it has not learnt."""

    @property
    def tasks(self) -> tuple[str, ...]:
        """The names of its T tasks."""

    @property
    def labels(self) -> torch.Tensor:
        """[N, T] float32."""

    @property
    def features(self) -> Sequence[Feature]:
        """What can be permuted."""

    def logits(self, feature: Feature | None, order: torch.Tensor) -> torch.Tensor:
        """[N, T], with row i given the value of `feature` in row order[i]; None: everything as it is."""


@dataclass(frozen=True, kw_only=True)
class Importance:
    """Of one feature for one task."""

    feature: Feature
    rank: int
    """1 is the most important. Those at zero share a rank; a group is ranked in place of its members."""
    increase: float
    """Of NE, mean over the repeats; absolute: 0.01 is NE 0.91 where it was 0.90."""
    error: float
    """Standard error of `increase`, of both the examples drawn and the permutations."""
    verdict: Verdict


@dataclass(frozen=True, kw_only=True)
class Ranking:
    """The features by importance for one task."""

    task: str
    ne: float
    """Eq. 9, with every feature as it is."""
    positives: int
    importances: tuple[Importance, ...]
    """By rank."""


@dataclass(frozen=True, kw_only=True)
class Effect:
    """What permuting a feature does to one task's NE."""

    increase: float
    error: float

    @property
    def verdict(self) -> Verdict:
        """Whether it is told from zero."""
        if abs(self.increase) <= STANDARD_ERRORS * self.error or self.increase == 0:
            return "zero"
        return "helps" if self.increase > 0 else "harms"


def measure(subject: Subject, *, repeats: int, seed: int) -> tuple[Ranking, ...]:
    """One ranking per task. A feature's permutations depend on its name and `seed` alone.

    ValueError where a task has no positive or no negative example: its NE has no meaning.
    """
    labels = subject.labels
    num_rows = labels.shape[0]
    before = _losses(subject.logits(None, torch.arange(num_rows)), labels)  # [N, T]
    positives = labels.double().sum(dim=0)
    nes = []
    for task, entropy, count in zip(subject.tasks, before.sum(dim=0).tolist(), positives.tolist(), strict=True):
        nes.append(normalized_entropy(entropy, positives=count, examples=num_rows))
        if not math.isfinite(nes[-1]):
            raise ValueError(
                f"{count:.0f} of the {num_rows} sampled examples are positive for task {task}: NE (Eq. 9) needs "
                "both kinds; sample more with --rows"
            )
    background = before.mean(dim=0) / torch.tensor(nes, dtype=torch.float64)  # [T]
    progress = _Progress(len(subject.features) * repeats)
    effects: dict[str, list[Effect]] = {}
    for feature in subject.features:
        differences = []
        for repeat in range(repeats):
            order = torch.from_numpy(_generator(seed, feature.name, repeat).permutation(num_rows))
            differences.append((_losses(subject.logits(feature, order), labels) - before) / background)
            progress.passed()
        effects[feature.name] = _effects(torch.stack(differences))
    return tuple(
        Ranking(
            task=task,
            ne=nes[index],
            positives=int(positives[index]),
            importances=rank(subject.features, {name: of_tasks[index] for name, of_tasks in effects.items()}),
        )
        for index, task in enumerate(subject.tasks)
    )


def rank(features: Sequence[Feature], effects: dict[str, Effect]) -> tuple[Importance, ...]:
    """The features by what they help; those not told from zero share one rank, those that harm come last."""

    def score(feature: Feature) -> float:
        effect = effects[feature.name]
        return 0.0 if effect.verdict == "zero" else effect.increase

    def is_above(other: Feature, feature: Feature) -> bool:
        """Groups do not count: their members do."""
        return not other.members and other.name not in feature.members and score(other) > score(feature)

    found = [
        Importance(
            feature=feature,
            rank=1 + sum(is_above(other, feature) for other in features),
            increase=effects[feature.name].increase,
            error=effects[feature.name].error,
            verdict=effects[feature.name].verdict,
        )
        for feature in features
    ]
    return tuple(sorted(found, key=lambda i: (i.rank, bool(i.feature.members), -i.increase, i.feature.name)))


def _losses(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Cross entropy in nats, [N, T] float64."""
    z = logits.double()
    return torch.nn.functional.softplus(z) - labels.double() * z


def _effects(differences: torch.Tensor) -> list[Effect]:
    """Per task, of [R, N, T] differences in units of NE.

    The variance is that of the mean over examples, plus that of the mean over permutations: rather too large,
    as the first holds a part of the second.
    """
    repeats, num_rows, _ = differences.shape
    increase = differences.mean(dim=(0, 1))
    variance = differences.mean(dim=0).var(dim=0) / num_rows if num_rows > 1 else torch.zeros_like(increase)
    if repeats > 1:
        variance = variance + differences.mean(dim=1).var(dim=0) / repeats
    return [
        Effect(increase=mean, error=math.sqrt(of))
        for mean, of in zip(increase.tolist(), variance.tolist(), strict=True)
    ]


def _generator(seed: int, name: str, repeat: int) -> np.random.Generator:
    return np.random.default_rng(int(fingerprint(seed, name, repeat)[:15], 16))


class _Progress:
    """Lines for a person who waits."""

    def __init__(self, total: int) -> None:
        self._total, self._done = total, 0
        self._started = self._last = time.monotonic()

    def passed(self) -> None:
        """One permutation is done."""
        self._done += 1
        now = time.monotonic()
        if now - self._last >= _PROGRESS_SECONDS:
            self._last = now
            remaining = (now - self._started) / self._done * (self._total - self._done)
            log.info("permutations=%d/%d eta=%.0fs", self._done, self._total, remaining)
