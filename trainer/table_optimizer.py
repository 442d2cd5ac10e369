"""The tables' optimizer, inside backward."""

from __future__ import annotations

from torch import nn
from torch.distributed.optim.apply_optimizer_in_backward import (
    _apply_optimizer_in_backward as apply_optimizer_in_backward,
)
from torchrec.modules.embedding_modules import EmbeddingBagCollection
from torchrec.optim import Adagrad, RowWiseAdagrad

from trainer.recipe import Optimizer

_CLASSES = {"rowwise_adagrad": RowWiseAdagrad, "adagrad": Adagrad}


def optimize_in_backward(model: nn.Module, optimizer: Optimizer) -> None:
    """Attach it to every table, before the model is planned and sharded."""
    for module in model.modules():
        if isinstance(module, EmbeddingBagCollection):
            # A dict of its own for each: DistributedModelParallel changes the keyword arguments it is given.
            apply_optimizer_in_backward(
                _CLASSES[optimizer.sparse], module.parameters(), {"lr": optimizer.sparse_lr, "eps": optimizer.epsilon}
            )
