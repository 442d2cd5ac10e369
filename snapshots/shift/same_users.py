"""The same users before and after: movement, dimensions, ranks, eigenspaces and neighbours, streamed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from snapshots.movement import Movement, cosine_of, movement, movement_of
from snapshots.shift.distribution import Distribution, cosines, norm_changes
from snapshots.shift.moments import Moments
from snapshots.shift.neighbours import NEIGHBOUR_USERS, knn_overlap
from snapshots.shift.rows import Kind, Measured, ShiftRow, rows_of

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Vectors = NDArray[np.float32]
    Mask = NDArray[np.bool_]


@dataclass(frozen=True, kw_only=True)
class Column:
    """One vector per user: which embedding, and pooled over how many versions (or NOT_POOLED)."""

    embedding: int
    pooling: str


class SameUsers:
    """N users in V columns, added part by part in the order of their hashes; V is `len(columns)`."""

    def __init__(self, columns: Sequence[Column], *, dim: int, sampled: bool = False) -> None:
        """sampled: they stand for many more, so that values have standard errors."""
        self._columns, self._sampled = columns, sampled
        self._moved = [(cosines(), norm_changes()) for _ in columns]
        self._moments = [Moments(dim) for _ in columns]
        self._across = np.zeros((len(columns), len(columns)))  # [v before, w after], sums of cosines
        self._first: list[tuple[Vectors, Vectors]] = []
        self.num_users = self.num_unusable = 0

    def add(self, before: Vectors, after: Vectors) -> None:
        """More users, [N, V, D] each. Whoever has a NaN or inf in any of them is counted, and left out."""
        usable = finite(before) & finite(after)
        if not usable.all():
            before, after = before[usable], after[usable]
        self.num_users += len(before)
        self.num_unusable += int((~usable).sum())
        if wanted := NEIGHBOUR_USERS - sum(len(part) for part, _ in self._first):
            self._first.append((before[:wanted].copy(), after[:wanted].copy()))
        x, y = (list(vectors.transpose(1, 0, 2).astype(np.float64)) for vectors in (before, after))  # V of [N, D]
        norms_x, norms_y = ([np.sqrt(np.einsum("nd,nd->n", a, a)) for a in vectors] for vectors in (x, y))
        for v, column in enumerate(self._columns):
            for w, other in enumerate(self._columns):
                if other.pooling != column.pooling:
                    continue
                dots = np.einsum("nd,nd->n", x[v], y[w])
                self._across[v, w] += cosine_of(dots, norms_x[v], norms_y[w]).sum()
                if v == w:
                    add_movement(self._moved[v], movement_of(dots=dots, norm_before=norms_x[v], norm_after=norms_y[v]))
            self._moments[v].add(x[v], y[v])

    def rows(self, *, version: int, kind: Kind) -> Iterator[ShiftRow]:
        """Every metric of every column; none without a usable user."""
        if not self.num_users:
            return
        before, after = (np.concatenate(parts) for parts in zip(*self._first, strict=True))
        for v, column in enumerate(self._columns):
            neighbours = knn_overlap(before[:, v], after[:, v])
            if not self._sampled and self.num_users <= NEIGHBOUR_USERS:
                neighbours = replace(neighbours, error=None)
            found = [
                *movement_statistics(self._moved[v], sampled=self._sampled),
                *self._moments[v].spaces().statistics(),
                ("knn_overlap", neighbours),
                *self._cross_cosine(v),
                ("unusable_share", Measured(value=self.num_unusable / (self.num_users + self.num_unusable))),
            ]
            yield from rows_of(
                found, version=version, kind=kind, embedding=column.embedding, pooling=column.pooling,
                num_users=self.num_users,
            )  # fmt: skip

    def _cross_cosine(self, v: int) -> Iterator[tuple[str, Measured]]:
        """The highest mean cosine of what was embedding v with another one of today: of a swapped pair, that of what
        did not move."""
        column = self._columns[v]
        others = [
            (float(self._across[v, w] / self.num_users), other.embedding)
            for w, other in enumerate(self._columns)
            if other.pooling == column.pooling and w != v
        ]
        if others:
            value, embedding = max(others)
            yield "cross_cosine_max", Measured(value=value, note=f"with embedding {embedding}")


def finite(vectors: Vectors) -> Mask:
    """[N] of [N, V, D]: whose vectors have no NaN and no inf."""
    return np.asarray(np.isfinite(vectors).all(axis=(1, 2)))


def add_movement(moved: tuple[Distribution, Distribution], found: Movement) -> None:
    """To the distributions of cosine and of norm change."""
    moved[0].add(found.cosine)
    moved[1].add(found.norm_change)


def movement_statistics(moved: tuple[Distribution, Distribution], *, sampled: bool) -> Iterator[tuple[str, Measured]]:
    """`cosine_mean`, `cosine_p05` …, `norm_change_mean` …"""
    yield from moved[0].statistics("cosine", sampled=sampled)
    yield from moved[1].statistics("norm_change", sampled=sampled)


def slice_rows(
    columns: Sequence[Column],
    before: Vectors,
    after: Vectors,
    slices: Mapping[str, Mask],
    *,
    version: int,
    kind: Kind,
    sampled: bool,
) -> Iterator[ShiftRow]:
    """The movement of users by slice: [N, V, D] twice, and [N] who is in it. None of an empty slice.

    sampled: they stand for many more, so that values have standard errors.
    """
    usable = finite(before) & finite(after)
    for v, column in enumerate(columns):
        found = movement(before[:, v][usable], after[:, v][usable])
        for name, members in slices.items():
            inside = members[usable]
            if not inside.any():
                continue
            moved = (cosines(), norm_changes())
            add_movement(moved, Movement(cosine=found.cosine[inside], norm_change=found.norm_change[inside]))
            yield from rows_of(
                movement_statistics(moved, sampled=sampled), version=version, kind=kind,
                embedding=column.embedding, pooling=column.pooling, users=name, num_users=int(inside.sum()),
            )  # fmt: skip
