"""Which id owns which row of a managed table: decided once a day, before the pass, from the day's ids and the map of
the day before. The same on every rank and in batch inference, whatever the order of the examples.

Training is one day at a time and the day lies on disk before its pass begins, so admission and eviction need not run
inside the model: a lookup is a lookup, and no state hangs on the order of batches. Labels are never looked at.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from datetime import date
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from features.columns import Ids
from features.hashing import mixed
from features.id_counts import IdCounts
from features.schema import Managed, Table

NONE = -1
_DAY = b"usermodel.day"
_FORMAT = b"usermodel.id_map"


@dataclass(frozen=True, kw_only=True)
class IdMap:
    """The ids that a table knows at the end of `day`; arrays of [n], ids ascending."""

    day: int
    """Proleptic ordinal, as in `date.toordinal`."""
    ids: Ids
    rows: Ids
    """Each id's own row, or NONE: it is known, and waits for one."""
    seen: Ids
    """The last day it occurred, ordinal."""
    since: Ids
    """The day it got its row, ordinal; without one, 0."""
    weights: npt.NDArray[np.float64]
    """Occurrences, halved every half-life, as of `day`."""

    @classmethod
    def empty(cls) -> IdMap:
        """Before the first day."""
        nothing = np.empty(0, dtype=np.int64)
        return cls(day=0, ids=nothing, rows=nothing, seen=nothing, since=nothing, weights=np.empty(0))

    @property
    def owning(self) -> IdMap:
        """The ids that own a row alone: all that a lookup needs."""
        return self._only(self.rows != NONE)

    @property
    def newcomers(self) -> Ids:
        """The rows whose owner is new on `day`."""
        rows: Ids = self.rows[(self.since == self.day) & (self.rows != NONE)]
        return rows

    def _only(self, kept: npt.NDArray[np.bool_]) -> IdMap:
        arrays = {name: getattr(self, name)[kept] for name in _ARRAYS}
        return IdMap(day=self.day, **arrays)

    def write(self, path: Path) -> None:
        """As Parquet."""
        table = pa.table({name: getattr(self, name) for name in _ARRAYS})
        pq.write_table(
            table.replace_schema_metadata({_FORMAT: b"1", _DAY: str(self.day).encode()}), path, compression="zstd"
        )

    @classmethod
    def read(cls, path: Path) -> IdMap:
        """What `write` wrote; verify its checksum first. ValueError for another file."""
        try:
            table = pq.read_table(path, use_threads=False)
            metadata = table.schema.metadata or {}
            if metadata.get(_FORMAT) != b"1":
                raise ValueError(f"format {metadata.get(_FORMAT)!r}, not 1")
            arrays = {name: table.column(name).to_numpy() for name in _ARRAYS}
            return cls(day=int(metadata[_DAY]), **arrays)
        except (pa.ArrowException, ValueError, KeyError) as error:
            raise ValueError(f"{path} is no id map ({error})") from error


_ARRAYS = tuple(field.name for field in fields(IdMap) if field.name != "day")


@dataclass(frozen=True, kw_only=True)
class Decided:
    """The map of a day, and what changed with it."""

    map: IdMap
    admitted: int
    evicted: int
    """Ids that owned a row the day before."""


def next_day(before: IdMap, counts: IdCounts, ds: date, table: Table) -> Decided:
    """The map of `ds`. Deterministic: the same map and counts give the same map.

    An id keeps its row while it lives. An id of the day asks for one when its weight of the days before, and one for
    being met, reach `admit_after`. When there are more of both than rows, those seen last stay or come; among them the
    heaviest, then the owners, then by hash. What has no row is remembered while it lives, as many ids as the table has
    rows.

    How often an id occurs today counts from tomorrow on: it would tell, before the first example is scored, who stays
    long or comes back, and a row of one's own would carry that to the model.
    """
    policy = table.ids
    assert isinstance(policy, Managed), f"table {table.name} is hashed"
    day, capacity = ds.toordinal(), table.num_rows - policy.overflow_rows
    known, standing = _with_counts(before, counts, day, policy)
    lives = day - known.seen <= policy.evict_after_days
    known, standing = known._only(lives), standing[lives]
    owns = known.rows != NONE
    asks = ~owns & (known.seen == day) & (standing >= policy.admit_after)
    order = np.lexsort((mixed(known.ids), ~owns, -standing, -known.seen))  # first who stays or comes first
    stays = np.zeros(known.ids.size, dtype=np.bool_)
    stays[order[(owns | asks)[order]][:capacity]] = True

    rows, since = np.where(stays & owns, known.rows, NONE), np.where(stays & owns, known.since, 0)
    admitted = order[(stays & ~owns)[order]]
    rows[admitted] = _free_rows(rows, capacity)[: admitted.size]
    since[admitted] = day
    waits = np.zeros_like(stays)
    waits[order[~stays[order]][:capacity]] = True
    decided = IdMap(day=day, ids=known.ids, rows=rows, seen=known.seen, since=since, weights=known.weights)
    kept = int((stays & owns).sum())
    return Decided(
        map=decided._only(stays | waits),
        admitted=int(admitted.size),
        evicted=int((before.rows != NONE).sum()) - kept,
    )


def _with_counts(before: IdMap, counts: IdCounts, day: int, policy: Managed) -> tuple[IdMap, npt.NDArray[np.float64]]:
    """Every id that was known or occurs, and what each stands for today, [n]."""
    ids = np.union1d(before.ids, counts.ids)
    old, new = np.searchsorted(ids, before.ids), np.searchsorted(ids, counts.ids)
    rows, since, seen = np.full(ids.size, NONE), np.zeros(ids.size, dtype=np.int64), np.full(ids.size, day)
    rows[old], since[old], seen[old] = before.rows, before.since, before.seen
    weights = np.zeros(ids.size)
    weights[old] = before.weights * 0.5 ** ((day - before.day) / policy.half_life_days)
    standing = weights.copy()
    standing[new] += 1
    weights[new] += counts.counts
    seen[new] = day
    return IdMap(day=day, ids=ids, rows=rows, seen=seen, since=since, weights=weights), standing


def _free_rows(rows: Ids, capacity: int) -> Ids:
    """In an order that spreads them over the table, and so over the ranks of a row-wise one."""
    taken = np.zeros(capacity, dtype=np.bool_)
    taken[rows[rows != NONE]] = True
    free = np.flatnonzero(~taken)
    return free[np.argsort(mixed(free))]
