"""A curve as a picture, drawn without a display."""

from __future__ import annotations

from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from serving.ercache.curve import PUBLISHED_SAVED, Curve, Recommendation

_BELOW_ALL = 0.5
"""Where TTL 0 stands on the logarithmic axis, in seconds."""


def plot(curve: Curve, recommended: Recommendation, path: Path) -> None:
    """Over direct TTLs, as PNG: compute saved with the published band; staleness; and the gain in NE lost, if known."""
    losses = curve.losses
    figure = Figure(figsize=(9, 9 if losses is not None else 6.5), layout="constrained")
    FigureCanvasAgg(figure)
    saved, staleness, *lost = figure.subplots(2 if losses is None else 3, 1, sharex=True)
    ttls = [max(point.ttl_seconds, _BELOW_ALL) for point in curve.points]
    saved.plot(ttls, [100 * point.statistics.saved for point in curve.points], marker=".", label="compute saved")
    saved.plot(
        ttls,
        [100 * point.statistics.hits / point.statistics.requests for point in curve.points],
        linestyle=":",
        label="direct hits",
    )
    saved.axhspan(
        *(100 * share for share in PUBLISHED_SAVED), color="grey", alpha=0.2, label="ERCache at Meta (summaries)"
    )
    saved.set_ylabel("% of requests")
    _draw_staleness(staleness, curve, ttls)
    for axes in lost:
        assert losses is not None
        axes.plot(ttls, 100 * losses, marker=".", label="gain in NE lost")
        axes.set_ylabel("% of the gain without a cache")
    for axes in (saved, staleness, *lost):
        axes.axvline(
            max(recommended.ttl_seconds, _BELOW_ALL), color="black", linewidth=1, linestyle="--",
            label=f"recommended: {recommended.ttl_seconds:g} s",
        )  # fmt: skip
        axes.set_xscale("log")
        axes.grid(alpha=0.3)
        axes.legend(fontsize="small", loc="upper left")
    (lost or [staleness])[-1].set_xlabel(f"direct TTL, s (leftmost: none); trace {curve.trace}")
    figure.suptitle(f"{curve.model}: what a direct cache saves, and what it costs")
    figure.savefig(path, dpi=100, format="png", metadata={"Software": None})


def _draw_staleness(axes: Axes, curve: Curve, ttls: list[float]) -> None:
    known = [(ttl, p.statistics.staleness) for ttl, p in zip(ttls, curve.points, strict=True) if p.statistics.staleness]
    for name in ("mean", "p50", "p95", "p99"):
        axes.plot([ttl for ttl, _ in known], [getattr(of, name) for _, of in known], marker=".", label=f"age, {name}")
    axes.plot(ttls, [point.added_p95_seconds for point in curve.points], linestyle=":", label="added by the cache, p95")
    axes.set_yscale("symlog", linthresh=1)
    axes.set_ylabel("s")
