"""Markdown that holds what people and logs wrote without being changed by it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from snapshots.page.html import number


def md_text(value: object) -> str:
    """`value` on one line, with nothing in it that is markup to Markdown's tables or to HTML."""
    line = " ".join(str(value).split())
    return line.replace("&", "&amp;").replace("<", "&lt;").replace("|", "\\|")


def md_table(headings: Sequence[str], rows: Iterable[Sequence[object]]) -> Iterator[str]:
    """The table's lines. Numbers as in the pages, None is empty, what is `Raw` stays as it is."""
    yield _line(headings)
    yield "|" + "---|" * len(headings)
    for row in rows:
        yield _line([_cell(cell) for cell in row])


class Raw(str):
    """Markdown already."""

    __slots__ = ()


def _cell(cell: object) -> str:
    if cell is None:
        return ""
    if isinstance(cell, Raw):
        return cell
    return number(cell) if isinstance(cell, int | float) else md_text(cell)


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
