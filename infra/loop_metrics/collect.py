"""Read the facts once. It imports what it reads with (MLflow, Delta), and is therefore a process that ends."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection, Iterable, Sequence
from datetime import UTC, date, datetime
from typing import TYPE_CHECKING, get_args

from infra.credentials import airflow_passwords_file
from infra.loop_metrics import families
from infra.settings import Settings

if TYPE_CHECKING:
    from prometheus_client import Gauge

    from serving.metrics import Metric
    from snapshots.registry import Registry, Version
    from trainer.recipe import Recipe

log = logging.getLogger(__name__)

MOVED = ("same_inputs", "consecutive_days")
"""The kinds of shift that are of all users; those of single features stay in the report."""


class Facts:
    """The page that is being filled."""

    def __init__(self) -> None:
        from prometheus_client import CollectorRegistry

        self._registry = CollectorRegistry()
        self._gauges: dict[str, Gauge] = {}

    def set(self, metric: Metric, value: float | None, *labels: object) -> None:
        """None: it is not known, and is not said."""
        if value is not None:
            if metric.name not in self._gauges:
                self._gauges[metric.name] = metric.gauge(self._registry)
            gauge = self._gauges[metric.name]
            (gauge.labels(*map(str, labels)) if labels else gauge).set(value)

    def text(self) -> bytes:
        """For Prometheus. What was never set is left out: a gauge without labels would say 0."""
        from prometheus_client import generate_latest

        return generate_latest(self._registry)


def collect(recipes: Sequence[Recipe], *, settings: Settings, now: datetime) -> bytes:
    """The page. A source that fails is logged and says so (`usermodel_loop_up`); what the others say is there.

    now: aware of its time zone. Of those of the user models that have a version or an alert. Airflow is asked where its
    passwords are at hand (<home>/credentials/airflow_passwords.json).
    """
    from snapshots.registry import Registry

    began, facts = time.monotonic(), Facts()
    registry = Registry(settings)
    alive: list[Version] = []
    _source(facts, "registry", lambda: alive.extend(_registered(facts, recipes, registry, now=now)))
    _source(facts, "lake", lambda: _judged(facts, alive, settings))
    _source(facts, "alerts", lambda: _alerts(facts, recipes, {one.model for one in alive}, settings))
    _source(facts, "checkpoints", lambda: _trained(facts, [version.model for version in alive], settings))
    if airflow_passwords_file(settings).exists():
        _source(facts, "airflow", lambda: _alive(facts, settings))
    facts.set(families.COLLECTED, now.timestamp())
    facts.set(families.COLLECTION, time.monotonic() - began)
    return facts.text()


def _source(facts: Facts, name: str, read: Callable[[], object]) -> None:
    """Whatever goes wrong with one is no reason to say nothing of the others."""
    try:
        read()
    except Exception as error:
        log.error("the loop's metrics lack what %s says: %s", name, error)
        facts.set(families.UP, 0, name)
    else:
        facts.set(families.UP, 1, name)


def _registered(facts: Facts, recipes: Iterable[Recipe], registry: Registry, *, now: datetime) -> list[Version]:
    """The newest day's newest version of every model that has one."""
    from snapshots.freshness import freshness

    newest = []
    for recipe in recipes:
        if not (versions := registry.versions(recipe.name)):
            continue
        newest.append(max(versions, key=lambda version: (version.ds, version.number)))
        _decided(facts, versions, newest[-1])
        champion = registry.alias(recipe.name, "champion")
        if champion is not None:
            facts.set(families.CHAMPION, champion.number, recipe.name)
            facts.set(families.DAY, _start(champion.ds), recipe.name, "champion")
        found = freshness(recipe, now=now, settings=registry.settings)
        facts.set(families.DAYS_BEHIND, found.days_behind, recipe.name)
    return newest


def _decided(facts: Facts, versions: list[Version], newest: Version) -> None:
    from snapshots.registry import Decision

    model = newest.model
    for decision in get_args(Decision):
        days = [version.ds for version in versions if version.decision == decision]
        facts.set(families.VERSIONS, len(days), model, decision)
        facts.set(families.NEWEST, newest.decision == decision, model, decision)
        if days and decision != "pending":
            facts.set(families.DAY, _start(max(days)), model, decision)
    facts.set(families.DAY, _start(newest.ds), model, "registered")
    for task, values in newest.metrics.items():
        facts.set(families.NE, values.get("ne"), model, task)
        facts.set(families.CALIBRATION, values.get("calibration"), model, task)


def _judged(facts: Facts, newest: Iterable[Version], settings: Settings) -> None:
    """What the gate kept of each; nothing before it judged."""
    from features.lake import Lake
    from snapshots.judgement.check import SEVERITY
    from snapshots.judgement.rows import read_judged
    from snapshots.judgement.values import COUNTS
    from snapshots.registry import partition_from
    from snapshots.shift.rows import EVERYONE

    lake = Lake(settings.lake)
    counts = {"users": families.USERS, "examples": families.EXAMPLES, "coverage": families.COVERAGE}
    for version in newest:
        if (partition := partition_from(version.tags, "gate", version.ds)) is None:
            continue
        gravest: dict[str, int] = {}
        for row in read_judged(lake, partition):
            if row.about:
                gravest[row.about] = max(gravest.get(row.about, 0), SEVERITY[row.verdict])  # type: ignore[index]
            if row.users != EVERYONE:
                continue
            if row.kind == COUNTS and row.metric in counts:
                facts.set(counts[row.metric], row.value, version.model)
            elif row.kind in MOVED and (not row.subject or row.subject.startswith("embedding ")):
                embedding = row.subject.removeprefix("embedding ")
                facts.set(families.SHIFT, row.value, version.model, row.kind, row.metric, embedding, row.pooling)
        for about, verdict in gravest.items():
            facts.set(families.VERDICT, verdict, version.model, about)


def _alerts(facts: Facts, recipes: Iterable[Recipe], known: Collection[str], settings: Settings) -> None:
    """Zeros beside what is open: a rule sees an alert end. known: models that have a version."""
    from collections import Counter

    from features.lake import Lake
    from snapshots.alerts.book import read_alerts
    from snapshots.alerts.kinds import KINDS, Severity

    lake = Lake(settings.lake)
    for recipe in recipes:
        alerts = read_alerts(lake, recipe.name)
        if not alerts and recipe.name not in known:
            continue
        still = [alert for alert in alerts if alert.is_open]
        found = Counter({(kind, severity): 0 for kind in KINDS for severity in get_args(Severity)})
        found.update((alert.kind, alert.severity) for alert in still)
        for (kind, severity), count in found.items():
            facts.set(families.ALERTS, count, recipe.name, kind, severity)
        oldest = min((alert.raised_at.timestamp() for alert in still), default=0)
        facts.set(families.OLDEST_ALERT, oldest, recipe.name)
        facts.set(families.UNDELIVERED, sum(alert.is_waiting for alert in alerts), recipe.name)


def _trained(facts: Facts, models: Iterable[str], settings: Settings) -> None:
    from trainer.trained import trained_days

    for model in models:
        if not (days := trained_days(settings, model)):
            continue
        facts.set(families.TRAINING_SECONDS, days[-1].seconds, model)
        facts.set(families.TRAINING_RESUMED, days[-1].resumed, model)
        if days[-1].seconds:
            facts.set(families.TRAINING_RATE, days[-1].num_examples / days[-1].seconds, model)


def _alive(facts: Facts, settings: Settings) -> None:
    """Who runs the loop, as Airflow says that hears them."""
    from infra.airflow import Airflow
    from infra.orchestrator import airflow_token

    with Airflow(settings, token=airflow_token(settings)) as airflow:
        facts.set(families.SCHEDULERS, airflow.alive_schedulers())
        facts.set(families.SCHEDULERS_WANTED, settings.schedulers)
        for worker in airflow.workers() if settings.edge_queues() else ():
            facts.set(families.LOST_WORKER, worker.is_lost, worker.name)


def _start(ds: date) -> float:
    return datetime(ds.year, ds.month, ds.day, tzinfo=UTC).timestamp()
