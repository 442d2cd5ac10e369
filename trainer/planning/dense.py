"""What every rank holds besides its tables, measured on the meta device."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn
from torch.autograd.graph import saved_tensors_hooks
from torch.utils.flop_counter import FlopCounterMode
from torchrec.modules.embedding_modules import EmbeddingBagCollection

from trainer.planning.quiet import quiet

_COPIES = 5
"""Weights, gradients, the all-reduce's buckets, and Adam's two moments."""
_BATCHES = 2
"""The pipeline copies the next batch while it computes the current one."""


@dataclass(frozen=True, kw_only=True)
class DensePart:
    """The replicated part of a model, per rank and step."""

    parameter_bytes: int
    activation_bytes: int = 0
    """What forward saves for backward."""
    input_bytes: int = 0
    """One batch of examples, as the reader makes it."""
    forward_flops: int = 0

    @property
    def state_bytes(self) -> int:
        """Weights, gradients, buckets and Adam's state."""
        return _COPIES * self.parameter_bytes

    @property
    def pipeline_bytes(self) -> int:
        """The batches in flight."""
        return _BATCHES * self.input_bytes


def parameter_bytes(model: nn.Module) -> int:
    """Of the parameters outside of tables."""
    sharded = {
        id(parameter)
        for module in model.modules()
        if isinstance(module, EmbeddingBagCollection)
        for parameter in module.parameters()
    }
    return sum(p.numel() * p.element_size() for p in model.parameters() if id(p) not in sharded)


def measure(model: nn.Module, forward: Callable[[], object], *, input_bytes: int) -> DensePart:
    """Run `forward` of a model on meta once: what it saves for backward, and its multiplications and additions.

    The pooled embeddings are counted with what the dense part saves: they are its input.
    """
    parameters = {parameter.untyped_storage()._cdata for parameter in model.parameters()}
    saved: dict[int, torch.UntypedStorage] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in parameters:
            saved[storage._cdata] = storage
        return tensor

    counter = FlopCounterMode(display=False)
    with quiet(), torch.device("meta"), counter, saved_tensors_hooks(pack, lambda tensor: tensor):
        outputs = forward()
    activation_bytes = sum(storage.nbytes() for storage in saved.values())
    del outputs
    return DensePart(
        parameter_bytes=parameter_bytes(model),
        activation_bytes=activation_bytes,
        input_bytes=input_bytes,
        forward_flops=counter.get_total_flops(),
    )
