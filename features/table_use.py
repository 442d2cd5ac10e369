"""How a day uses an embedding table: rows in use, ids that share one, what came and went, how stale the owners are."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from features.id_counts import IdCounts
from features.id_map import NONE, Decided
from features.rows import rows_of
from features.schema import Managed, Table

_QUANTILES = (50, 90, 99)


@dataclass(frozen=True, kw_only=True)
class Managing:
    """What only a managed table has."""

    admitted: int
    evicted: int
    waiting: int
    """Ids that are remembered without a row of their own."""
    overflow_share: float
    """Of the day's lookups: those of ids without a row of their own."""
    newcomer_share: float
    """Of the day's lookups: those of rows whose owner is new today."""
    staleness_days: dict[str, float]
    """Days since the owners were last seen: quantiles p50, p90, p99."""


@dataclass(frozen=True, kw_only=True)
class TableUse:
    """One table, one day. Shares are in [0, 1]."""

    table: str
    num_rows: int
    num_lookups: int
    num_ids: int
    """Distinct ids of the day."""
    occupancy: float
    """Share of the rows that are in use: that have an owner; of a hashed table, that the day looks up."""
    collision_share: float
    """Of the day's distinct ids: those that share their row with another of them."""
    collision_lookups: float
    """Of the day's lookups: those of such ids."""
    managing: Managing | None = None

    @property
    def metrics(self) -> dict[str, float]:
        """By their names in MLflow."""
        found: dict[str, float] = {
            "ids": self.num_ids,
            "occupancy": self.occupancy,
            "collision_share": self.collision_share,
            "collision_lookups": self.collision_lookups,
        }
        if (managing := self.managing) is not None:
            for name in ("admitted", "evicted", "waiting", "overflow_share", "newcomer_share"):
                found[name] = getattr(managing, name)
            found |= {f"staleness_days_{name}": days for name, days in managing.staleness_days.items()}
        return {f"tables/{self.table}/{name}": value for name, value in found.items()}

    @property
    def sentence(self) -> str:
        """One line for the log and the summary."""
        line = (
            f"{self.table}: {self.num_ids:,} ids in {self.num_rows:,} rows, occupied {self.occupancy:.0%}, "
            f"colliding {self.collision_share:.0%}"
        )
        if (managing := self.managing) is None:
            return line
        return (
            f"{line}, overflow {managing.overflow_share:.1%} of lookups, +{managing.admitted:,} "
            f"-{managing.evicted:,}, unseen for {managing.staleness_days['p50']:.0f} days (median)"
        )


def compact(uses: Sequence[TableUse]) -> Iterator[str]:
    """A line per managed table, and one for the hashed table whose ids collide most."""
    yield from (f"managed {use.sentence}" for use in uses if use.managing is not None)
    hashed = [use for use in uses if use.managing is None]
    if hashed:
        worst = max(hashed, key=lambda use: use.collision_share)
        yield f"{len(hashed)} hashed, colliding most {worst.sentence}"


def table_use(table: Table, counts: IdCounts, decided: Decided | None = None) -> TableUse:
    """The day's use. decided: the day's map, of a managed table."""
    assert isinstance(table.ids, Managed) == (decided is not None), f"table {table.name}: a map for what is managed"
    rows = counts.ids.copy()
    rows_of(table, {table.name: decided.map} if decided is not None else {})(rows)
    _, row_of, sharing = np.unique(rows, return_inverse=True, return_counts=True)
    collides = sharing[row_of] > 1
    managing, in_use = None, sharing.size
    if decided is not None:
        managing, in_use = _managing(decided, counts), int((decided.map.rows != NONE).sum())
    return TableUse(
        table=table.name,
        num_rows=table.num_rows,
        num_lookups=counts.num_lookups,
        num_ids=int(counts.ids.size),
        occupancy=in_use / table.num_rows,
        collision_share=float(collides.mean()) if collides.size else 0.0,
        collision_lookups=_share(counts, collides),
        managing=managing,
    )


def _managing(decided: Decided, counts: IdCounts) -> Managing:
    owners = decided.map.owning
    newcomers = owners.ids[owners.since == owners.day]
    ages = owners.day - owners.seen
    quantiles = np.percentile(ages, _QUANTILES) if ages.size else np.zeros(len(_QUANTILES))
    return Managing(
        admitted=decided.admitted,
        evicted=decided.evicted,
        waiting=int(decided.map.ids.size - owners.ids.size),
        overflow_share=1 - _share(counts, np.isin(counts.ids, owners.ids)) if counts.ids.size else 0.0,
        newcomer_share=_share(counts, np.isin(counts.ids, newcomers)),
        staleness_days={f"p{q}": days for q, days in zip(_QUANTILES, quantiles.tolist(), strict=True)},
    )


def _share(counts: IdCounts, of: np.ndarray[tuple[int], np.dtype[np.bool_]]) -> float:
    """Of the lookups."""
    return float(counts.counts[of].sum() / counts.num_lookups) if counts.num_lookups else 0.0
