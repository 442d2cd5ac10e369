"""What was carried over, for people: one line per kind of change, in the log, `trained.json` and the lineage."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from trainer.carryover.compare import Comparison, Outcome

_EXAMPLES = 4
_HEADS = {
    "carried in part": "what is new in them is at its initial values",
    "repeated": "weights and optimizer state",
    "fresh": "initial weights, no optimizer state",
    "dropped": "not in today's model",
}


@dataclass(frozen=True, kw_only=True)
class Change:
    """Tensors with the same outcome for the same reason."""

    outcome: str
    why: str
    num_tensors: int
    tensors: tuple[str, ...]
    """The first few names."""

    @property
    def reason(self) -> str:
        """`rows 64 -> 100 …: user_tower…weight and 3 more`."""
        more = self.num_tensors - len(self.tensors)
        return f"{self.why}: {', '.join(self.tensors)}" + (f" and {more} more" if more else "")

    @property
    def sentence(self) -> str:
        """The reason, with the outcome before it."""
        return f"{self.outcome}: {self.reason}"


@dataclass(frozen=True, kw_only=True)
class CarriedOver:
    """Of a warm start. num_carried: tensors taken over bit for bit; changes: everything else."""

    num_carried: int
    num_in_part: int = 0
    num_fresh: int = 0
    num_dropped: int = 0
    changes: tuple[Change, ...] = ()
    other_examples: str = ""
    """As `Comparison.other_examples`."""

    @property
    def sentence(self) -> str:
        """`83 tensors carried over, 4 in part, 2 fresh, 1 dropped`."""
        counts = [f"{self.num_carried} tensors carried over"]
        for number, what in ((self.num_in_part, "in part"), (self.num_fresh, "fresh"), (self.num_dropped, "dropped")):
            counts += [f"{number} {what}"] if number else []
        return ", ".join(counts)


def summarise(comparison: Comparison) -> CarriedOver:
    """The summary of a comparison."""
    groups: dict[tuple[Outcome, str], list[str]] = {}
    for change in comparison.tensors:
        groups.setdefault((change.outcome, change.why), []).append(change.name)

    def count(*outcomes: str) -> int:
        return sum(len(names) for (outcome, _), names in groups.items() if outcome in outcomes)

    changes = [
        Change(outcome=outcome, why=why, num_tensors=len(names), tensors=tuple(names[:_EXAMPLES]))
        for (outcome, why), names in groups.items()
        if outcome != "carried"
    ]
    changes += [
        Change(outcome="fresh", why="another optimizer", num_tensors=1, tensors=(f"optimizer state of the {part}",))
        for part in comparison.state_changes
    ]
    return CarriedOver(
        num_carried=count("carried", "repeated"),
        num_in_part=count("carried in part"),
        num_fresh=count("fresh"),
        num_dropped=count("dropped"),
        changes=tuple(changes),
        other_examples=comparison.other_examples,
    )


def as_table(carried: CarriedOver) -> Iterator[str]:
    """Lines for the log: a head per outcome, a line per reason."""
    yield carried.sentence
    if carried.other_examples:
        yield carried.other_examples
    for outcome, head in _HEADS.items():
        found = [change for change in carried.changes if change.outcome == outcome]
        if found:
            yield f"{outcome} ({head}):"
        yield from (f"  {change.reason}" for change in found)
