"""What a study found: tables with the paper's numbers beside ours, whether they agree, and why where they do not."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from infra.experiments.statistics import Estimate

Cell = Estimate | float | str | None
NOTHING = "–"  # noqa: RUF001


@dataclass(frozen=True, kw_only=True)
class Column:
    """How its cells are written."""

    title: str
    digits: int = 3
    signed: bool = False
    drawn: bool = False
    """A panel of the picture."""
    marks: bool = False
    """Marks in the panel of the column after it, as the paper's numbers beside ours."""

    def text(self, cell: Cell) -> str:
        """A number with its interval."""
        if cell is None:
            return NOTHING
        if isinstance(cell, str):
            return cell
        sign = "+" if self.signed else ""
        if isinstance(cell, Estimate):
            mean = f"{cell.mean:{sign}.{self.digits}f}"
            return mean if cell.half is None else f"{mean} ± {cell.half:.{self.digits}f}"
        return f"{cell:{sign}.{self.digits}f}"


@dataclass(frozen=True, kw_only=True)
class Row:
    """A cell per column."""

    name: str
    cells: tuple[Cell, ...]


@dataclass(frozen=True, kw_only=True)
class Table:
    """The first column, the rows' names, has no title of its own but `rows_are`."""

    title: str
    rows_are: str
    columns: tuple[Column, ...]
    rows: tuple[Row, ...]

    def __post_init__(self) -> None:
        for row in self.rows:
            assert len(row.cells) == len(self.columns), f"{self.title}, {row.name}: a cell per column"

    def cell(self, row: str, column: str) -> Cell:
        """By their names."""
        place = [one.title for one in self.columns].index(column)
        return next(one.cells[place] for one in self.rows if one.name == row)


@dataclass(frozen=True, kw_only=True)
class Curve:
    """A panel of the picture: y over x, and what has no x as lines across."""

    title: str
    x: str
    y: str
    series: Mapping[str, tuple[tuple[float, Estimate], ...]]
    """By name, ascending in x."""
    across: Mapping[str, Estimate]


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """A claim, the paper's or one that it leaves open, and what these numbers say of it."""

    claim: str
    agrees: bool | None
    """None: they do not decide it."""
    why: str

    @property
    def word(self) -> str:
        """In print."""
        return {True: "agrees", False: "disagrees", None: "open"}[self.agrees]


@dataclass(frozen=True, kw_only=True)
class Finding:
    """The outcome of a study."""

    name: str
    title: str
    setting: str
    seeds: tuple[int, ...]
    tables: tuple[Table, ...]
    verdicts: tuple[Verdict, ...]
    notes: tuple[str, ...] = ()
    curves: tuple[Curve, ...] = ()

    def metrics(self) -> dict[str, float]:
        """Every estimate, by table, row and column: the mean, and half the width of its interval as `….half`."""
        found: dict[str, float] = {}
        for number, table in enumerate(self.tables, start=1):
            for row in table.rows:
                for column, cell in zip(table.columns, row.cells, strict=True):
                    if isinstance(cell, Estimate):
                        name = _plain(f"{number}/{row.name}/{column.title}")
                        found[name] = cell.mean
                        if cell.half is not None:
                            found[f"{name}.half"] = cell.half
        return found

    def plain(self) -> Mapping[str, Any]:
        """As JSON; the same of the same seeds but for measured CPU times."""
        return asdict(self)

    def markdown(self) -> str:
        """Tables, verdicts and notes, from a heading of the second level on."""
        return "\n".join(self._lines()) + "\n"

    def _lines(self) -> Iterator[str]:
        yield f"## {self.title}"
        seeds = f"{len(self.seeds)} seeds: mean ± half of the 95 % interval" if len(self.seeds) > 1 else "one seed"
        yield f"\nSetting `{self.setting}`, {seeds}."
        for table in self.tables:
            yield f"\n**{table.title}**\n"
            titles = [table.rows_are, *(column.title for column in table.columns)]
            yield f"| {' | '.join(titles)} |\n|---|{'---:|' * len(table.columns)}"
            for row in table.rows:
                texts = [column.text(cell) for column, cell in zip(table.columns, row.cells, strict=True)]
                yield f"| {row.name} | {' | '.join(texts)} |"
        if self.verdicts:
            yield ""
        for verdict in self.verdicts:
            yield f"- {verdict.claim} **{verdict.word.capitalize()}**: {verdict.why}"
        for note in self.notes:
            yield f"\n{note}"


def _plain(name: str) -> str:
    """A name that MLflow takes for a metric: letters, digits and `_-. /`."""
    return "".join(one if one.isascii() and (one.isalnum() or one in "_-. /") else "_" for one in name)
