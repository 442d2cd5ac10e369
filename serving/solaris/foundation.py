"""A trained user model as a foundation model: what its mix tower makes of a user and an item before the tasks' heads.

The user tower is computed once per user and the mix tower once per pair, in batches: the model that is too dear for a
request is affordable ahead of it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray

from features.batches import Encoder
from features.columns import Ids
from features.id_map import IdMap
from features.schema import USER_ID
from trainer.identities import read_maps
from trainer.model.sum_model import SumModel
from trainer.recipe import Recipe
from trainer.trained import TrainedDay, load_model

PAIRS_PER_FORWARD = 2_048
USERS_PER_FORWARD = 512
"""What a layer makes of so many users still lies in the caches when the next one reads it."""


@dataclass(frozen=True, kw_only=True)
class Scored:
    """What the model makes of P pairs."""

    vectors: NDArray[np.float32]
    """[P, E]."""
    logits: NDArray[np.float32]
    """[P, T], in the order of the recipe's tasks."""


class FoundationModel:
    """A `serving.solaris.interfaces.Foundation` in memory. version: of the weights, greater for newer ones."""

    def __init__(
        self, model: SumModel, recipe: Recipe, *, version: int, maps: Mapping[str, IdMap] | None = None
    ) -> None:
        self._model = model.eval()
        self._users = Encoder(recipe.schema, sides=("user",), maps=maps)
        self._items = Encoder(recipe.schema, sides=("item",), maps=maps)
        self._version = version

    @classmethod
    def of_day(cls, recipe: Recipe, trained: TrainedDay) -> FoundationModel:
        """A sealed checkpoint's, its checksums verified; the version is the day, as yyyymmdd.

        DamagedCheckpointError: as `trainer.trained.load_model`.
        """
        maps = read_maps(trained.path, recipe.schema)
        return cls(load_model(recipe, trained), recipe, version=int(trained.ds.strftime("%Y%m%d")), maps=maps)

    @property
    def width(self) -> int:
        """E, of a representation."""
        return self._model.mix_tower.output.in_features

    @property
    def version(self) -> int:
        """Of the weights."""
        return self._version

    def represent(
        self, user_rows: pa.Table | pa.RecordBatch, item_rows: pa.Table | pa.RecordBatch
    ) -> NDArray[np.float32]:
        """[P, E]: of row i of the users with row i of the items. The rows of one user are the same features: the first
        is computed, for all. A pair whose representation is not finite costs no other: its row says so. ValueError for
        rows it cannot read."""
        users: Ids = user_rows.column(USER_ID).to_numpy()
        _, first, of_user = np.unique(users, return_index=True, return_inverse=True)
        distinct = user_rows.take(pa.array(first))
        return self._score(distinct, item_rows, of_user=of_user, of_item=np.arange(item_rows.num_rows)).vectors

    def score(
        self, user_rows: pa.Table | pa.RecordBatch, item_rows: pa.Table | pa.RecordBatch, *, of_user: Ids, of_item: Ids
    ) -> Scored:
        """Of pair p: row of_user[p] of the users with row of_item[p] of the items, [P] each.

        ValueError for rows that cannot be read, and for pairs whose representation is not finite.
        """
        scored = self._score(user_rows, item_rows, of_user=of_user, of_item=of_item)
        finite = np.isfinite(scored.vectors).all(axis=1)
        if not finite.all():
            raise ValueError(
                f"pair {int(np.argmin(finite))} of {len(of_user)} has a representation with NaN or inf; look at the "
                "training loss and at the features of that user and item"
            )
        return scored

    def _score(
        self, user_rows: pa.Table | pa.RecordBatch, item_rows: pa.Table | pa.RecordBatch, *, of_user: Ids, of_item: Ids
    ) -> Scored:
        vectors = np.empty((len(of_user), self.width), np.float32)
        logits = np.empty((len(of_user), self._model.mix_tower.output.out_features), np.float32)
        with torch.no_grad():  # not inference_mode: the lookup kernel is registered for autograd alone
            users = self._embedded(user_rows) if len(of_user) else torch.empty(0)
            for begin in range(0, len(of_user), PAIRS_PER_FORWARD):
                part = slice(begin, begin + PAIRS_PER_FORWARD)
                items = self._items.encode(item_rows.take(pa.array(of_item[part])))
                mine = users[torch.from_numpy(of_user[part])]
                hidden = self._model.mix_tower.represent(mine, items.item_sparse, items.item_dense)
                vectors[part] = hidden.numpy()
                logits[part] = self._model.mix_tower.output(hidden).numpy()
        return Scored(vectors=vectors, logits=logits)

    def _embedded(self, rows: pa.Table | pa.RecordBatch) -> torch.Tensor:
        """[U, K, D]."""
        parts = (rows.slice(begin, USERS_PER_FORWARD) for begin in range(0, rows.num_rows, USERS_PER_FORWARD))
        batches = (self._users.encode(part) for part in parts)
        tower = self._model.user_tower
        return torch.cat([tower(batch.user_sparse, batch.user_dense) for batch in batches])
