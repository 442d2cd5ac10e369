"""The alignment of one day's snapshot: fitted when it is sealed, sealed with it, told to MLflow."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa
from pydantic import TypeAdapter

from features.fingerprint import fingerprint
from features.id_map import IdMap
from features.lake import Lake
from snapshots.registry import Registry

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from trainer.model.user_tower import UserTower
    from trainer.recipe import Recipe

    Align = Callable[[UserTower], tuple["DayAlignment", NDArray[np.float32] | None]]
    """What is fitted for a new tower: the document, and M [K D, K D] where there is one."""

log = logging.getLogger(__name__)

DOCUMENT = "alignment.json"


@dataclass(frozen=True, kw_only=True)
class DayAlignment:
    """What the map of a snapshot was fitted to, and how well: `snapshots.alignment.Fitted` explains the numbers."""

    kind: str
    to_version: int | None = None
    """The promoted version whose space the snapshot is in; None: a space of its own."""
    to_ds: date | None = None
    why_not: str = ""
    """Why there is no map."""
    num_users: int = 0
    residual_before: tuple[float, ...] = ()
    residual: tuple[float, ...] = ()
    norm_ratio: tuple[float, ...] = ()
    rank: int = 0

    @property
    def sentence(self) -> str:
        """For people."""
        if self.to_version is None:
            return f"{self.kind}: a space of its own, {self.why_not}"
        before, after = max(self.residual_before), max(self.residual)
        return (
            f"{self.kind}: in the space of version {self.to_version} of {self.to_ds}, residual {before:.3f} -> "
            f"{after:.3f} of the norm, rank {self.rank}, {self.num_users} users"
        )

    @property
    def tags(self) -> dict[str, str]:
        """On the version."""
        return {
            "alignment": self.sentence,
            "alignment.to": "" if self.to_version is None else str(self.to_version),
        }

    @property
    def metrics(self) -> dict[str, float | None]:
        """In MLflow, per embedding."""
        series = {"residual_before": self.residual_before, "residual": self.residual, "norm_ratio": self.norm_ratio}
        found: dict[str, float | None] = {
            f"alignment/{name} {k}": value for name, values in series.items() for k, value in enumerate(values)
        }
        return found if self.to_version is None else found | {"alignment/rank": self.rank}

    def write(self, folder: Path) -> None:
        """As JSON."""
        (folder / DOCUMENT).write_bytes(_DOCUMENTS.dump_json(self, indent=1) + b"\n")


_DOCUMENTS = TypeAdapter(DayAlignment)


def read_alignment(folder: Path) -> DayAlignment | None:
    """Of a sealed snapshot; None where its recipe had none."""
    path = folder / DOCUMENT
    return _DOCUMENTS.validate_json(path.read_bytes()) if path.is_file() else None


def snapshot_fingerprint(recipe: Recipe, training: str) -> str:
    """Of the snapshot that `training` gives: with an alignment, another one. What it is aligned to is no input: a day
    is aligned once, when it is sealed."""
    return training if recipe.alignment is None else fingerprint(training, recipe.alignment)


def align_day(recipe: Recipe, ds: date, maps: Mapping[str, IdMap], *, registry: Registry) -> Align:
    """How to fit the recipe's alignment of `ds` to the newest promoted version before it.

    Without one, or with one that cannot embed the day's users, the snapshot keeps its own space, which the log and the
    document say: consumers then see a jump, as without alignment.
    """
    alignment = recipe.alignment
    assert alignment is not None

    def align(tower: UserTower) -> tuple[DayAlignment, NDArray[np.float32] | None]:
        from snapshots.alignment import fit
        from snapshots.both import NotComparableError, embed_by_both

        before = next(iter(registry.promoted(recipe.name, before=ds)), None)
        if before is None:
            return _none(recipe, ds, alignment.kind, "no earlier version is promoted")
        lake = Lake(registry.settings.lake)
        users = lake.get(f"user_features/{recipe.source.name}", ds)
        try:
            old, new = embed_by_both(lake, users, before=before, after=_Unsealed(recipe, tower, maps))
            fitted = fit(alignment, new, old)
        except NotComparableError as error:
            return _none(recipe, ds, alignment.kind, str(error))
        document = DayAlignment(
            kind=fitted.kind,
            to_version=before.number,
            to_ds=before.ds,
            num_users=fitted.num_users,
            residual_before=fitted.residual_before,
            residual=fitted.residual,
            norm_ratio=fitted.norm_ratio,
            rank=fitted.rank,
        )
        log.info("aligned model=%s ds=%s %s", recipe.name, ds, document.sentence)
        return document, fitted.matrix

    return align


def _none(recipe: Recipe, ds: date, kind: str, why: str) -> tuple[DayAlignment, None]:
    document = DayAlignment(kind=kind, why_not=why)
    log.warning("not aligned model=%s ds=%s %s", recipe.name, ds, document.sentence)
    return document, None


class _Unsealed:
    """A tower that is about to be sealed, as `Embedder` is one that was."""

    def __init__(self, recipe: Recipe, tower: UserTower, maps: Mapping[str, IdMap]) -> None:
        from features.batches import Encoder

        self._tower = tower
        self._encoder = Encoder(recipe.schema, sides=("user",), maps=maps)

    @property
    def columns(self) -> list[str]:
        """The feature columns that it reads."""
        return self._encoder.columns

    def embed(self, rows: pa.RecordBatch) -> NDArray[np.float32]:
        """[B, K, D], as they will be stored."""
        import torch

        from snapshots.embeddings import fp16_exact

        with torch.inference_mode():
            batch = self._encoder.encode(rows)
            return fp16_exact(self._tower(batch.user_sparse, batch.user_dense).numpy())
