"""Which features' tables differ, and what that does: each taken from B into A alone, on the same users."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from features.batches import Batch
from snapshots.compare.subject import Subject
from snapshots.movement import movement
from trainer.metrics import normalized_entropy

if TYPE_CHECKING:
    from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

    from trainer.model.user_tower import UserTower

DENSE = "dense features"
TOWER = "all but the tables"
TABLES = "all tables"


@dataclass(frozen=True, kw_only=True)
class Swapped:
    """One feature (or DENSE, TABLES, TOWER) of B in A's place; the rest is A's."""

    feature: str
    table: str
    row_change: float | None
    """Mean over the lookups: |row of B - row of A| / |row of A|."""
    cosine: float | None
    """Mean over users and embeddings, of A's output and A's with the feature swapped: 1 is no effect."""
    ne_change: dict[str, float | None]
    """By task: NE of A with the feature swapped, less that of A."""
    note: str = ""


def swap_features(a: Subject, b: Subject, of_a: Sequence[Batch], of_b: Sequence[Batch]) -> tuple[Swapped, ...]:
    """Sorted by effect. of_a, of_b: the same rows as each encodes them. Empty where the towers' shapes differ."""
    tower_a, tower_b = a.model.user_tower, b.model.user_tower
    if (tower_a.num_embeddings, tower_a.dim) != (tower_b.num_embeddings, tower_b.dim):
        return ()
    return tuple(sorted(_swaps(a, b, of_a, of_b), key=lambda s: 2.0 if s.cosine is None else s.cosine))


@torch.no_grad()
def _swaps(a: Subject, b: Subject, of_a: Sequence[Batch], of_b: Sequence[Batch]) -> Iterator[Swapped]:
    tower_a, tower_b = a.model.user_tower, b.model.user_tower
    names = [feature.name for feature in a.document.config.schema.sparse_of("user")]
    raw_a, raw_b = _pooled(tower_a, of_a), _pooled(tower_b, of_b)
    dense_a, dense_b = _dense(tower_a, of_a), _dense(tower_b, of_b)
    measure = _Effect(a, of_a, before=_out(tower_a, raw_a, dense_a, names))
    for name in names:
        table = next(f.table for f in a.document.config.schema.sparse_of("user") if f.name == name)
        if name not in raw_b:
            yield _absent(name, table, f"version {b.version.number} has no such feature")
            continue
        after = _out(tower_a, raw_a | {name: raw_b[name]}, dense_a, names)
        yield measure.of(after, name=name, table=table, row_change=_row_change(a, b, of_a, of_b, name))
    common = {name: raw_b[name] for name in names if name in raw_b}
    yield measure.of(_out(tower_a, raw_a | common, dense_a, names), name=TABLES)
    if dense_a.shape == dense_b.shape and dense_a.shape[1]:
        yield measure.of(_out(tower_a, raw_a, dense_b, names), name=DENSE)
    if list(raw_b) == names and dense_a.shape == dense_b.shape:
        yield measure.of(_out(tower_b, raw_a, dense_b, names), name=TOWER)
    for name in raw_b:
        if name not in names:
            yield _absent(name, "", f"version {a.version.number} has no such feature")


class _Effect:
    """What A's output becomes, against what it was."""

    def __init__(self, a: Subject, batches: Sequence[Batch], *, before: torch.Tensor) -> None:
        self._a, self._batches, self._before = a, batches, before
        self._labels = torch.cat([batch.labels for batch in batches])
        self._ne = self._nes(before)

    def of(self, after: torch.Tensor, *, name: str, table: str = "", row_change: float | None = None) -> Swapped:
        dim = after.shape[-1]
        moved = movement(self._before.reshape(-1, dim).numpy(), after.reshape(-1, dim).numpy())
        nes = self._nes(after)
        return Swapped(
            feature=name,
            table=table,
            row_change=row_change,
            cosine=float(moved.cosine.mean()),
            ne_change={
                task: None if (was := self._ne[task]) is None or (is_ := nes[task]) is None else is_ - was
                for task in nes
            },
        )

    def _nes(self, users: torch.Tensor) -> dict[str, float | None]:
        logits = self._a.logits(users, self._batches).double()
        labels = self._labels.double()
        entropy = (torch.nn.functional.softplus(logits) - labels * logits).sum(dim=0)
        nes = [
            normalized_entropy(float(e), positives=float(p), examples=len(labels))
            for e, p in zip(entropy, labels.sum(dim=0), strict=True)
        ]
        return {task: ne if np.isfinite(ne) else None for task, ne in zip(self._a.tasks, nes, strict=True)}


def _absent(name: str, table: str, note: str) -> Swapped:
    return Swapped(feature=name, table=table, row_change=None, cosine=None, ne_change={}, note=note)


def _pooled(tower: UserTower, batches: Sequence[Batch]) -> dict[str, torch.Tensor]:
    """By feature, in schema order: the mean of the rows that a user looks up, [N, D], before LayerNorm."""
    if tower.sparse.tables is None:
        return {}
    parts = [tower.sparse.tables(batch.user_sparse) for batch in batches]
    return {name: torch.cat([part[name] for part in parts]) for name in batches[0].user_sparse.keys()}  # noqa: SIM118


def _dense(tower: UserTower, batches: Sequence[Batch]) -> torch.Tensor:
    """[N, N_dense, D]."""
    return torch.cat([tower.dense(batch.user_dense) for batch in batches])


def _out(tower: UserTower, pooled: dict[str, torch.Tensor], dense: torch.Tensor, names: Sequence[str]) -> torch.Tensor:
    """[N, K, D], of chunks as long as explain's."""
    if not names:
        return tower.compress(dense.new_zeros(len(dense), 0, tower.dim), dense)
    sparse = tower.sparse.norm(torch.stack([pooled[name] for name in names], dim=1))
    return tower.compress(sparse, dense)


def _row_change(a: Subject, b: Subject, of_a: Sequence[Batch], of_b: Sequence[Batch], name: str) -> float | None:
    """None: nobody looks anything up."""
    table_a, table_b = (_weights(subject, name) for subject in (a, b))
    rows_a, rows_b = (torch.cat([_ids(batch.user_sparse, name) for batch in of]) for of in (of_a, of_b))
    if not len(rows_a):
        return None
    before, after = table_a[rows_a], table_b[rows_b]
    return float(((after - before).norm(dim=1) / before.norm(dim=1).clamp(min=1e-12)).mean())


def _ids(sparse: KeyedJaggedTensor, name: str) -> torch.Tensor:
    values: torch.Tensor = sparse[name].values()
    return values


def _weights(subject: Subject, feature: str) -> torch.Tensor:
    table = next(f.table for f in subject.document.config.schema.sparse_of("user") if f.name == feature)
    tables = subject.model.user_tower.sparse.tables
    assert tables is not None
    weight: torch.Tensor = tables.embedding_bags[f"user_{table}"].weight.detach()
    return weight
