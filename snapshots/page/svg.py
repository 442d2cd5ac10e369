"""Plots as inline SVG: lines with bands over days, histograms, bars with intervals."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from snapshots.page.html import Html, join, tag

if TYPE_CHECKING:
    from numpy.typing import NDArray

WIDTH, HEIGHT = 520, 230
_LEFT, _RIGHT, _TOP, _BOTTOM = 54, 10, 10, 26
_BINS = 60
_OUTER = (0.001, 0.999)
_COLOURS = 8
_TICKS = 5
_MAX_LABELS = 7


@dataclass(frozen=True, kw_only=True)
class Line:
    """A value per place on the x axis; None: no point. low, high: a band around it, or nothing."""

    name: str
    values: Sequence[float | None]
    low: Sequence[float | None] = ()
    high: Sequence[float | None] = ()


def line_plot(title: str, lines: Sequence[Line], labels: Sequence[str], *, limits: Sequence[float] = ()) -> Html:
    """Lines over `labels`, evenly spaced; limits: dashed, across."""
    shown = [v for line in lines for v in (*line.values, *line.low, *line.high) if v is not None and math.isfinite(v)]
    if not shown:
        return _figure(title, tag("p", "nothing to show", class_="dim"))
    frame = _Frame.around(x=(0, max(len(labels) - 1, 1)), y=(min([*shown, *limits]), max([*shown, *limits])))
    marks: list[Html] = [*frame.y_axis(), *frame.x_labels(labels)]
    for index, line in enumerate(lines):
        colour = _colour(index)
        if line.low:
            marks.append(frame.band(line.low, line.high, colour))
        marks += frame.points(line.values, colour, labels)
    marks += [frame.across(limit) for limit in limits]
    return _figure(title, _svg(title, marks), _legend([line.name for line in lines]))


def histogram(title: str, named: Mapping[str, NDArray[np.float64]]) -> Html:
    """The share of users per bin, an outline per entry; the first and the last bin hold the outer 0.1 % too."""
    low, high = (float(cut) for cut in np.quantile(np.concatenate(list(named.values())), _OUTER))
    edges = np.linspace(low, max(high, low + 1e-6), _BINS + 1)
    shares = {
        name: np.histogram(np.clip(values, edges[0], edges[-1]), bins=edges)[0] / max(len(values), 1)
        for name, values in named.items()
    }
    frame = _Frame.around(x=(edges[0], edges[-1]), y=(0.0, max(float(of.max()) for of in shares.values())))
    marks: list[Html] = [*frame.y_axis(percent=True), *frame.x_axis()]
    for index, of in enumerate(shares.values()):
        marks.append(frame.outline(edges, of, _colour(index)))
    names = [f"{name}: mean {float(values.mean()):.4f}" for name, values in named.items()]
    return _figure(title, _svg(title, marks), _legend(names))


def column_plot(title: str, named: Mapping[str, Sequence[float]]) -> Html:
    """A column per index (a dimension, say), entries side by side."""
    top = max((abs(value) for values in named.values() for value in values), default=0.0)
    longest = max((len(values) for values in named.values()), default=0)
    frame = _Frame.around(x=(-0.5, max(longest, 1) - 0.5), y=(0.0, top or 1.0))
    width = (frame.x(1) - frame.x(0)) / (len(named) + 0.5)
    marks: list[Html] = [*frame.y_axis(), *frame.x_axis()]
    for index, (name, values) in enumerate(named.items()):
        for place, value in enumerate(values):
            left = frame.x(place) + (index - len(named) / 2) * width
            y = frame.y(abs(value))
            marks.append(
                tag(
                    "rect",
                    tag("title", f"{name}, {place}: {value:.4f}"),
                    x=f"{left:.1f}",
                    y=f"{y:.1f}",
                    width=f"{max(width, 0.5):.2f}",
                    height=f"{frame.y(0) - y:.1f}",
                    style=f"fill:{_colour(index)}",
                )
            )
    return _figure(title, _svg(title, marks), _legend(list(named)))


def interval_plot(title: str, rows: Sequence[tuple[str, float, float, float]], *, zero: bool = True) -> Html:
    """(name, low, middle, high) each on a line of its own. zero: within the axis, and marked."""
    height = 24 * len(rows) + _TOP + _BOTTOM
    ends = [end for row in rows for end in (row[1], row[3])] + ([0.0] if zero else [])
    frame = _Frame.around(x=(min(ends), max(ends)), y=(0, 1), left=150)
    marks: list[Html] = [*frame.x_axis(height=height), *([frame.upright(0.0, height)] if zero else [])]
    for index, (name, first, middle, last) in enumerate(rows):
        y = _TOP + 24 * index + 12
        marks += [
            tag("text", name, x=144, y=y + 4, text_anchor="end"),
            _stroke(frame.x(first), y, frame.x(last), y, style="stroke:var(--c0);stroke-width:3"),
            tag(
                "circle",
                tag("title", f"{name}: {middle:.4f} ({first:.4f} … {last:.4f})"),
                cx=f"{frame.x(middle):.1f}",
                cy=y,
                r=4,
                style="fill:var(--c0)",
            ),
        ]
    return _figure(title, _svg(title, marks, height=height))


@dataclass(frozen=True, kw_only=True)
class _Frame:
    """Data to pixels, and the axes."""

    x0: float
    x1: float
    y0: float
    y1: float
    left: int = _LEFT

    @classmethod
    def around(cls, *, x: tuple[float, float], y: tuple[float, float], left: int = _LEFT) -> _Frame:
        """Axes that hold both ranges, with a little room above and below."""
        (x0, x1), (y0, y1) = _widened(*x), _widened(*y)
        room = 0.06 * (y1 - y0)
        return cls(x0=x0, x1=x1, y0=y0 if y0 == 0 else y0 - room, y1=y1 + room, left=left)

    def x(self, value: float) -> float:
        return self.left + (value - self.x0) / (self.x1 - self.x0) * (WIDTH - _RIGHT - self.left)

    def y(self, value: float) -> float:
        return HEIGHT - _BOTTOM - (value - self.y0) / (self.y1 - self.y0) * (HEIGHT - _BOTTOM - _TOP)

    def y_axis(self, *, percent: bool = False) -> list[Html]:
        marks = []
        for tick in _ticks(self.y0, self.y1):
            y = self.y(tick)
            text = f"{tick:.1%}" if percent else f"{tick:.4g}"
            marks.append(_stroke(self.left, y, WIDTH - _RIGHT, y, class_="grid"))
            marks.append(tag("text", text, x=self.left - 6, y=f"{y + 4:.1f}", text_anchor="end"))
        return marks

    def x_axis(self, *, height: int = HEIGHT) -> list[Html]:
        return [
            tag("text", f"{tick:.4g}", x=f"{self.x(tick):.1f}", y=height - 8, text_anchor="middle")
            for tick in _ticks(self.x0, self.x1)
        ]

    def x_labels(self, labels: Sequence[str]) -> list[Html]:
        step = -(-len(labels) // _MAX_LABELS)
        chosen = [index for index in range(len(labels)) if (len(labels) - 1 - index) % step == 0]
        return [
            tag(
                "text",
                labels[i],
                x=f"{self.x(i):.1f}",
                y=HEIGHT - 8,
                text_anchor="end" if i and i == len(labels) - 1 else "middle",
            )
            for i in chosen
        ]

    def points(self, values: Sequence[float | None], colour: str, labels: Sequence[str]) -> list[Html]:
        """The line, broken where a value is missing, and a dot per value."""
        known = [(self.x(i), self.y(v), i, v) for i, v in enumerate(values) if v is not None and math.isfinite(v)]
        path = ""
        for place, (x, y, i, _) in enumerate(known):
            goes_on = place and known[place - 1][2] == i - 1
            path += f"{'L' if goes_on else 'M'}{x:.1f},{y:.1f}"
        dots = [
            tag(
                "circle",
                tag("title", f"{labels[i]}: {v:.4f}"),
                cx=f"{x:.1f}",
                cy=f"{y:.1f}",
                r=3,
                style=f"fill:{colour}",
            )
            for x, y, i, v in known
        ]
        return [tag("path", d=path, style=f"fill:none;stroke:{colour};stroke-width:1.8"), *dots]

    def band(self, low: Sequence[float | None], high: Sequence[float | None], colour: str) -> Html:
        pairs = enumerate(zip(low, high, strict=True))
        both = [(i, a, b) for i, (a, b) in pairs if a is not None and b is not None and math.isfinite(a + b)]
        corners = [(self.x(i), self.y(a)) for i, a, _ in both] + [(self.x(i), self.y(b)) for i, _, b in reversed(both)]
        points = " ".join(f"{x:.1f},{y:.1f}" for x, y in corners)
        return tag("polygon", points=points, style=f"fill:{colour};opacity:.15")

    def outline(self, edges: NDArray[np.float64], heights: NDArray[np.float64], colour: str) -> Html:
        path = f"M{self.x(edges[0]):.1f},{self.y(0):.1f}"
        for left, right, height in zip(edges[:-1], edges[1:], heights, strict=True):
            y = self.y(float(height))
            path += f"L{self.x(left):.1f},{y:.1f}L{self.x(right):.1f},{y:.1f}"
        path += f"L{self.x(edges[-1]):.1f},{self.y(0):.1f}"
        return tag("path", d=path, style=f"fill:{colour};fill-opacity:.08;stroke:{colour};stroke-width:1.4")

    def across(self, value: float) -> Html:
        return _stroke(self.left, self.y(value), WIDTH - _RIGHT, self.y(value), class_="limit")

    def upright(self, value: float, height: int) -> Html:
        return _stroke(self.x(value), _TOP, self.x(value), height - _BOTTOM, class_="grid")


def _stroke(x1: float, y1: float, x2: float, y2: float, **attributes: object) -> Html:
    return tag("line", x1=f"{x1:.1f}", y1=f"{y1:.1f}", x2=f"{x2:.1f}", y2=f"{y2:.1f}", **attributes)


def _svg(title: str, marks: Sequence[Html], *, height: int = HEIGHT) -> Html:
    return tag("svg", *marks, viewBox=f"0 0 {WIDTH} {height}", role="img", aria_label=title)


def _figure(title: str, *children: Html) -> Html:
    return tag("figure", tag("figcaption", title), *children)


def _legend(names: Sequence[str]) -> Html:
    entries = [tag("span", tag("i", style=f"background:{_colour(i)}"), name) for i, name in enumerate(names)]
    return tag("div", join(entries), class_="legend")


def _colour(index: int) -> str:
    return f"var(--c{index % _COLOURS})"


def _widened(low: float, high: float) -> tuple[float, float]:
    """A range of no width gets some."""
    if high > low:
        return low, high
    room = abs(low) * 0.05 or 0.5
    return low - room, high + room


def _ticks(low: float, high: float) -> list[float]:
    """Round numbers within the range, about _TICKS of them."""
    rough = (high - low) / _TICKS
    power = 10 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= rough)
    first = math.ceil(low / step)
    return [round(index * step, 12) for index in range(first, math.floor(high / step) + 1)]
