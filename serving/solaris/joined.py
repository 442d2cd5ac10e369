"""Examples joined by impression: what each request was served beside what is known of its user."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import pyarrow as pa
import torch

from features.columns import Ids
from features.schema import EVENT_TIME, Schema
from serving.solaris.impressions import Impressions
from trainer.downstream.joined import JoiningEncoder, Lookup


class ImpressionEncoder(JoiningEncoder):
    """An encoder whose keys are places among a day's impressions. item: the feature that tells items apart."""

    def __init__(
        self,
        schema: Schema,
        impressions: Impressions,
        *,
        item: str,
        task: str,
        features: frozenset[str],
        embeddings: Mapping[str, Lookup],
    ) -> None:
        super().__init__(schema, task=task, features=features, embeddings=embeddings)
        self._impressions, self._item = impressions, item

    @property
    def columns(self) -> list[str]:
        """The columns that `encode` needs."""
        known = super().columns
        return [EVENT_TIME, *known, *([] if self._item in known else [self._item])]

    def keys(self, rows: pa.RecordBatch | pa.Table) -> Ids:
        """[rows]: places among the impressions."""
        return self._impressions.places(Impressions.of_rows(rows, item=self._item))


@dataclass(frozen=True, kw_only=True)
class OfUsers:
    """A lookup by user, asked by impression."""

    users: Ids
    """[N] of the impressions."""
    lookup_users: Lookup

    def lookup(self, keys: Ids) -> tuple[torch.Tensor, torch.Tensor]:
        """As `lookup_users`, of these impressions' users."""
        return self.lookup_users.lookup(self.users[keys])


@dataclass(frozen=True, kw_only=True)
class Taught:
    """Logits [N] of a teacher on the impressions, as a lookup: [N, 1, 1], without flags."""

    logits: torch.Tensor

    def lookup(self, keys: Ids) -> tuple[torch.Tensor, torch.Tensor]:
        """Of these impressions."""
        found = self.logits[torch.from_numpy(keys)]
        return found.view(-1, 1, 1), found.new_zeros(len(found), 0)
