"""Plots for the report, drawn without a display."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from snapshots.movement import Movement

_BINS = 50


def plot_movements(moved: Mapping[str, Movement], path: Path, *, title: str) -> None:
    """Histograms over users of cosine and of the relative norm change, one line per entry, as a PNG."""
    figure = Figure(figsize=(10, 4), layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2)
    for axes, name, values in (
        (left, "cosine", {label: found.cosine for label, found in moved.items()}),
        (right, "relative norm change", {label: found.norm_change for label, found in moved.items()}),
    ):
        everything = np.concatenate(list(values.values()))
        low, high = float(everything.min()), float(np.quantile(everything, 0.999))
        edges = np.linspace(low, max(high, low + 1e-6), _BINS + 1)
        for label, of in values.items():
            axes.hist(of, bins=edges, histtype="step", label=f"{label}: mean {of.mean():.3f}")
        axes.set_xlabel(name)
        axes.set_ylabel("users")
        axes.legend(fontsize="small", loc="best")
    figure.suptitle(title)
    figure.savefig(path, dpi=100, metadata={"Software": None})
