"""What a step must move and compute: bytes of its embedding rows, floating-point operations of its dense part."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch.utils.flop_counter import FlopCounterMode

from features.batches import Batch
from trainer.config import Sum, TrainingConfig

_FLOAT = 4


@dataclass(frozen=True, kw_only=True)
class EmbeddingBytes:
    """Of one step's tables: weights, float32."""

    lookups: int
    """Ids in the batch."""
    unique: int
    """Different rows among them, table by table."""
    dim: int

    @property
    def requested(self) -> int:
        """As if no row were shared: forward reads a row per id; backward reads and writes it."""
        return self.lookups * self.dim * _FLOAT * 3

    @property
    def least(self) -> int:
        """As if every different row came from memory once for forward, and once there and back for backward."""
        return self.unique * self.dim * _FLOAT * 3


def embedding_bytes(config: TrainingConfig, batch: Batch) -> EmbeddingBytes:
    """Of one batch. The pooled vectors, their gradients, the ids and the optimizer's state are left out."""
    rows: dict[tuple[str, str], list[torch.Tensor]] = defaultdict(list)
    for side, ids in (("user", batch.user_sparse), ("item", batch.item_sparse)):
        tables = {feature.name: feature.table for feature in config.schema.sparse}
        for key, jagged in ids.to_dict().items():
            rows[side, tables[key]].append(jagged.values())
    merged = [torch.cat(parts) for parts in rows.values()]
    dim = config.model.user_tower.dim if isinstance(config.model, Sum) else config.model.dim
    return EmbeddingBytes(
        lookups=sum(ids.numel() for ids in merged),
        unique=sum(len(torch.unique(ids)) for ids in merged),
        dim=dim,
    )


def flops(step: Callable[[], object]) -> int:
    """Of the matrix products that `step` runs, backward included where it runs one: a multiplication and an
    addition are two. The tables' kernels count as none."""
    counter = FlopCounterMode(display=False)
    with counter:
        step()
    return int(counter.get_total_flops())
