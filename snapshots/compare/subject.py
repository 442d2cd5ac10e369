"""A version's trained model, whole: as its checkpoint holds it, whatever the recipe says today."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from features.batches import Batch, Encoder
from features.hashing import HASHING
from infra.settings import Settings
from snapshots.registry import Version
from trainer.carryover.document import ModelDocument, read_model
from trainer.identities import read_maps
from trainer.model.sum_model import SumModel
from trainer.trained import TrainedDay, load_as_trained, on_disk, revisions

if TYPE_CHECKING:
    import pyarrow as pa


class NotLoadableError(ValueError):
    """The version's model cannot be had; the message says why."""


def trained_day(version: Version, settings: Settings) -> TrainedDay:
    """The training that made the version. NotLoadableError: its checkpoint was pruned."""
    trained = revisions(settings, version.model)
    fingerprint = version.tags.get("training", version.fingerprint)  # the version's own may be that of its alignment
    found = next((day for day in trained if day.fingerprint == fingerprint), None)
    if found is None:
        raise NotLoadableError(
            f"the checkpoint of {version.described()} is gone (pruned, or elsewhere than {settings.checkpoints})"
        )
    return on_disk(settings, found)


@dataclass(frozen=True, kw_only=True)
class Subject:
    """One of the two models, on CPU."""

    version: Version
    document: ModelDocument
    model: SumModel
    encoder: Encoder

    @classmethod
    def load(cls, version: Version, trained: TrainedDay) -> Subject:
        """NotLoadableError where the checkpoint does not say what it holds, or not in a way that is known."""
        document = read_model(trained.path)
        if document is None or document.hashing != HASHING:
            raise NotLoadableError(
                f"the checkpoint of {version.described()} is of another time: no model.json, or ids hashed otherwise"
            )
        config = document.config
        encoder = Encoder(config.schema, tasks=config.task_names, maps=read_maps(trained.path, config.schema))
        try:
            model = load_as_trained(trained, config)
        except (ValueError, RuntimeError) as error:
            raise NotLoadableError(f"the checkpoint of {version.described()} cannot be loaded: {error}") from error
        return cls(version=version, document=document, model=model, encoder=encoder)

    @property
    def tasks(self) -> tuple[str, ...]:
        """In the order of the logits."""
        return self.document.config.task_names

    def encode(self, chunks: Sequence[pa.Table]) -> list[Batch]:
        """The chunks as this model reads them."""
        return [self.encoder.encode(chunk) for chunk in chunks]

    @torch.no_grad()  # not inference_mode: the lookup kernel is registered for autograd alone
    def embed(self, batches: Sequence[Batch]) -> torch.Tensor:
        """[N, K, D]."""
        return torch.cat([self.model.user_tower(batch.user_sparse, batch.user_dense) for batch in batches])

    @torch.no_grad()
    def logits(self, users: torch.Tensor, batches: Sequence[Batch]) -> torch.Tensor:
        """[N, T] of the user embeddings [N, K, D] with the batches' items."""
        parts = torch.split(users, [len(batch.labels) for batch in batches])
        scored = zip(parts, batches, strict=True)
        return torch.cat([self.model.mix_tower(part, b.item_sparse, b.item_dense) for part, b in scored])
