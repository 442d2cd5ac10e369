"""Which of a source's examples a model learns from. Light to import: recipes hold selections."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from features.schema import Schema


@dataclass(frozen=True, kw_only=True)
class Selection:
    """The examples whose column, a label or a sparse feature of one id, has one of these values."""

    column: str
    values: tuple[int, ...]

    def __post_init__(self) -> None:
        if not self.values:
            raise ValueError(f"the selection by {self.column} names no value; no example would be left")

    def __str__(self) -> str:
        return f"{self.column} in {list(self.values)}"


def described(where: Sequence[Selection]) -> str:
    """`item_domain in [0] and click in [1]`; empty where all examples are meant."""
    return " and ".join(map(str, where))


def check_selections(selections: Sequence[Selection], schema: Schema, *, of: str) -> None:
    """ValueError, which names the model `of`, for a column that is no label and no sparse feature, or is packed."""
    plain = {f.name for f in schema.sparse if not schema.is_packed(f.side)} | set(schema.tasks)
    if unknown := sorted({one.column for one in selections} - plain):
        raise ValueError(
            f"{of} selects examples by {unknown}: no labels and no sparse features with a column of their own; "
            f"known: {sorted(plain)}"
        )
