"""`SyntheticWorld`: a seeded world whose truth is known; `features.sources.synthetic_world` generates it."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from features.fingerprint import ADDED_LATER
from features.schema import DenseFeature, Schema, SparseFeature, Table

if TYPE_CHECKING:
    from features.source import LogReader

ITEM_DENSE = 3


@dataclass(frozen=True, kw_only=True)
class SyntheticWorld:
    """A world of users whose tastes drift, and of items they click or not; every day follows from (seed, ds).

    The defaults are the demo's size. `permuted_labels` is a control: the labels of the day are shuffled, so
    that nothing can be learned beyond their mean.
    """

    name: str = "synthetic"
    seed: int = 0
    num_users: int = 6_000
    """Users alive on any day; some of them are active."""
    num_items: int = 2_000
    """Items on offer on any day."""
    events_per_day: int = 60_000
    num_sparse: int = 12
    """User-side id lists, in pairs that share a vocabulary and an embedding table."""
    num_dense: int = 8
    """User-side dense values."""
    ids_per_list: int = 6
    """Longest list."""
    vocabulary: int = 1_000
    """Ids alive on any day, per pair of id lists."""
    rows_per_table: int = 8_000
    """Hash size of the tables of users and of items, and mean hash size of the tables of ids."""
    table_skew: float = 0.0
    """The n-th table of ids has rows in proportion to n^-skew: 0 is equal tables, 1 a few giants and a long tail."""
    user_lifetime_days: int = 60
    item_lifetime_days: int = 12
    id_lifetime_days: int = 40
    drift_days: int = 40
    """Days in which the drifting half of a taste is replaced."""
    permuted_labels: bool = False
    intent: float = field(default=0.0, metadata=ADDED_LATER)
    """Share of a taste's variance that is the intent of the moment: another one every few hours, seen by id lists of
    its own, `recent_…`, one per pair of id lists. 0: no intent and no such lists; all else is the same to the bit."""
    repeated_share: float = field(default=0.0, metadata=ADDED_LATER)
    """Share of the events that show one of the few items that are shown to the user again and again for some days."""

    def __post_init__(self) -> None:
        free = ("name", "seed", "permuted_labels", "table_skew", "intent", "repeated_share")
        for name in (size.name for size in fields(self) if size.name not in free):
            if getattr(self, name) < 1:
                raise ValueError(f"source {self.name}: {name} is {getattr(self, name)}; it is at least 1")
        if self.seed < 0:
            raise ValueError(f"source {self.name}: seed is {self.seed}; seeds are not negative")
        if not 0 <= self.repeated_share <= 1:
            raise ValueError(f"source {self.name}: repeated_share is {self.repeated_share}; it is in [0, 1]")
        if self.table_skew < 0:
            raise ValueError(f"source {self.name}: table_skew is {self.table_skew}; it is not negative")
        if not 0 <= self.intent < 1:
            raise ValueError(f"source {self.name}: intent is {self.intent}; it is a share, 0 or more and less than 1")

    @property
    def day_starts_at(self) -> timedelta:
        """Days begin at midnight UTC."""
        return timedelta(0)

    @property
    def num_recent(self) -> int:
        """Id lists that see the intent."""
        return (self.num_sparse + 1) // 2 if self.intent else 0

    @property
    def schema(self) -> Schema:
        """Id lists `ids_…` and, with an intent, `recent_…`, values `dense_…` (the first is the user's activity), the
        user, device and hour; the item's id, category and domain (0 is "a", 1 is "b") and three values; clicks and
        conversions."""
        pairs = [f"ids_{first:03d}" for first in range(0, self.num_sparse, 2)]
        shares = [rank**-self.table_skew for rank in range(1, len(pairs) + 1)]
        rows = [max(round(self.rows_per_table * len(pairs) * share / sum(shares)), 1) for share in shares]
        tables = [Table(name=name, num_rows=self.rows_per_table) for name in ("user", "item")]
        tables += [Table(name=name, num_rows=num_rows) for name, num_rows in zip(pairs, rows, strict=True)]
        return Schema(
            tables=(*tables, Table(name="context", num_rows=1_000), Table(name="item_kind", num_rows=1_000)),
            sparse=(
                SparseFeature(name="user", table="user"),
                SparseFeature(name="device", table="context"),
                SparseFeature(name="hour", table="context"),
                *(SparseFeature(name=f"ids_{i:03d}", table=pairs[i // 2]) for i in range(self.num_sparse)),
                *(SparseFeature(name=f"recent_{i:03d}", table=pairs[i]) for i in range(self.num_recent)),
                SparseFeature(name="item", table="item", side="item"),
                SparseFeature(name="item_category", table="item_kind", side="item"),
                SparseFeature(name="item_domain", table="item_kind", side="item"),
            ),
            dense=(
                DenseFeature(name="dense_000", transform="log1p"),
                *(DenseFeature(name=f"dense_{i:03d}") for i in range(1, self.num_dense)),
                *(DenseFeature(name=f"item_dense_{i}", side="item") for i in range(ITEM_DENSE)),
            ),
            tasks=("click", "conversion"),
        )

    def open(self, *, landing: Path, data_dir: Path | None) -> LogReader:
        """A reader of the world's logs under `landing/<name>`; a day's log is made when first asked for."""
        from features.sources.synthetic_log import SyntheticLog

        return SyntheticLog(self, landing=landing)
