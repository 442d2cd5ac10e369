"""What every model here is: logits for several tasks, trained by the weighted cross entropy (Eq. 8)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from features.batches import Batch
from trainer.model.losses import weighted_cross_entropy
from trainer.recipe import Task

Outputs = tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]
"""(detached loss, logits [B, T], labels [B, T], weights [B])."""


class MultiTaskModel(nn.Module):
    """A subclass gives `predict` and the layer that they come from."""

    def __init__(self, tasks: Sequence[Task]) -> None:
        super().__init__()
        self.register_buffer("_task_weights", torch.tensor([task.weight for task in tasks]), persistent=False)

    def predict(self, batch: Batch) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Logits [B, T], and what is added to the loss if anything is."""
        raise NotImplementedError

    def forward(self, batch: Batch) -> tuple[torch.Tensor, Outputs]:
        """(loss, outputs); `Outputs` says which."""
        logits, penalty = self.predict(batch)
        loss = weighted_cross_entropy(
            logits,
            batch.labels,
            task_weights=self.get_buffer("_task_weights"),
            weights=batch.weights,
            num_examples=batch.num_examples,
        )
        if penalty is not None:
            loss = loss + penalty
        return loss, (loss.detach(), logits.detach(), batch.labels, batch.weights)

    @torch.no_grad()
    def set_prior(self, rates: torch.Tensor, *, of: Sequence[int] | None = None) -> None:
        """Begin from the log-odds of the tasks' positive rates [T] instead of from 1/2; `of` these tasks, or all."""
        tasks = list(range(len(rates)) if of is None else of)
        self.last_layer().bias[tasks] = torch.logit(rates.clamp(1e-4, 1 - 1e-4))[tasks]

    def last_layer(self) -> nn.Linear:
        """The layer that gives the logits."""
        raise NotImplementedError
