"""The report to read, and to keep: with the version's run in MLflow."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING

from features.lake import Lake
from infra.settings import Settings
from snapshots.description import describe
from snapshots.registry import Registry
from snapshots.report.findings import Findings, find
from snapshots.report.html import render_page
from snapshots.report.render import render
from snapshots.report.sample import sampled_movement
from snapshots.runs import REPORT, log_text

if TYPE_CHECKING:
    from snapshots.diagnosis import Cause
    from trainer.recipe import Recipe

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Report:
    """text: Markdown. page: HTML."""

    text: str
    page: str
    causes: Sequence[Cause]
    path: Path
    """The Markdown on this machine, for whom MLflow is out of reach; the page lies beside it."""


def read_report(recipe: Recipe, ds: date, *, settings: Settings) -> str:
    """The day's report, as Markdown. ValueError names the step that has not run."""
    return render(find(recipe, ds, settings=settings))


def write_report(recipe: Recipe, ds: date, *, settings: Settings) -> Report:
    """The report, under `<home>/reports/<model>` and with the version's run in MLflow as `report/report.md` and
    `report/report.html`, its gist as the version's description. Written twice, the later one stays."""
    registry = Registry(settings)
    findings = find(recipe, ds, settings=settings)
    path = settings.home / "reports" / recipe.name / f"{ds}.md"
    report = Report(text=render(findings), page=_page(findings, Lake(settings.lake)), causes=findings.causes, path=path)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(report.text, encoding="utf-8")
    path.with_suffix(".html").write_text(report.page, encoding="utf-8")
    log_text(registry, findings.version, report.text, "report/report.md")
    log_text(registry, findings.version, report.page, REPORT)
    registry.describe(
        findings.version,
        describe(findings.version, findings.parent, links=findings.links, decision=findings.decision),
    )
    log.info("report model=%s ds=%s version=%d", recipe.name, ds, findings.version.number)
    return report


def _page(findings: Findings, lake: Lake) -> str:
    before = findings.previous.embeddings if findings.previous else None
    after = findings.version.embeddings
    tower = findings.recipe.user_tower
    if before is None or after is None:
        return render_page(findings, ())
    sampled = sampled_movement(lake, before, after, num_embeddings=tower.num_embeddings, dim=tower.dim)
    return render_page(findings, tuple(sampled))
