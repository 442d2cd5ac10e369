"""One training step after another: by hand on a CPU, by TorchRec's three-stage pipeline on a GPU."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Protocol

import torch
from torchrec.distributed.train_pipeline import TrainPipelineSparseDist

from features.batches import Batch
from trainer.model.multi_task import Outputs
from trainer.sharding import ShardedModel
from trainer.spans import span

Forward = Callable[[Batch], tuple[torch.Tensor, Outputs]]


class Pipeline(Protocol):
    """Takes steps."""

    def progress(self, batches: Iterator[Batch]) -> Outputs:
        """Learn from the next batch; StopIteration after the last. What forward raises is raised here, and
        nothing is learnt from that batch."""


class Steps:
    """Forward, backward, optimizer. On a CPU there is nothing to overlap: the reader has a thread already."""

    def __init__(self, sharded: ShardedModel, forward: Forward) -> None:
        self._sharded = sharded
        self._forward = forward

    def progress(self, batches: Iterator[Batch]) -> Outputs:
        """One step."""
        batch = next(batches)
        self._sharded.dense.zero_grad(set_to_none=True)
        loss, outputs = self._forward(batch)
        with span("backward"):
            torch.autograd.backward(loss)  # the tables are updated in here
        with span("optimize"):
            self._sharded.dense.step()
        return outputs


class OverlappedSteps:
    """While a batch is computed, the next one's ids travel between ranks, and the one after to the device."""

    def __init__(self, sharded: ShardedModel, forward: Forward) -> None:
        self._pinned = sharded.device.type == "cuda"
        self._pipeline = TrainPipelineSparseDist(
            sharded.module, sharded.dense, sharded.device, execute_all_batches=True, custom_model_fwd=forward
        )
        self._source: Iterator[Batch] | None = None
        self._ready: Iterator[Batch] = iter(())

    def progress(self, batches: Iterator[Batch]) -> Outputs:
        """One step; it reads up to two batches ahead."""
        if batches is not self._source:
            self._source = batches
            self._ready = (batch.pin_memory() for batch in batches) if self._pinned else batches
        outputs: Outputs = self._pipeline.progress(self._ready)
        return outputs


def build_pipeline(sharded: ShardedModel, forward: Forward) -> Pipeline:
    """What pays on the model's device. `forward` calls `sharded.module`."""
    return OverlappedSteps(sharded, forward) if sharded.device.type == "cuda" else Steps(sharded, forward)
