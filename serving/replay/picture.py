"""A replay as a picture, drawn without a display."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from serving.replay.modes import PAPER
from serving.replay.result import Replayed

_COLORS = {"next day": "tab:blue", "online": "tab:orange", "paper": "tab:gray"}


def plot_modes(replayed: Replayed, path: Path) -> None:
    """NE difference by mode with its interval; the share of real-time's gain beside the paper's; day by day. As PNG."""
    names = [mode.mode.name for mode in replayed.modes]
    rows = np.arange(len(names))[::-1]
    figure = Figure(figsize=(12, 2.5 + 0.8 * len(names)), layout="constrained")
    FigureCanvasAgg(figure)
    left, middle, right = figure.subplots(1, 3)
    for shift, name, outcomes in (
        (0.2, "next day", [mode.next_day for mode in replayed.modes]),
        (-0.2, "online", [mode.online for mode in replayed.modes]),
    ):
        diffs = np.array([outcome.diff_percent for outcome in outcomes])
        intervals = np.array([outcome.interval for outcome in outcomes])
        errors = np.abs(np.stack([diffs - intervals[:, 0], intervals[:, 1] - diffs]))
        left.barh(rows + shift, diffs, height=0.4, xerr=errors, color=_COLORS[name], capsize=3, label=name)
        shares = [outcome.share_of_realtime or np.nan for outcome in outcomes]
        middle.barh(rows + shift * 1.35, shares, height=0.25, color=_COLORS[name], label=name)
    papers = [PAPER[name] / PAPER["realtime"] if name in PAPER else np.nan for name in names]
    middle.barh(rows, papers, height=0.25, color=_COLORS["paper"], label="Table 2 of the paper")
    left.set_xlabel("NE difference, %")
    middle.set_xlabel("share of real-time's gain")
    for axes in (left, middle):
        axes.set_yticks(rows, names)
        axes.legend(fontsize="small")
    for mode in replayed.modes:
        of_day = mode.next_day.by_day
        right.plot([str(day)[5:] for day in of_day], list(of_day.values()), marker="o", label=mode.mode.name)
    right.set_ylabel("NE difference on the next day, %")
    right.tick_params("x", rotation=60)
    right.legend(fontsize="small")
    figure.suptitle(f"{replayed.model}, judged by {replayed.downstream}")
    figure.savefig(path, dpi=100, format="png", metadata={"Software": None})
