"""The alerts of a model: raise, tell, decide. Each can be repeated: an alert is one per day, version and kind."""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from datetime import date, datetime

from features.lake import Lake
from infra.settings import Settings
from snapshots.alerts.events import Event, append_event, now, read_events
from snapshots.alerts.kinds import FRESHNESS, KINDS, TOLD_AFTERWARDS, Severity, runbook_of
from snapshots.alerts.notify import deliver, label_of
from snapshots.lock import model_lock
from snapshots.summary import Summarised

log = logging.getLogger(__name__)

HELD = "held"


@dataclass(frozen=True, kw_only=True)
class Alert(Summarised):
    """What is known of one alert by now."""

    id: str
    model: str
    ds: date
    version: int | None
    kind: str
    severity: str
    title: str
    reasons: tuple[str, ...]
    report: str
    runbook: str
    raised_at: datetime
    reached: tuple[str, ...] = ()
    """Who was told, by `label_of`."""
    undelivered: str | None = "not sent yet"
    """Why somebody was not told; None: everybody was, or there is nobody to tell."""
    decision: str = ""
    decided_by: str = ""
    decided_at: datetime | None = None
    note: str = ""

    @property
    def is_open(self) -> bool:
        """Nobody decided, or somebody decided to wait."""
        return self.decision in ("", HELD)

    @property
    def is_waiting(self) -> bool:
        """Somebody is still to be told."""
        return self.undelivered is not None and (self.is_open or self.kind in TOLD_AFTERWARDS)


def read_alerts(lake: Lake, model: str) -> list[Alert]:
    """Every alert of the model, oldest first."""
    found: dict[str, Alert] = {}
    # a machine whose clock is behind may have decided what another had yet to raise
    for event in sorted(read_events(lake, model), key=lambda event: event.what != "raised"):
        if event.what == "raised":
            found.setdefault(event.id, _raised(model, event))
        elif event.id in found:
            found[event.id] = _after(found[event.id], event)
    return list(found.values())


def raise_alert(
    model: str,
    ds: date,
    *,
    kind: str,
    severity: Severity,
    reasons: Sequence[str],
    settings: Settings,
    version: int | None = None,
    what: str = "",
    report: str = "",
) -> Alert:
    """Keep the alert and tell the on-call; told before, or decided, it is left as it is.

    It is kept before it is sent, so it is delivered at least once: what could not be sent is sent by the next call.
    """
    of = str(ds) if version is None else f"{ds}-v{version}"
    identity, lake = f"{model}-{of}-{kind}", Lake(settings.lake)
    with _book(model, settings):
        alert = _find(lake, model, identity)
        if alert is None:
            title = f"{model} {ds}" + (f" version {version}" if version is not None else "")
            title += f" {what}" * bool(what) + f": {KINDS.get(kind, kind)}"
            raised = Event(
                id=identity, ds=ds, what="raised", at=now(), version=version, kind=kind, severity=severity,
                title=title, reasons=tuple(reasons), report=report, runbook=runbook_of(kind),
            )  # fmt: skip
            append_event(lake, model, raised)
            alert = _raised(model, raised)
            log.error("ALERT %s: %s; report: %s; runbook: %s", title, "; ".join(reasons), report, alert.runbook)
        return _tell(alert, lake, settings)


def tell_again(model: str, *, settings: Settings) -> list[Alert]:
    """Send every alert that somebody is still to be told of."""
    lake = Lake(settings.lake)
    with _book(model, settings):
        return [_tell(alert, lake, settings) for alert in read_alerts(lake, model) if alert.is_waiting]


def decide_alerts(
    model: str,
    ds: date,
    *,
    version: int,
    decision: str,
    by: str,
    note: str,
    settings: Settings,
) -> bool:
    """Keep who decided what and why with each open alert of the version, and with the freshness alarms that a
    promotion ends. False when the version never had an alert."""
    lake = Lake(settings.lake)
    with _book(model, settings):
        alerts = read_alerts(lake, model)
        mine = [alert for alert in alerts if alert.version == version and alert.ds == ds]
        overdue = [alert for alert in alerts if decision == "promoted" and alert.kind == FRESHNESS and alert.ds <= ds]
        _decide([*mine, *overdue], lake, decision=decision, by=by, note=note)
        return bool(mine)


def end_alerts(model: str, kinds: Collection[str], *, until: date, note: str, settings: Settings) -> None:
    """The model's open alerts of `kinds`, of days until `until`, have passed by themselves."""
    lake = Lake(settings.lake)
    with _book(model, settings):
        past = [alert for alert in read_alerts(lake, model) if alert.kind in kinds and alert.ds <= until]
        _decide(past, lake, decision="passed", by="", note=note)


def _decide(alerts: Iterable[Alert], lake: Lake, *, decision: str, by: str, note: str) -> None:
    for alert in alerts:
        if alert.is_open and (alert.decision, alert.decided_by, alert.note) != (decision, by, note):
            event = Event(id=alert.id, ds=alert.ds, what="decided", at=now(), decision=decision, by=by, note=note)
            append_event(lake, alert.model, event)
            log.info("alert decided id=%s %s by=%s", alert.id, decision, by or "nobody")


def _tell(alert: Alert, lake: Lake, settings: Settings) -> Alert:
    """Send it to whom it has not reached; what comes of it is kept. Never raises for a target's fault."""
    if not alert.is_waiting:
        return alert
    urls = [url for url in settings.alert_targets() if label_of(url) not in alert.reached]
    failed = deliver(urls, title=f"[{alert.severity}] {alert.title}", body=_body(alert))
    why = "; ".join(f"{label}: {reason}" for label, reason in sorted(failed.items()) if reason)
    if why:
        log.error("ALERT %s was not delivered: %s; runbook: infra/runbooks/undelivered.md", alert.id, why)
    told = Event(
        id=alert.id,
        ds=alert.ds,
        what="not told" if why else "told",
        at=now(),
        reached=tuple(sorted(label for label, reason in failed.items() if not reason)),
        note=why,
    )
    append_event(lake, alert.model, told)
    return _after(alert, told)


def _body(alert: Alert) -> str:
    lines = [f"- {reason}" for reason in alert.reasons]
    lines += [f"Report: {alert.report}"] if alert.report else []
    lines += [f"Runbook: {alert.runbook}", f"All alerts: usermodel snapshots alerts --recipe {alert.model}"]
    return "\n".join(lines)


def _find(lake: Lake, model: str, identity: str) -> Alert | None:
    return next((alert for alert in read_alerts(lake, model) if alert.id == identity), None)


def _raised(model: str, event: Event) -> Alert:
    return Alert(
        id=event.id,
        model=model,
        ds=event.ds,
        version=event.version,
        kind=event.kind,
        severity=event.severity,
        title=event.title,
        reasons=event.reasons,
        report=event.report,
        runbook=event.runbook,
        raised_at=event.at,
    )


def _after(alert: Alert, event: Event) -> Alert:
    if event.what == "decided":
        return replace(alert, decision=event.decision, decided_by=event.by, decided_at=event.at, note=event.note)
    reached = tuple(sorted({*alert.reached, *event.reached}))
    return replace(alert, reached=reached, undelivered=event.note if event.what == "not told" else None)


def _book(model: str, settings: Settings) -> AbstractContextManager[object]:
    """One writer at a time: of two that raise the same alert, one sends it."""
    return model_lock(settings, f"{model}.alerts")
