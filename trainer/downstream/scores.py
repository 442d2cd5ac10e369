"""With against without: the scores of both arms on the same examples, and how sure their difference is."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch.nn.functional import softplus

from trainer.metrics import ProgressiveMetrics

RESAMPLES = 200
_CENTRAL_95 = (2.5, 97.5)


@dataclass(frozen=True, kw_only=True)
class Score:
    """One arm on a set of examples; None where a value has no meaning (all labels equal)."""

    ne: float | None
    """Eq. 9."""
    log_loss: float
    """Mean cross entropy in nats."""
    calibration: float | None
    """Predicted over observed positives."""
    auc: float | None


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Both arms on the same examples."""

    num_examples: int
    num_positives: int
    num_users: int
    baseline: Score
    sum: Score
    """The arm that takes the user embeddings."""
    ne_diff_percent: float
    """100 (NE_sum / NE_baseline - 1): negative where the embeddings help."""
    interval: tuple[float, float] | None
    """95 % interval of `ne_diff_percent`, by bootstrap over users; None where it was not asked for."""


@dataclass(frozen=True, kw_only=True)
class Breakdown:
    """All examples, and those of users with and without an embedding (None: there is no such user)."""

    everyone: Comparison
    with_embedding: Comparison | None
    without_embedding: Comparison | None


@dataclass(frozen=True, kw_only=True)
class Predictions:
    """A day's predictions of every arm, [N] each."""

    user_ids: npt.NDArray[np.int64]
    has_embedding: torch.Tensor
    """bool: of any user model, in any arm."""
    labels: torch.Tensor
    logits: dict[str, torch.Tensor]
    """By arm."""

    def losses(self, arm: str) -> npt.NDArray[np.float64]:
        """[N]: the arm's cross entropy in nats."""
        logits, labels = self.logits[arm].double(), self.labels.double()
        losses: npt.NDArray[np.float64] = (softplus(logits) - labels * logits).numpy()
        return losses


def compare(
    predictions: Predictions, *, arms: tuple[str, str] = ("baseline", "sum"), bootstrap_seed: int | None = None
) -> Breakdown:
    """Score and compare two arms, the one without embeddings first; with a seed, with intervals."""

    def on(mask: torch.Tensor) -> Comparison | None:
        return _compare(predictions, arms, mask, bootstrap_seed) if mask.any() else None

    known = predictions.has_embedding
    everyone = on(torch.ones_like(known))
    if everyone is None:
        raise ValueError("there are no predictions to compare")
    return Breakdown(everyone=everyone, with_embedding=on(known), without_embedding=on(~known))


def _compare(
    predictions: Predictions, arms: tuple[str, str], mask: torch.Tensor, bootstrap_seed: int | None
) -> Comparison:
    labels = predictions.labels[mask]
    losses = np.stack([predictions.losses(arm) for arm in arms], axis=1)[mask.numpy()]  # [N, 2]
    users, owner = np.unique(predictions.user_ids[mask.numpy()], return_inverse=True)
    per_user = np.stack([np.bincount(owner, weights=of) for of in losses.T], axis=1).astype(np.float64)
    baseline, with_sum = (
        _score(predictions.logits[arm][mask], labels, of) for arm, of in zip(arms, losses.T, strict=True)
    )
    return Comparison(
        num_examples=labels.numel(),
        num_positives=int(labels.sum()),
        num_users=users.size,
        baseline=baseline,
        sum=with_sum,
        ne_diff_percent=float(_difference(per_user.sum(axis=0))),
        interval=None if bootstrap_seed is None else bootstrap_interval(per_user, seed=bootstrap_seed),
    )


def _score(logits: torch.Tensor, labels: torch.Tensor, losses: npt.NDArray[np.float64]) -> Score:
    metrics = ProgressiveMetrics(("task",))
    metrics.update(logits.unsqueeze(1), labels.unsqueeze(1), torch.ones_like(labels))
    values = metrics.compute()["task"]
    return Score(
        ne=_meaningful(values["ne"]),
        log_loss=float(losses.mean()),
        calibration=_meaningful(values["calibration"]),
        auc=_meaningful(values["auc"]),
    )


def _meaningful(value: float) -> float | None:
    return value if math.isfinite(value) else None


def bootstrap_interval(
    per_user: npt.NDArray[np.float64], *, seed: int, resamples: int = RESAMPLES
) -> tuple[float, float]:
    """95 % interval of the NE difference when users are drawn anew: a user's examples stay together.

    per_user: [U, 2] sums of cross entropy, baseline and sum. The background entropy of Eq. 9 is the same for
    both arms, and cancels.
    """
    low, high = np.percentile(_difference(resampled(per_user, seed=seed, resamples=resamples)), _CENTRAL_95)
    return float(low), float(high)


def resampled(per_user: npt.NDArray[np.float64], *, seed: int, resamples: int = RESAMPLES) -> npt.NDArray[np.float64]:
    """The column sums of `per_user` [U, A] when users are drawn anew, [resamples, A]."""
    num_users = per_user.shape[0]
    rng = np.random.default_rng([seed, num_users])
    totals = np.empty((resamples, per_user.shape[1]))
    for index in range(resamples):
        drawn = np.bincount(rng.integers(num_users, size=num_users), minlength=num_users)
        totals[index] = drawn @ per_user
    return totals


def _difference(totals: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Percent, from summed cross entropies [..., 2] of baseline and sum."""
    percent: npt.NDArray[np.float64] = 100 * (totals[..., 1] / totals[..., 0] - 1)
    return percent
