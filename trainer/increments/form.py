"""Full, or an increment of an earlier checkpoint: which form the state of a day is written in, and what it was."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date
from typing import TYPE_CHECKING

from trainer.checkpoint import Base

if TYPE_CHECKING:
    from trainer.carryover.compare import Comparison
    from trainer.planning.document import SavedPlan
    from trainer.recipe import Checkpoints, Optimizer

_MOVES_TOUCHED_ROWS_ALONE = ("rowwise_adagrad", "adagrad")
"""Not one with momentum or weight decay, which move every row at every step."""


@dataclass(frozen=True, kw_only=True)
class BaseDay:
    """The newest full checkpoint in the chain of the parent: what an increment of the day would add to."""

    ds: date
    base: Base


@dataclass(frozen=True, kw_only=True)
class Stored:
    """How a day's state was written."""

    base_ds: date | None
    """The day whose checkpoint it is an increment of; None for a full one."""
    why_full: str
    """Empty for an increment."""
    num_bytes: int
    """Written: the state, without its documents."""
    full_bytes: int
    """Of the tensors of a full one."""
    touched: dict[str, float]
    """Per table: the share of its rows that was looked up since the last full one, before this."""

    @property
    def sentence(self) -> str:
        """`full (no parent)`, `increment of ds=2026-01-01`."""
        return f"full ({self.why_full})" if self.base_ds is None else f"increment of ds={self.base_ds}"


def why_full(
    rules: Checkpoints,
    *,
    ds: date,
    base: BaseDay | None,
    carried: Comparison | None,
    unheld: str | None,
    increment_bytes: int,
    full_bytes: int,
) -> str | None:
    """Why the day is written in full; None: as an increment of `base`.

    carried: the comparison with the parent. unheld: `why_unheld`. The bytes are of either form.
    """
    if rules.full_every == 1:
        return "the recipe asks for it every day"
    if base is None or carried is None:
        return "nothing to add to"
    if not carried.tables_unchanged:
        return "the tables changed"
    if unheld is not None:
        return unheld
    if (age := (ds - base.ds).days) >= rules.full_every:
        return f"the last full one is {age} days old"
    if increment_bytes > rules.increment_max_share * full_bytes:
        return f"an increment of {base.ds} would take {increment_bytes / max(full_bytes, 1):.0%} of its bytes"
    return None


def why_unheld(optimizer: Optimizer, plan: SavedPlan) -> str | None:
    """Why rows that were not looked up might change as well; None when they do not."""
    if optimizer.sparse not in _MOVES_TOUCHED_ROWS_ALONE:
        return f"{optimizer.sparse} may move every row"
    dense = [table.name for table in plan.tables if not table.compute_kernel.startswith("fused")]
    return f"table {dense[0]} is updated as a whole (kernel dense)" if dense else None
