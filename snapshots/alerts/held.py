"""Alerts of what becomes of a version: the seam between promotion and the on-call."""

from __future__ import annotations

from pathlib import Path

from infra.settings import Settings
from snapshots.alerts.book import decide_alerts, raise_alert
from snapshots.alerts.kinds import BY_HAND, DAMAGED_SNAPSHOT, ROLLED_BACK, Severity
from snapshots.gate import Decision
from snapshots.registry import BY_GATE, Version


def tell_withheld(version: Version, judged: Decision, *, report: Path, settings: Settings) -> None:
    """The version is held or rejected: the gate raises an alert, a person decides those that there are."""
    by, note = version.tags["decided_by"], version.tags["note"]
    if by != BY_GATE and _decided(version, settings):
        return
    kind = judged.grave[0].about if by == BY_GATE and judged.grave else BY_HAND
    severity: Severity = "info" if by != BY_GATE else "critical" if version.decision == "rejected" else "warning"
    raise_alert(
        version.model,
        version.ds,
        kind=kind,
        severity=severity,
        reasons=judged.reasons if by == BY_GATE else (f"{version.decision} by {by}: {note}",),
        settings=settings,
        version=version.number,
        what=f"{version.decision} by {by}",
        report=" ".join(filter(None, (report_link(version, settings), str(report)))),
    )
    if by != BY_GATE:
        _decided(version, settings)


def tell_promoted(version: Version, *, settings: Settings) -> None:
    """The version is promoted: its alerts are decided, and the alarms that no day was promoted end."""
    _decided(version, settings)


def tell_rolled_back(version: Version, *, settings: Settings) -> None:
    """The version was the champion until a person went back from it."""
    by, note = version.tags["decided_by"], version.tags["note"]
    raise_alert(
        version.model,
        version.ds,
        kind=ROLLED_BACK,
        severity="warning",
        reasons=(f"{note}, by {by}",),
        settings=settings,
        version=version.number,
        what=f"rolled back by {by}",
        report=report_link(version, settings),
    )
    _decided(version, settings)


def tell_damaged(version: Version, error: Exception, *, settings: Settings) -> None:
    """The version cannot be promoted, nor gone back to."""
    raise_alert(
        version.model,
        version.ds,
        kind=DAMAGED_SNAPSHOT,
        severity="critical",
        reasons=(str(error),),
        settings=settings,
        version=version.number,
        report=report_link(version, settings),
    )


def report_link(version: Version, settings: Settings) -> str:
    """The version's page in MLflow, where its report is; empty where there is no server."""
    if not settings.mlflow.startswith("http"):
        return ""
    return f"{settings.mlflow}/#/models/{version.model}/versions/{version.number}"


def _decided(version: Version, settings: Settings) -> bool:
    return decide_alerts(
        version.model,
        version.ds,
        version=version.number,
        decision=version.decision,
        by=version.tags["decided_by"],
        note=version.tags["note"],
        settings=settings,
    )
