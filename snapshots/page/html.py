"""HTML that is built in Python, escaped by construction: only what `tag` made is markup, all else is text."""

from __future__ import annotations

import html
import math
from collections.abc import Iterable, Sequence
from typing import TypeGuard

CSS = """
:root { color-scheme: light; --ink: #1c2733; --dim: #5c6b7a; --line: #d9e0e7; --soft: #f4f7fa;
  --c0: #1f6fb4; --c1: #d9730d; --c2: #2d8a4e; --c3: #8a4fbf; --c4: #c2364a; --c5: #0f8b8d; --c6: #7a6a1d; --c7: #555; }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1rem 1.2rem 4rem; max-width: 72rem; background: #fff; color: var(--ink);
  font: 15px/1.5 system-ui, sans-serif; }
h1 { font-size: 1.45rem; line-height: 1.25; margin: .6rem 0; }
h2 { font-size: 1.1rem; margin: 2rem 0 .5rem; border-bottom: 1px solid var(--line); padding-bottom: .2rem; }
p, ul { margin: .4rem 0; }
p.dim, figcaption, .dim { color: var(--dim); font-size: .88rem; }
code { font: .88em ui-monospace, monospace; background: var(--soft); padding: .05em .3em; border-radius: 3px;
  overflow-wrap: anywhere; }
.badge { display: inline-block; padding: .1em .6em; border-radius: 4px; color: #fff; font-weight: 600; }
.promote { background: #2d8a4e; } .hold { background: #b86e00; } .reject { background: #b3261e; }
summary { cursor: pointer; color: var(--c0); } .scroll { overflow-x: auto; }
table { border-collapse: collapse; margin: .5rem 0; font-size: .9rem; }
th, td { padding: .25rem .6rem; border-bottom: 1px solid var(--line); text-align: left; vertical-align: top; }
th { color: var(--dim); font-weight: 600; white-space: nowrap; }
td.num, th.num { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
td.far { color: #b3261e; } tr.hold td { background: #fff6e6; } tr.reject td { background: #fdecea; }
tr.hold, tr.reject, tr.promote { background: none; }
td.bar { min-width: 8rem; } td.bar div { height: .8rem; margin-top: .25rem; border-radius: 2px; background: var(--c0); }
.plots { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(26rem, 100%), 1fr)); gap: 1rem; }
@media (max-width: 40rem) { body { padding: .6rem .7rem 3rem; font-size: 14px; } td { white-space: nowrap; }
  td:first-child { white-space: normal; min-width: 8rem; } }
figure { margin: 0; } figcaption { font-weight: 600; color: var(--ink); }
svg { width: 100%; height: auto; display: block; font: 11px system-ui, sans-serif; }
svg text { fill: var(--dim); } svg .grid { stroke: var(--line); } svg .limit { stroke: #b3261e; stroke-dasharray: 5 3; }
.legend { font-size: .82rem; color: var(--dim); display: flex; flex-wrap: wrap; gap: .2rem 1rem; }
.legend i { display: inline-block; width: .9rem; height: .25rem; margin-right: .35rem; vertical-align: middle; }
"""


class Html(str):
    """Markup, as `tag` makes it."""

    __slots__ = ()


def tag(name: str, *children: object, **attributes: object) -> Html:
    """`<name attributes>children</name>`; children that are not Html are escaped, None and attributes of None left out.

    An attribute's trailing underscore is dropped (`class_`), others become hyphens.
    """
    of = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{html.escape(str(value))}"'
        for key, value in attributes.items()
        if value is not None
    )
    return Html(f"<{name}{of}>{join(children)}</{name}>")


def join(children: Iterable[object]) -> Html:
    """Several children as one."""
    return Html("".join(_markup(child) for child in children if child is not None))


def _markup(child: object) -> str:
    return child if _is_html(child) else html.escape(str(child))


def _is_html(child: object) -> TypeGuard[Html]:
    return isinstance(child, Html)


def page(title: str, *sections: object) -> str:
    """A whole document."""
    head = tag(
        "head",
        Html('<meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">'),
        tag("title", title),
        tag("style", Html(CSS)),
    )
    return f"<!doctype html>\n{tag('html', head, tag('body', *sections), lang='en')}\n"


def section(title: str, *children: object) -> Html:
    """A heading and what is under it."""
    return tag("section", tag("h2", title), *children)


def folded(summary: str, *children: object) -> Html:
    """Shown when a person clicks on the summary."""
    return tag("details", tag("summary", summary), *children)


def table(headings: Sequence[str], rows: Iterable[Sequence[object]], *, classes: Iterable[str] | None = None) -> Html:
    """Numbers are set to the right, four digits; None is empty. classes: of each row."""
    body = list(rows)
    of_rows = list(classes) if classes is not None else [""] * len(body)
    numeric = [any(_is_number(row[i]) for row in body) for i in range(len(headings))]
    head = tag("tr", *(tag("th", h, class_="num" if n else None) for h, n in zip(headings, numeric, strict=True)))
    lines = [
        tag("tr", *(_cell(cell) for cell in row), class_=of or None) for row, of in zip(body, of_rows, strict=True)
    ]
    return tag("div", tag("table", tag("thead", head), tag("tbody", *lines)), class_="scroll")


def bar(share: float) -> Html:
    """A table's cell: a bar of this share of its width."""
    width = min(max(share, 0.0), 1.0)
    return tag("td", tag("div", style=f"width:{100 * width:.1f}%"), class_="bar")


def number(value: object) -> str:
    """As people read it: floats with four digits, thousands separated, None empty, NaN `n/a`."""
    if value is None:
        return ""
    if isinstance(value, float) and math.isnan(value):
        return "n/a"
    if isinstance(value, float):
        return f"{value:.4f}" if abs(value) < 1_000 else f"{value:,.0f}"
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)


def _cell(cell: object) -> Html:
    if _is_html(cell) and cell.startswith("<td"):
        return cell
    if _is_html(cell):
        return tag("td", cell)
    return tag("td", number(cell), class_="num" if _is_number(cell) else None)


def _is_number(cell: object) -> bool:
    return isinstance(cell, int | float)
