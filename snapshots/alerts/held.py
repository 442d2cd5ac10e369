"""Alerts of what becomes of a version: the seam between promotion and the on-call."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from infra.settings import Settings
from snapshots.alerts.book import decide_alerts, raise_alert
from snapshots.alerts.kinds import BY_HAND, DAMAGED_SNAPSHOT, ROLLED_BACK, UNKNOWN, Severity
from snapshots.diagnosis import Cause
from snapshots.gate import Decision
from snapshots.registry import BY_GATE, Registry, Version
from snapshots.runs import links_of


def tell_withheld(
    version: Version, judged: Decision, causes: Sequence[Cause], *, report: Path, settings: Settings
) -> None:
    """The version is held or rejected: the gate raises an alert, a person decides those that there are.

    causes: most probable first. The alert, and so its runbook, is of the first that is known, else of the gravest rule.
    """
    by, note = version.tags["decided_by"], version.tags["note"]
    if by != BY_GATE and _decided(version, settings):
        return
    kind, reasons = BY_HAND, [f"{version.decision} by {by}: {note}"]
    if by == BY_GATE and judged.grave:
        known = [cause for cause in causes if cause.kind != UNKNOWN]
        kind = next((cause.kind for cause in known), judged.grave[0].about)
        reasons = [*(f"Probable cause: {cause.kind}. {cause.sentence}" for cause in known), *judged.reasons]
    severity: Severity = "info" if by != BY_GATE else "critical" if version.decision == "rejected" else "warning"
    raise_alert(
        version.model,
        version.ds,
        kind=kind,
        severity=severity,
        reasons=reasons,
        settings=settings,
        version=version.number,
        what=f"{version.decision} by {by}",
        report=" ".join(filter(None, (links_of(Registry(settings), version).report, str(report)))),
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
        report=links_of(Registry(settings), version).version,
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
        report=links_of(Registry(settings), version).version,
    )


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
