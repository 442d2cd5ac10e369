"""Alerts: kept once, delivered at least once, to real servers that answer, refuse, fail and dawdle."""

from __future__ import annotations

import json
import logging
import re
import socket
import threading
import time
from collections.abc import Iterator
from datetime import date
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import get_args

import pytest
import typer
from pydantic import SecretStr

from features.lake import Lake
from infra.commands import cli
from infra.settings import LOOPBACK, REPOSITORY, Settings
from snapshots.alerts.book import Alert, decide_alerts, end_alerts, raise_alert, read_alerts, tell_again
from snapshots.alerts.events import read_events
from snapshots.alerts.kinds import FRESHNESS, KINDS, RUNBOOKS, runbook_of
from snapshots.alerts.notify import deliver, label_of
from snapshots.diagnosis import CauseKind
from snapshots.judgement.judge import NOT_COMPARABLE
from trainer.gate import Gate
from trainer.recipes import USER_MODELS

DS = date(2026, 1, 5)
SECRET = "T0pS3cr3t"  # noqa: S105


class Pager:
    """A webhook: what it received, and what it answers next."""

    def __init__(self) -> None:
        self.received: list[dict[str, str]] = []
        self.status = 200
        self.answer_after = 0.0
        pager = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                pager.received.append(body)
                time.sleep(pager.answer_after)
                self.send_response(pager.status)
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer((LOOPBACK, 0), Handler)
        self._server.daemon_threads = True
        self.url = f"json://{LOOPBACK}:{self._server.server_port}/{SECRET}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def pager() -> Iterator[Pager]:
    pager = Pager()
    yield pager
    pager.close()


@pytest.fixture
def told(settings: Settings, pager: Pager) -> Settings:
    """Settings whose alerts go to the pager."""
    return _to(settings, pager.url)


def _to(settings: Settings, *urls: str) -> Settings:
    return settings.model_copy(update={"alert_urls": SecretStr(" ".join(urls))})


def _refused() -> str:
    with socket.socket() as probe:
        probe.bind((LOOPBACK, 0))
        return f"json://{LOOPBACK}:{probe.getsockname()[1]}/{SECRET}"


def _raise(settings: Settings, ds: date = DS, *, kind: str = "ne", version: int | None = 5) -> Alert:
    return raise_alert(
        "tiny",
        ds,
        kind=kind,
        severity="warning",
        reasons=("ne of click is 1.2; more than 1 is rejected",),
        settings=settings,
        version=version,
        report="http://somewhere/report",
    )


def _alerts(settings: Settings) -> list[Alert]:
    return read_alerts(Lake(settings.lake), "tiny")


def test_an_alert_is_kept_and_told_once(told: Settings, pager: Pager) -> None:
    first = _raise(told)
    assert _raise(told) == first == _alerts(told)[0]
    (message,) = pager.received
    assert message["title"] == "[warning] tiny 2026-01-05 version 5: NE above its limit, or risen"
    for words in ("more than 1 is rejected", "http://somewhere/report", "infra/runbooks/ne.md", "--recipe tiny"):
        assert words in message["message"]
    assert first.reached == (label_of(pager.url),)
    assert first.undelivered is None
    assert [event.what for event in read_events(Lake(told.lake), "tiny")] == ["raised", "told"]


def test_another_day_version_or_kind_is_another_alert(told: Settings, pager: Pager) -> None:
    _raise(told)
    _raise(told, date(2026, 1, 6))
    _raise(told, version=6)
    _raise(told, kind="calibration")
    _raise(told, kind=FRESHNESS, version=None)
    assert len(pager.received) == len({alert.id for alert in _alerts(told)}) == 5


def test_two_at_once_tell_once(told: Settings, pager: Pager) -> None:
    threads = [threading.Thread(target=_raise, args=(told,)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(pager.received) == len(_alerts(told)) == 1


def test_without_urls_an_alert_is_a_row_and_a_line(settings: Settings, caplog: pytest.LogCaptureFixture) -> None:
    alert = _raise(settings)
    _raise(settings)
    assert (alert.reached, alert.undelivered) == ((), None)
    (line,) = [record.getMessage() for record in caplog.records if record.levelno == logging.ERROR]
    assert line.startswith("ALERT tiny 2026-01-05 version 5: NE above its limit, or risen: ne of click is 1.2")
    assert line.endswith("report: http://somewhere/report; runbook: infra/runbooks/ne.md")


def test_what_was_not_delivered_is_sent_again(settings: Settings, pager: Pager) -> None:
    pager.status = 503
    settings = _to(settings, pager.url)
    alert = _raise(settings)
    assert alert.undelivered == f"{label_of(pager.url)}: refused, or no answer, 3 times"
    pager.status, before = 200, len(pager.received)
    (alert,) = tell_again("tiny", settings=settings)
    assert alert.undelivered is None
    assert len(pager.received) == before + 1
    assert tell_again("tiny", settings=settings) == []
    assert len(pager.received) == before + 1


def test_one_target_down_does_not_tell_the_others_twice(settings: Settings, pager: Pager) -> None:
    down = _refused()
    settings = _to(settings, pager.url, down)
    assert label_of(down) in (_raise(settings).undelivered or "")
    _raise(settings)
    assert len(pager.received) == 1
    assert _alerts(settings)[0].reached == (label_of(pager.url),)


def test_killed_between_keeping_and_sending_it_is_sent_by_the_next(
    told: Settings, pager: Pager, monkeypatch: pytest.MonkeyPatch
) -> None:
    def die(*_args: object, **_kwargs: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("snapshots.alerts.book.deliver", die)
        with pytest.raises(KeyboardInterrupt):
            _raise(told)
    assert _alerts(told)[0].undelivered == "not sent yet"
    _raise(told)
    assert len(pager.received) == 1


@pytest.mark.parametrize(
    ("status", "answer_after", "failed"),
    [
        pytest.param(200, 0.0, "", id="answers"),
        pytest.param(500, 0.0, "refused", id="fails"),
        pytest.param(401, 0.0, "refused", id="forbids"),
        pytest.param(200, 5.0, "no answer within 1 s", id="dawdles"),
    ],
)
def test_delivery_ends_in_time_whatever_the_server_does(
    pager: Pager, status: int, answer_after: float, failed: str
) -> None:
    pager.status, pager.answer_after = status, answer_after
    import apprise  # noqa: F401  its import is slow

    started = time.monotonic()
    (why,) = deliver([pager.url], title="t", body="b", seconds=1.0 if answer_after else 5.0).values()
    assert time.monotonic() - started < 4
    assert why.startswith(failed)
    assert bool(why) == bool(failed)


@pytest.mark.parametrize(
    ("url", "failed"),
    [
        pytest.param("nonsense", "not a URL that Apprise knows", id="no URL"),
        pytest.param("carrierpigeon://coop/7", "not a URL that Apprise knows", id="no such service"),
    ],
)
def test_a_bad_url_harms_nobody(pager: Pager, url: str, failed: str) -> None:
    assert deliver([url, pager.url], title="t", body="b") == {label_of(url): failed, label_of(pager.url): ""}


def test_no_secret_is_logged_or_kept(
    settings: Settings, pager: Pager, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    pager.status = 500
    settings = _to(settings, pager.url, _refused(), f"nonsense-{SECRET}", f"json://{SECRET}@{LOOPBACK}:1/")
    with caplog.at_level(logging.INFO):
        alert = _raise(settings)
    printed = capfd.readouterr()
    for text in (caplog.text, printed.out, printed.err, repr(alert), repr(settings), str(alert.summary())):
        assert SECRET not in text
    kept = b"".join(path.read_bytes() for path in settings.home.rglob("*") if path.is_file())
    assert SECRET.encode() not in kept


def test_who_decided_what_when_and_why_is_kept(told: Settings) -> None:
    _raise(told)
    _raise(told, kind="calibration")
    other = _raise(told, version=6)

    def decide(decision: str, by: str, note: str) -> bool:
        return decide_alerts("tiny", DS, version=5, decision=decision, by=by, note=note, settings=told)

    assert decide("held", "alice", "waiting for the log")
    waiting = [alert for alert in _alerts(told) if alert.version == 5]
    assert [(alert.is_open, alert.decided_by, alert.note) for alert in waiting] == [
        (True, "alice", "waiting for the log")
    ] * 2
    assert decide("promoted", "bob", "a holiday")
    decided = [alert for alert in _alerts(told) if alert.version == 5]
    assert [(alert.is_open, alert.decision, alert.decided_by, alert.note) for alert in decided] == [
        (False, "promoted", "bob", "a holiday")
    ] * 2
    assert all(alert.decided_at is not None for alert in decided)
    assert other in _alerts(told), "another version's alert is untouched"
    events = read_events(Lake(told.lake), "tiny")
    assert decide("promoted", "bob", "a holiday")
    assert read_events(Lake(told.lake), "tiny") == events, "the same again changes nothing"
    assert [event.by for event in events if event.what == "decided"] == ["alice", "alice", "bob", "bob"]
    assert not decide_alerts("tiny", DS, version=9, decision="held", by="bob", note="", settings=told)


@pytest.mark.parametrize(
    ("promoted", "is_open"),
    [
        pytest.param(date(2026, 1, 4), True, id="an older day is promoted"),
        pytest.param(DS, False, id="the day is promoted"),
        pytest.param(date(2026, 1, 6), False, id="a later day is promoted"),
    ],
)
def test_a_promotion_ends_the_freshness_alarm(settings: Settings, promoted: date, is_open: bool) -> None:
    _raise(settings, kind=FRESHNESS, version=None)
    decide_alerts("tiny", promoted, version=1, decision="promoted", by="gate", note="", settings=settings)
    assert [alert.is_open for alert in _alerts(settings)] == [is_open]


def test_an_alarm_ends_by_itself(settings: Settings) -> None:
    _raise(settings, kind=FRESHNESS, version=None)
    _raise(settings, date(2026, 1, 7), kind=FRESHNESS, version=None)
    _raise(settings)
    end_alerts("tiny", {FRESHNESS}, until=date(2026, 1, 6), note="in time", settings=settings)
    assert [(alert.kind, alert.is_open) for alert in _alerts(settings)] == [
        (FRESHNESS, False),
        (FRESHNESS, True),
        ("ne", True),
    ]


GATES = [Gate(), *(make().gate for make in USER_MODELS.values())]
KINDS_OF_RULES = {rule.about for gate in GATES for rule in gate.rules} | {NOT_COMPARABLE}


@pytest.mark.parametrize("kind", sorted({*KINDS, *KINDS_OF_RULES, *get_args(CauseKind)}))
def test_every_kind_of_alert_has_a_runbook(kind: str) -> None:
    assert kind in KINDS
    text = (REPOSITORY / runbook_of(kind)).read_text()
    for heading in ("**Means.**", "**Look first.**", "**Do.**", "**Undo.**"):
        assert heading in text
    assert f"({kind}.md)" in (RUNBOOKS / "README.md").read_text()


@pytest.mark.parametrize("page", sorted(path.name for path in RUNBOOKS.glob("*.md")))
def test_every_command_and_page_of_a_runbook_exists(page: str) -> None:
    groups = typer.main.get_command(cli).commands  # type: ignore[attr-defined]
    text = (RUNBOOKS / page).read_text()
    for group, name, options in re.findall(r"`usermodel (\w+) ([\w-]+)([^`]*)`", text):
        known = {option for parameter in groups[group].commands[name].params for option in parameter.opts}
        assert set(re.findall(r"--[\w-]+", options)) <= known, f"usermodel {group} {name}{options}"
    for other in re.findall(r"\]\(([\w./-]+\.md)\)", text):
        assert (RUNBOOKS / other).exists(), other
    for path in re.findall(r"`((?:trainer|snapshots|dags|infra)/[\w./-]+)`", text):
        assert (REPOSITORY / path).exists(), path


def test_urls_are_kept_in_a_private_file(settings: Settings, pager: Pager) -> None:
    from infra.credentials import keep_secrets
    from infra.services import where_alerts_go

    assert "nobody" in where_alerts_go(settings)
    chosen = _to(settings, pager.url, "slack://a/b/c")
    kept = chosen.remember()
    keep_secrets(kept)
    assert settings.alert_targets() == (pager.url, "slack://a/b/c"), "a process without the variable finds the file"
    assert settings.alert_urls_file.stat().st_mode & 0o777 == 0o600
    assert "ALERT" not in (settings.home / "settings.env").read_text()
    assert where_alerts_go(settings) == "Alerts   json, slack"
    settings.alert_urls_file.write_text(f"# the pager\n\n{pager.url}\n")
    assert settings.alert_targets() == (pager.url,)
