"""A finding as a picture, drawn without a display: a panel per column that is to be drawn."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from infra.experiments.finding import Cell, Curve, Finding, Table
from infra.experiments.statistics import Estimate

_CURVE_HEIGHT = 4.0


def draw(finding: Finding, path: Path) -> None:
    """As PNG; the same bytes of the same finding. Numbers without an interval are grey; black marks are the paper's."""
    tables = [table for table in finding.tables if any(column.drawn for column in table.columns)]
    if not tables:
        return
    widest = max(sum(column.drawn for column in table.columns) for table in tables)
    heights = [1.2 + 0.3 * len(table.rows) for table in tables] + [_CURVE_HEIGHT] * len(finding.curves)
    figure = Figure(figsize=(3 + 3.2 * widest, 0.6 + sum(heights)), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(len(heights), widest, squeeze=False, gridspec_kw={"height_ratios": heights})
    for table, of_table in zip(tables, panels, strict=False):
        _draw_table(table, of_table)
    for curve, (first, *others) in zip(finding.curves, panels[len(tables) :], strict=True):
        _draw_curve(curve, first)
        for axes in others:
            axes.set_axis_off()
    marked = any(column.marks for table in tables for column in table.columns)
    figure.suptitle(finding.title + (" (marks: the paper)" if marked else ""), fontsize="medium")
    figure.savefig(path, dpi=100, format="png", metadata={"Software": None})


def _draw_table(table: Table, panels: Any) -> None:
    rows = np.arange(len(table.rows))[::-1]
    drawn = [number for number, column in enumerate(table.columns) if column.drawn]
    for place, axes in enumerate(panels):
        if place >= len(drawn):
            axes.set_axis_off()
            continue
        for row, height in zip(table.rows, rows, strict=True):
            cell = row.cells[drawn[place]]
            if isinstance(cell, Estimate):
                axes.barh(height, cell.mean, xerr=cell.half, color="tab:blue", capsize=3)
            elif isinstance(cell, float):
                axes.barh(height, cell, color="tab:gray")
        if drawn[place] and table.columns[drawn[place] - 1].marks:
            _mark(axes, rows, [row.cells[drawn[place] - 1] for row in table.rows])
        axes.set_yticks(rows, [row.name for row in table.rows] if place == 0 else [""] * len(rows), fontsize="small")
        axes.set_xlabel(table.columns[drawn[place]].title, fontsize="small")
        axes.axvline(0, color="black", linewidth=0.8)
    panels[0].set_title(table.title, fontsize="small", loc="left")


def _draw_curve(curve: Curve, axes: Any) -> None:
    for name, points in curve.series.items():
        x, y = [place for place, _ in points], [value for _, value in points]
        halves = [value.half or 0.0 for value in y]
        axes.errorbar(x, [value.mean for value in y], yerr=halves, marker="o", capsize=3, label=name)
    for number, (name, value) in enumerate(curve.across.items()):
        color = f"C{len(curve.series) + number}"
        axes.axhline(value.mean, linestyle="--", color=color, label=name)
        axes.axhspan(value.low, value.high, alpha=0.1, color=color)
    axes.set_xlabel(curve.x, fontsize="small")
    axes.set_ylabel(curve.y, fontsize="small")
    axes.set_title(curve.title, fontsize="small", loc="left")
    axes.legend(fontsize="x-small", loc="upper right")  # "best" warns where it takes a second


def _mark(axes: Any, rows: Any, cells: Sequence[Cell]) -> None:
    at = [(cell, height) for cell, height in zip(cells, rows, strict=True) if isinstance(cell, float)]
    if at:
        axes.plot(*zip(*at, strict=True), "D", color="black", markersize=5)
