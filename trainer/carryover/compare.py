"""What is carried over from one model into another, tensor by tensor: decided by the two configs alone.

Tables: an id lands in row `hash(id) mod rows`. With k times the rows it lands in a row r' with r' mod rows = r, so
row r' takes over row r' mod rows exactly, its optimizer state too. With any other number of rows the ids of a row
scatter over all rows: nothing of it can be carried over, and the table starts fresh.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from features.schema import SIDES, Managed, Side, Table
from features.selection import described
from trainer.carryover.axes import Axis, Block, dense_axes, size
from trainer.carryover.document import ModelDocument
from trainer.config import Dlrm, Sum, TrainingConfig

Outcome = Literal["carried", "carried in part", "repeated", "fresh", "dropped"]
"""repeated: a table with a multiple of its rows. dropped: today's model has no such tensor."""
Span = tuple[int, int, int]
"""(first index in the parent's axis, first index in today's, how many)."""

_NAMES_SHOWN = 3


@dataclass(frozen=True, kw_only=True)
class TensorChange:
    """What becomes of one tensor of the model; its optimizer's state follows it."""

    name: str
    outcome: Outcome
    why: str = ""
    """Empty for `carried`."""
    old_shape: tuple[int, ...] = ()
    new_shape: tuple[int, ...] = ()
    spans: tuple[tuple[Span, ...], ...] = ()
    """Per axis, of a dense tensor."""
    is_table: bool = False


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Every tensor of both models."""

    tensors: tuple[TensorChange, ...]
    carries_table_state: bool
    """Whether both days use the same optimizer for the tables."""
    carries_dense_state: bool
    new_tasks: tuple[str, ...]
    other_examples: str = ""
    """What the days learn from, where today's is not what the parent's was; that loses no weight."""

    @property
    def is_unchanged(self) -> bool:
        """Whether the checkpoint can be loaded as it is."""
        same = all(change.outcome == "carried" for change in self.tensors)
        return same and self.carries_table_state and self.carries_dense_state

    @property
    def tables_unchanged(self) -> bool:
        """Whether every table, and its optimizer's state, is taken over as it is."""
        return self.carries_table_state and all(c.outcome == "carried" for c in self.tensors if c.is_table)

    @property
    def state_changes(self) -> tuple[str, ...]:
        """The optimizers whose state starts fresh."""
        parts = {"tables": self.carries_table_state, "dense": self.carries_dense_state}
        return tuple(part for part, carried in parts.items() if not carried)


def compare(parent: ModelDocument, today: ModelDocument) -> Comparison:
    """What `today` takes over from `parent`."""
    before, now = parent.config, today.config
    return Comparison(
        tensors=(*_tables(parent, today), *_dense(before, now)),
        carries_table_state=before.optimizer.sparse == now.optimizer.sparse,
        carries_dense_state=before.optimizer.dense == now.optimizer.dense,
        new_tasks=tuple(task for task in now.task_names if task not in before.task_names),
        other_examples=_other_examples(before, now),
    )


def _other_examples(before: TrainingConfig, now: TrainingConfig) -> str:
    if now.examples == before.examples:
        return ""
    old, new = (described(config.examples) or "all examples" for config in (before, now))
    return f"learns from {new}, its parent from {old}: NE of the two days is of different examples"


def _tables(parent: ModelDocument, today: ModelDocument) -> Iterator[TensorChange]:
    before, now = table_shapes(parent.config), table_shapes(today.config)
    old_tables, new_tables = tables_by_weights(parent.config), tables_by_weights(today.config)
    for name in [*now, *(name for name in before if name not in now)]:
        old, new = before.get(name), now.get(name)
        outcome, why = _shape_outcome(old, new)
        if not outcome:
            hashing = (parent.hashing, today.hashing)
            outcome, why = _rows_outcome(old_tables[name], new_tables[name], hashing=hashing)
        yield TensorChange(name=name, outcome=outcome, why=why, old_shape=old or (), new_shape=new or (), is_table=True)


def _shape_outcome(old: tuple[int, int] | None, new: tuple[int, int] | None) -> tuple[Outcome | None, str]:
    """None where the rows decide."""
    if new is None:
        return "dropped", "the table is gone"
    if old is None:
        return "fresh", "the table is new"
    if old[1] != new[1]:
        return "fresh", f"dimension {old[1]} -> {new[1]}"
    return None, ""


def _rows_outcome(old: Table, new: Table, *, hashing: tuple[str, str]) -> tuple[Outcome, str]:
    if isinstance(old.ids, Managed) or isinstance(new.ids, Managed):
        kept = new.keeps_rows_of(old)
        return ("carried", "") if kept else ("fresh", f"rows chosen by {_choice(old)} before, by {_choice(new)} now")
    if hashing[0] != hashing[1]:
        return "fresh", f"rows chosen by {hashing[0]!r} before, by {hashing[1]!r} now"
    if old.num_rows == new.num_rows:
        return "carried", ""
    rows = f"rows {old.num_rows} -> {new.num_rows}"
    if new.num_rows % old.num_rows:
        return "fresh", f"{rows}, no multiple: the ids of a row are in other rows now"
    return "repeated", f"{rows}: row r takes over row r mod {old.num_rows}"


def _choice(table: Table) -> str:
    if not isinstance(table.ids, Managed):
        return f"hash ({table.num_rows} rows)"
    return f"an id map ({table.num_rows} rows, {table.ids.overflow_rows} of them shared)"


def table_weights(config: TrainingConfig) -> dict[tuple[Side, str], str]:
    """The name in the model of every table's weights, by side and table of the schema."""
    match config.model:
        case Sum():
            places = ("user_tower.sparse", "mix_tower.sparse")
        case Dlrm():
            places = ("user", "item")
    return {
        (side, table.name): f"{place}.tables.embedding_bags.{side}_{table.name}.weight"
        for side, place in zip(SIDES, places, strict=True)
        for table in config.schema.tables
        if table.name in _used(config, side)
    }


def tables_by_weights(config: TrainingConfig) -> dict[str, Table]:
    """Every table, by the name of its weights in the model."""
    return {name: config.schema.table(table) for (_, table), name in table_weights(config).items()}


def table_shapes(config: TrainingConfig) -> dict[str, tuple[int, int]]:
    """[rows, dim] of every table, by the name of its weights in the model."""
    dim = config.model.user_tower.dim if isinstance(config.model, Sum) else config.model.dim
    return {name: (table.num_rows, dim) for name, table in tables_by_weights(config).items()}


def _used(config: TrainingConfig, side: Side) -> set[str]:
    return {feature.table for feature in config.schema.sparse_of(side)}


def _dense(before: TrainingConfig, now: TrainingConfig) -> Iterator[TensorChange]:
    old_axes, new_axes = dense_axes(before), dense_axes(now)
    for name, new in new_axes.items():
        new_shape = tuple(map(size, new))
        if (old := old_axes.get(name)) is None:
            yield TensorChange(name=name, outcome="fresh", why="the layer is new", new_shape=new_shape)
            continue
        yield _dense_change(name, old, new)
    for name, old in old_axes.items():
        if name not in new_axes:
            shape = tuple(map(size, old))
            yield TensorChange(name=name, outcome="dropped", why="the layer is gone", old_shape=shape)


def _dense_change(name: str, old: tuple[Axis, ...], new: tuple[Axis, ...]) -> TensorChange:
    outcome, why, spans = _dense_outcome(old, new)
    old_shape, new_shape = tuple(map(size, old)), tuple(map(size, new))
    return TensorChange(name=name, outcome=outcome, why=why, old_shape=old_shape, new_shape=new_shape, spans=spans)


def _dense_outcome(old: tuple[Axis, ...], new: tuple[Axis, ...]) -> tuple[Outcome, str, tuple[tuple[Span, ...], ...]]:
    if old == new:
        return "carried", "", ()
    if len(old) != len(new):
        return "fresh", f"{len(old)} axes -> {len(new)}", ()
    spans = tuple(matching(a, b) for a, b in zip(old, new, strict=True))
    for a, b, found in zip(old, new, spans, strict=True):
        if not found:
            return "fresh", f"{_shown(a)} -> {_shown(b)}", ()
    why = "; ".join(_difference(a, b) for a, b in zip(old, new, strict=True) if a != b)
    return "carried in part", why, spans


def matching(old: Axis, new: Axis) -> tuple[Span, ...]:
    """The indices of `new` that `old` has too, as spans; neighbours are joined."""
    starts: dict[Block, int] = {}
    position = 0
    for block in old:
        starts[block] = position
        position += block.width
    spans: list[Span] = []
    position = 0
    for block in new:
        start = starts.get(block)
        if start is not None:
            if spans and spans[-1][0] + spans[-1][2] == start and spans[-1][1] + spans[-1][2] == position:
                first, to, count = spans.pop()
                spans.append((first, to, count + block.width))
            else:
                spans.append((start, position, block.width))
        position += block.width
    return tuple(spans)


def _difference(old: Axis, new: Axis) -> str:
    came = tuple(block for block in new if block not in old)
    went = tuple(block for block in old if block not in new)
    parts = [f"new: {_shown(came)}"] if came else []
    parts += [f"gone: {_shown(went)}"] if went else []
    return ", ".join(parts) or "reordered"


def _shown(axis: Axis) -> str:
    names = [f"{block.name} ({block.width})" if block.width > 1 else block.name for block in axis[:_NAMES_SHOWN]]
    return ", ".join(names) + (f" and {len(axis) - _NAMES_SHOWN} more" if len(axis) > _NAMES_SHOWN else "")
