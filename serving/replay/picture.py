"""A replay as a picture, drawn without a display."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from serving.replay.modes import PAPER
from serving.replay.result import Replayed

_OURS, _PAPERS = "tab:blue", "tab:gray"


def plot_modes(replayed: Replayed, path: Path) -> None:
    """NE difference by mode with its interval; the share of real-time's gain beside the paper's; NE by day. As PNG."""
    names = [mode.mode.name for mode in replayed.modes]
    rows = np.arange(len(names))[::-1]
    figure = Figure(figsize=(12, 2.5 + 0.8 * len(names)), layout="constrained")
    FigureCanvasAgg(figure)
    left, middle, right = figure.subplots(1, 3)
    diffs = np.array([mode.ne_diff_percent for mode in replayed.modes])
    intervals = np.array([mode.interval for mode in replayed.modes])
    errors = np.abs(np.stack([diffs - intervals[:, 0], intervals[:, 1] - diffs]))
    left.barh(rows, diffs, xerr=errors, color=_OURS, capsize=3)
    left.set_yticks(rows, names)
    left.set_xlabel("next-day NE difference, %")
    shares = [mode.share_of_realtime or np.nan for mode in replayed.modes]
    papers = [PAPER[name] / PAPER["realtime"] if name in PAPER else np.nan for name in names]
    middle.barh(rows + 0.2, shares, height=0.4, color=_OURS, label="here")
    middle.barh(rows - 0.2, papers, height=0.4, color=_PAPERS, label="Table 2 of the paper")
    middle.set_yticks(rows, names)
    middle.set_xlabel("share of real-time's gain")
    middle.legend(fontsize="small")
    for mode in replayed.modes:
        right.plot([str(day)[5:] for day in mode.by_day], list(mode.by_day.values()), marker="o", label=mode.mode.name)
    right.set_ylabel("NE difference, %")
    right.tick_params("x", rotation=60)
    right.legend(fontsize="small")
    figure.suptitle(f"{replayed.model}, judged by {replayed.downstream}")
    figure.savefig(path, dpi=100, format="png", metadata={"Software": None})
