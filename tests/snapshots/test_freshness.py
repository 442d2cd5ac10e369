"""The freshness alarm: whose deadline has passed, once per missed day, ended by a promotion."""

from __future__ import annotations

import socket
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta

import pytest

from features.lake import Lake
from infra.settings import LOOPBACK, Settings
from snapshots.alerts.book import Alert, read_alerts
from snapshots.alerts.held import tell_promoted
from snapshots.freshness import check_freshness, due_day, freshness
from snapshots.registry import Registry
from tests.snapshots.world import DAYS, make_tower, publish_day
from trainer.recipe import Recipe, Schedule
from trainer.tracking import TrackingUnavailableError

START = date(2026, 1, 1)
OPEN_END = Schedule(start=START)
SAO_PAULO = Schedule(start=START, timezone="Etc/GMT+3")
ENDED = Schedule(start=START, end=date(2026, 1, 3))
DST = Schedule(start=START, timezone="Europe/Berlin", promote_by=timedelta(hours=1))


def _at(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


@pytest.mark.parametrize(
    ("schedule", "now", "due"),
    [
        pytest.param(OPEN_END, "2026-01-01T23:00", None, id="the first day runs"),
        pytest.param(OPEN_END, "2026-01-02T11:59", None, id="a minute before the first deadline"),
        pytest.param(OPEN_END, "2026-01-02T12:00", START, id="the first deadline"),
        pytest.param(OPEN_END, "2026-01-03T11:59", START, id="a minute before the second"),
        pytest.param(OPEN_END, "2026-03-01T12:00", date(2026, 2, 28), id="months later"),
        pytest.param(SAO_PAULO, "2026-01-02T14:59", None, id="the day ends three hours later"),
        pytest.param(SAO_PAULO, "2026-01-02T15:00", START, id="and so does its deadline"),
        pytest.param(ENDED, "2026-01-04T12:00", date(2026, 1, 3), id="the last day"),
        pytest.param(ENDED, "2026-01-05T12:00", None, id="a schedule that has ended is never late"),
        pytest.param(ENDED, "2026-11-21T00:00", None, id="a backfill of old days, months later"),
        pytest.param(DST, "2026-03-29T00:00", date(2026, 3, 28), id="before the clocks go forward"),
        pytest.param(DST, "2026-03-29T22:59", date(2026, 3, 28), id="a day of 23 hours is not over"),
        pytest.param(DST, "2026-03-29T23:00", date(2026, 3, 29), id="a day of 23 hours"),
    ],
)
def test_the_day_that_is_due(schedule: Schedule, now: str, due: date | None) -> None:
    assert due_day(schedule, _at(now)) == due


def _promote(recipe: Recipe, ds: date, settings: Settings) -> None:
    version = publish_day(recipe, ds, make_tower(recipe), settings=settings)
    tell_promoted(Registry(settings).decide(version, "promoted", by="gate", note=""), settings=settings)


def _alarms(settings: Settings) -> list[Alert]:
    return read_alerts(Lake(settings.lake), "tiny")


def test_one_alarm_per_missed_day_until_one_is_promoted(recipe: Recipe, settings: Settings) -> None:
    _promote(recipe, DAYS[0], settings)
    assert check_freshness(recipe, now=_at("2026-01-02T13:00"), settings=settings).days_behind == 0
    assert _alarms(settings) == []
    for hour in ("2026-01-03T12:05", "2026-01-03T13:05", "2026-01-04T11:05"):
        found = check_freshness(recipe, now=_at(hour), settings=settings)
        assert found.sentence == "tiny: 2026-01-02 was due; the newest promoted day is 2026-01-01: 1 days behind"
    assert check_freshness(recipe, now=_at("2026-01-04T12:05"), settings=settings).days_behind == 2
    assert [(alarm.kind, alarm.ds, alarm.is_open) for alarm in _alarms(settings)] == [
        ("freshness", DAYS[1], True),
        ("freshness", DAYS[2], True),
    ]
    _promote(recipe, DAYS[1], settings)
    assert [alarm.is_open for alarm in _alarms(settings)] == [False, True], "one day is still late"
    _promote(recipe, DAYS[3], settings)
    assert [alarm.is_open for alarm in _alarms(settings)] == [False, False]
    assert _alarms(settings)[1].decided_by == "gate"


def test_a_model_that_never_promoted_is_late(recipe: Recipe, settings: Settings) -> None:
    found = freshness(recipe, now=_at("2026-01-03T12:00"), settings=settings)
    assert (found.promoted, found.days_behind) == (None, 2)
    assert found.sentence == "tiny: 2026-01-02 was due; no day was ever promoted: 2 days behind"


def test_a_schedule_that_has_ended_raises_nothing(recipe: Recipe, settings: Settings) -> None:
    ended = replace(recipe, schedule=ENDED)
    found = check_freshness(ended, now=_at("2026-11-21T00:00"), settings=settings)
    assert (found.due, found.days_behind, _alarms(settings)) == (None, 0, [])


def test_mlflow_down_is_an_alert_that_ends_when_it_answers(recipe: Recipe, settings: Settings) -> None:
    with socket.socket() as probe:
        probe.bind((LOOPBACK, 0))
        down = settings.model_copy(update={"mlflow_uri": f"http://{LOOPBACK}:{probe.getsockname()[1]}"})
        for minute in ("00", "30"):
            with pytest.raises(TrackingUnavailableError):
                check_freshness(recipe, now=_at(f"2026-01-02T11:{minute}"), settings=down)
    (alert,) = _alarms(settings)
    assert (alert.kind, alert.severity, alert.is_open) == ("mlflow-down", "critical", True)
    check_freshness(recipe, now=_at("2026-01-02T11:45"), settings=settings)
    (alert,) = _alarms(settings)
    assert (alert.is_open, alert.note) == (False, "MLflow answers")


def test_consumers_that_do_not_learn_are_late_after_two_days(recipe: Recipe, settings: Settings) -> None:
    registry = Registry(settings)

    def alarms_at(now: str) -> list[tuple[date, int | None, str]]:
        check_freshness(recipe, now=_at(now), settings=settings)
        return [(a.ds, a.version, a.reasons[0]) for a in _alarms(settings) if a.is_open and a.kind == "not-learnt"]

    for ds in DAYS[:3]:
        _promote(recipe, ds, settings)
        registry.tag(registry.get("tiny", ds), {"waits_for": "one two"})
    assert alarms_at("2026-01-04T11:59") == [], "consumers had no whole day"
    late = (DAYS[0], 1, "version 1 of 2026-01-01 does not serve: one, two did not learn it")
    for hour in ("2026-01-04T12:00", "2026-01-04T13:00", "2026-01-05T12:00"):
        assert alarms_at(hour) == [late], "the oldest alone, once"
    registry.tag(registry.get("tiny", DAYS[0]), {"waits_for": ""})
    assert [of[:2] for of in alarms_at("2026-01-05T13:00")] == [(DAYS[1], 2)]
    registry.tag(registry.get("tiny", DAYS[1]), {"waits_for": ""})
    assert alarms_at("2026-01-06T13:00") == [], "the newest is learnt with the next"
    registry.tag(registry.get("tiny", DAYS[0]), {"waits_for": "one"})
    registry.set_alias("tiny", "champion", 2)
    assert alarms_at("2026-01-06T14:00") == [], "what waits behind the champion holds nothing back"
