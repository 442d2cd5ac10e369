"""A plan as a picture, drawn without a display."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from trainer.planning.cluster import GB
from trainer.planning.forecast import Forecast, RankForecast

_FAR, _FEW = 3, 32

Parts = tuple[tuple[str, Callable[[RankForecast], float]], ...]

_MEMORY: Parts = (
    ("dense part and Adam", lambda rank: rank.dense_bytes / GB),
    ("activations", lambda rank: rank.activation_bytes / GB),
    ("batches", lambda rank: rank.batch_bytes / GB),
    ("ids and pooled output", lambda rank: rank.io_bytes / GB),
    ("tables' optimizer", lambda rank: rank.optimizer_bytes / GB),
    ("tables", lambda rank: rank.table_bytes / GB),
)
_STEP: Parts = (
    ("dense part", lambda rank: rank.dense_ms),
    ("table kernels", lambda rank: rank.lookup_ms),
    ("pooled output and gradient", lambda rank: rank.exchange_ms),
)


def plot_plan(cost: Forecast, path: Path, *, title: str) -> None:
    """Per rank: memory by use against the limit (and again, closer, when it is far), and the step's parts, as PNG."""
    limit, margin = cost.ranks[0].limit_bytes / GB, cost.ranks[0].margin_bytes / GB
    far = max(rank.used_bytes for rank in cost.ranks) * _FAR < limit * GB
    figure = Figure(figsize=(12, 11 if far else 8), layout="constrained")
    FigureCanvasAgg(figure)
    above, *closer, below = figure.subplots(3 if far else 2, 1, sharex=True)
    _stack(above, cost, _MEMORY)
    above.axhline(limit, color="black", linewidth=1, label=f"limit {limit:.4g} GB")
    above.axhline(limit - margin, color="black", linewidth=1, linestyle="--", label=f"without margin {margin:.3g} GB")
    above.set_ylabel("memory, GB")
    for axes in closer:
        _stack(axes, cost, _MEMORY)
        axes.set_ylabel("the same, closer, GB")
    _stack(below, cost, _STEP)
    below.axhline(cost.step_ms, color="black", linewidth=1, linestyle=":", label=f"slowest {cost.step_ms:.3g} ms")
    below.set_ylabel("step, nothing overlapped, ms")
    below.set_xlabel("rank")
    for axes in (above, *closer, below):
        axes.legend(fontsize="small", loc="center left", bbox_to_anchor=(1.0, 0.5), reverse=True)
    figure.suptitle(title)
    figure.savefig(path, dpi=100, format="png", metadata={"Software": None})


def _stack(axes: Axes, cost: Forecast, parts: Parts) -> None:
    ranks = np.arange(len(cost.ranks))
    bottom = np.zeros(len(ranks))
    width = 0.9 if len(ranks) <= _FEW else 1.0  # many gaps would flicker
    for name, value in parts:
        heights = np.array([value(rank) for rank in cost.ranks])
        axes.bar(ranks, heights, bottom=bottom, width=width, label=name)
        bottom += heights
    axes.margins(x=0.01)
