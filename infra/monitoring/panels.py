"""Grafana's dashboards as data: rows of panels, each with its queries, its unit and what it says."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

Kind = Literal["timeseries", "stat", "heatmap", "table"]

COLUMNS, HEIGHT = 24, 8
_SOURCE = {"type": "prometheus", "uid": "${datasource}"}
GREEN_AT_ONE = (("red", None), ("green", 1))
RED_AT_ONE = (("green", None), ("red", 1))


@dataclass(frozen=True, kw_only=True)
class Panel:
    """queries: PromQL, `[R]` for Grafana's own range, and the legend of its series. unit: Grafana's name of it. most,
    least: ends of the axis. names: of values. steps: colours, each from this value on."""

    title: str
    says: str
    queries: tuple[tuple[str, str], ...]
    unit: str
    kind: Kind = "timeseries"
    width: int = 8
    stacked: bool = False
    most: float | None = None
    least: float | None = 0
    names: Mapping[int, str] = field(default_factory=dict)
    steps: tuple[tuple[str, float | None], ...] = ()

    def document(self, number: int, x: int, y: int) -> dict[str, Any]:
        """As Grafana reads it."""
        targets = [
            {
                "datasource": _SOURCE, "expr": expr.replace("[R]", "[$__rate_interval]"), "legendFormat": legend,
                "refId": chr(ord("A") + place), "editorMode": "code", **_way(self.kind),
            }
            for place, (expr, legend) in enumerate(self.queries)
        ]  # fmt: skip
        return {
            "id": number, "type": self.kind, "title": self.title, "description": self.says, "datasource": _SOURCE,
            "gridPos": {"h": HEIGHT, "w": self.width, "x": x, "y": y},
            "targets": targets,
            "options": _options(self.kind, self.unit),
            "fieldConfig": {"defaults": self._defaults(), "overrides": []},
        }  # fmt: skip

    def _defaults(self) -> dict[str, Any]:
        found: dict[str, Any] = {"unit": self.unit}
        found |= {} if self.least is None else {"min": self.least}
        found |= {} if self.most is None else {"max": self.most}
        if self.names:
            options = {str(value): {"text": text, "index": at} for at, (value, text) in enumerate(self.names.items())}
            found["mappings"] = [{"type": "value", "options": options}]
        if self.steps:
            steps = [{"color": color, "value": value} for color, value in self.steps]
            found["thresholds"] = {"mode": "absolute", "steps": steps}
        if self.kind == "timeseries":
            found["custom"] = {
                "drawStyle": "line", "lineWidth": 1, "fillOpacity": 20 if self.stacked else 5, "showPoints": "never",
                "stacking": {"mode": "normal" if self.stacked else "none", "group": "A"},
            }  # fmt: skip
        return found


@dataclass(frozen=True, kw_only=True)
class Dashboard:
    """rows: panels by the row's title. models: PromQL metric whose label `model` is chosen from at the top."""

    name: str
    title: str
    says: str
    rows: Mapping[str, Sequence[Panel]]
    models: str = ""
    since: str = "now-1h"
    refresh: str = "10s"

    def document(self) -> dict[str, Any]:
        """As Grafana imports it; the Prometheus is chosen there."""
        return {
            "title": self.title, "uid": f"usermodel-{self.name}", "description": self.says, "tags": ["usermodel"],
            "schemaVersion": 39, "version": 1, "editable": True, "timezone": "browser", "refresh": self.refresh,
            "time": {"from": self.since, "to": "now"}, "graphTooltip": 1, "annotations": {"list": []},
            "links": [
                {"type": "dashboards", "tags": ["usermodel"], "title": "usermodel", "asDropdown": True,
                 "includeVars": True, "keepTime": True},
            ],
            "templating": {"list": list(self._variables())},
            "panels": list(self._panels()),
        }  # fmt: skip

    def _variables(self) -> Iterator[dict[str, Any]]:
        yield {
            "name": "datasource", "label": "Prometheus", "type": "datasource", "query": "prometheus", "refresh": 1,
            "hide": 0, "includeAll": False, "multi": False, "options": [], "current": {},
        }  # fmt: skip
        if self.models:
            yield {
                "name": "model", "label": "User model", "type": "query", "datasource": _SOURCE,
                "query": {"query": f"label_values({self.models}, model)", "refId": "models"}, "refresh": 2, "hide": 0,
                "includeAll": True, "allValue": ".*", "multi": True, "sort": 1, "options": [],
                "current": {"text": ["All"], "value": ["$__all"]},
            }  # fmt: skip

    def _panels(self) -> Iterator[dict[str, Any]]:
        """Left to right, below each other where a row of the grid is full."""
        number, y = 0, 0
        for title, panels in self.rows.items():
            grid = {"h": 1, "w": COLUMNS, "x": 0, "y": y}
            yield {"id": (number := number + 1), "type": "row", "title": title, "collapsed": False, "gridPos": grid,
                   "panels": []}  # fmt: skip
            x, y = 0, y + 1
            for panel in panels:
                if x + panel.width > COLUMNS:
                    x, y = 0, y + HEIGHT
                yield panel.document(number := number + 1, x, y)
                x += panel.width
            y += HEIGHT


def quantile(q: float, histogram: str, *, by: str = "", where: str = "") -> str:
    """PromQL: the quantile of a histogram, for each value of the labels `by`."""
    labels = ", ".join(filter(None, ("le", by)))
    selected = f"{{{where}}}" if where else ""
    return f"histogram_quantile({q:g}, sum by ({labels}) (rate({histogram}_bucket{selected}[R])))"


def _way(kind: Kind) -> dict[str, Any]:
    """A table is of this moment, all else of the time that is shown."""
    if kind == "table":
        return {"instant": True, "range": False, "format": "table"}
    return {"range": True, **({"format": "heatmap"} if kind == "heatmap" else {})}


def _options(kind: Kind, unit: str) -> dict[str, Any]:
    if kind == "stat":
        calcs = {"calcs": ["lastNotNull"], "fields": "", "values": False}
        return {"reduceOptions": calcs, "colorMode": "value", "graphMode": "area", "textMode": "auto"}
    if kind == "heatmap":
        color = {"mode": "scheme", "scheme": "Oranges", "steps": 64}
        return {
            "calculate": False, "yAxis": {"unit": unit}, "color": color, "cellGap": 1, "legend": {"show": True},
            "tooltip": {"show": True, "yHistogram": False},
        }  # fmt: skip
    if kind == "table":
        return {"showHeader": True, "cellHeight": "sm"}
    return {
        "legend": {"displayMode": "list", "placement": "bottom", "showLegend": True},
        "tooltip": {"mode": "multi", "sort": "desc"},
    }
