"""Progressive metrics: every batch is scored by the model that has not learnt from it yet."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.distributed as dist

AUC_BINS = 10_000
"""The AUC is exact up to ties within a bin of predicted probability; a tie counts half."""


class ProgressiveMetrics:
    """Sums over the examples seen so far; a few vector operations per batch, one reduction per reading."""

    def __init__(self, tasks: Sequence[str], *, device: torch.device | None = None) -> None:
        self._tasks = tuple(tasks)
        self._sums = torch.zeros(4, len(self._tasks), dtype=torch.float64, device=device)
        """Rows: examples, positives, sum of predictions, sum of cross entropy."""
        self._histogram = torch.zeros(len(self._tasks) * 2 * AUC_BINS, dtype=torch.float64, device=device)
        """[T, label, bin] flattened."""
        self._offsets = torch.arange(len(self._tasks), device=device) * 2 * AUC_BINS

    @torch.no_grad()
    def update(self, logits: torch.Tensor, labels: torch.Tensor, weights: torch.Tensor) -> None:
        """logits, labels [B, T]; weights [B], 0 for padding."""
        w = weights.double()
        predicted = torch.sigmoid(logits)
        # softplus(z) - y z: the cross entropy from the logit, finite for every finite logit
        entropy = torch.nn.functional.softplus(logits) - labels * logits
        self._sums[0] += w.sum()
        self._sums[1:] += torch.stack([w @ labels.double(), w @ predicted.double(), w @ entropy.double()])
        bins = (predicted * AUC_BINS).long().clamp_(max=AUC_BINS - 1)
        index = self._offsets + labels.long() * AUC_BINS + bins
        self._histogram.index_add_(0, index.flatten(), w.unsqueeze(1).expand_as(index).flatten())

    def state_dict(self) -> dict[str, torch.Tensor]:
        """This rank's sums, not copied: what is loaded into them counts."""
        return {"sums": self._sums, "histogram": self._histogram}

    def compute(self) -> dict[str, dict[str, float]]:
        """Per task: ne (Eq. 9), calibration (predicted over observed), auc, ctr, positives, examples.

        A collective: call it on every rank, with or without a process group. A value without meaning (no
        positive or no negative example) is NaN.
        """
        state = torch.cat([self._sums.flatten(), self._histogram])
        if dist.is_initialized():
            dist.all_reduce(state)
        sums = state[: self._sums.numel()].view_as(self._sums)
        histogram = state[self._sums.numel() :].view(len(self._tasks), 2, AUC_BINS)
        return {task: _values(sums[:, t], histogram[t]) for t, task in enumerate(self._tasks)}


def _values(sums: torch.Tensor, histogram: torch.Tensor) -> dict[str, float]:
    examples, positives, predicted, entropy = sums.tolist()
    rate = positives / examples if examples else float("nan")
    return {
        "ne": normalized_entropy(entropy, positives=positives, examples=examples),
        "calibration": predicted / positives if positives else float("nan"),
        "auc": _auc(histogram),
        "ctr": rate,
        "positives": positives,
        "examples": examples,
    }


def normalized_entropy(entropy: float, *, positives: float, examples: float) -> float:
    """Eq. 9: mean cross entropy over that of predicting the average rate; `entropy` is the sum, in nats."""
    if not 0 < positives < examples:
        return float("nan")
    p = torch.tensor(positives / examples, dtype=torch.float64)
    background = -(p * torch.log(p) + (1 - p) * torch.log(1 - p))
    return entropy / examples / float(background)


def _auc(histogram: torch.Tensor) -> float:
    """[2, bins] counts of negatives and positives by predicted probability."""
    negatives, positives = histogram
    pairs = float(negatives.sum() * positives.sum())
    if not pairs:
        return float("nan")
    below = negatives.cumsum(0) - negatives
    return float((positives * (below + negatives / 2)).sum()) / pairs
