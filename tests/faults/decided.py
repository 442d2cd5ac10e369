"""Faults between a trained tower and its promotion: a space that moved, damaged or missing snapshots, MLflow down."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable, Iterator
from contextlib import chdir
from dataclasses import dataclass
from datetime import date, timedelta

import pyarrow as pa
import torch
from pydantic import SecretStr

from features.fingerprint import fingerprint
from features.lake import Lake
from infra.settings import Settings
from snapshots.alerts.book import read_alerts
from snapshots.embeddings import table_of
from snapshots.gate import gate
from snapshots.inference import infer
from snapshots.promotion import hold, promote
from snapshots.registry import Registry, Version
from snapshots.seal import DamagedError
from snapshots.shift.measure import check_shift
from tests.experiments.detection_faults import TowerFault, collapse, rotate, scale
from tests.faults.attempts import settings_of
from tests.faults.damage import cut, flip
from tests.faults.scenario import Outcome, Trial, error_of
from tests.faults.tracking import Loss, flaky_server
from tests.snapshots.test_alerts import Pager
from tests.snapshots.world import START, commit_users, make_tower, publish_day, tiny_recipe
from trainer.model.user_tower import UserTower

RECIPE = tiny_recipe()
NUM_USERS = 200
_STILL = 0.001

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Days:
    """Days of the tiny model, decided one after the other."""

    settings: Settings

    @property
    def registry(self) -> Registry:
        """A new client each time."""
        return Registry(self.settings)

    @property
    def lake(self) -> Lake:
        """Opened anew: nothing is remembered as verified."""
        return Lake(self.settings.lake)

    def publish(self, number: int, edit: Callable[[UserTower], None] | None = None) -> Version:
        """The number-th day: users, and a tower that moved a little from the day before."""
        ds = day(number)
        commit_users(self.lake, ds, range(NUM_USERS))
        tower = make_tower(RECIPE, noise=_STILL * number)
        if edit is not None:
            with torch.no_grad():
                edit(tower)
        parent = self.registry.find("tiny", day(number - 1)) if number else None
        return publish_day(RECIPE, ds, tower, settings=self.settings, parent=parent)

    def judge(self, number: int) -> str:
        """Embedded, measured and judged: the verdict."""
        ds = day(number)
        infer(RECIPE, ds, settings=self.settings)
        check_shift(RECIPE, ds, settings=self.settings)
        return gate(RECIPE, ds, settings=self.settings).verdict

    def promote(self, number: int) -> None:
        """As the gate does."""
        promote(RECIPE, day(number), settings=self.settings, by="gate")

    def quiet(self, number: int) -> Version:
        """From publishing to promotion."""
        version = self.publish(number)
        assert self.judge(number) == "promote", f"quiet day {number} was held"
        self.promote(number)
        return version

    def seen(self) -> tuple[dict[str, int], dict[date, int]]:
        """What consumers see: the aliases but `candidate`, and the rows of every day of their table."""
        aliases = self.registry.aliases("tiny")
        aliases.pop("candidate", None)
        found = self.lake.find_all(table_of("tiny"), self.lake.days(table_of("tiny")))
        return aliases, {ds: self.lake.dataset(part).count_rows() for ds, part in found.items()}


def day(number: int) -> date:
    """The number-th."""
    return START + timedelta(days=number)


def _days(trial: Trial, *, uri: str = "", alert_urls: str = "") -> Days:
    if not uri:
        store = shutil.copy(trial.world.store, trial.folder / "mlflow.db")
        uri = f"sqlite:///{store}"
    told = {"mlflow_uri": uri, "alert_urls": SecretStr(alert_urls)}
    return Days(settings=settings_of(trial.folder / "home").model_copy(update=told))


def _within(trial: Trial, play: Callable[[Trial], Outcome]) -> Outcome:
    with chdir(trial.folder):  # MLflow's artifacts land in the working directory
        return play(trial)


def space_moved(trial: Trial) -> Outcome:
    """A day whose space turned, grew or collapsed: aliases and consumers' table stay, the on-call is told, once."""
    return _within(trial, _space_moved)


def _space_moved(trial: Trial) -> Outcome:
    pager = Pager()
    try:
        days = _days(trial, alert_urls=pager.url)
        days.quiet(0)
        days.quiet(1)
        edits: list[tuple[TowerFault, float]] = [(rotate, 90.0), (scale, 8.0), (collapse, 1.0)]
        edits += [(rotate, 120.0), (scale, 0.1)] if not trial.quick else []
        broken = [line for number, edit in enumerate(edits, start=2) for line in _moved(days, number, *edit, pager)]
    finally:
        pager.close()
    return Outcome(injected=len(edits), broken=tuple(broken), lost="the days, until a person decides")


def _moved(days: Days, number: int, edit: TowerFault, magnitude: float, pager: Pager) -> Iterator[str]:
    """What was not as promised."""
    before, told = days.seen(), len(pager.received)
    days.publish(number, lambda tower: edit(tower, magnitude))
    verdict = days.judge(number)
    for _ in range(2):  # a retried task tells nobody twice
        hold(RECIPE, day(number), settings=days.settings)
    alerts = [alert for alert in read_alerts(days.lake, "tiny") if alert.ds == day(number) and alert.is_open]
    if verdict != "hold" or days.seen() != before or len(alerts) != 1 or len(pager.received) != told + 1:
        told_now = len(pager.received) - told
        yield f"{edit.__name__} {magnitude:g}: {verdict}, {days.seen()} after {before}, {alerts}, told {told_now} times"


def damaged_between_steps(trial: Trial) -> Outcome:
    """A bit flipped or the end cut off in a day's snapshot between two steps: every later step refuses it by name; in
    its parent's: the day waits for a person. Restored, the day goes on."""
    return _within(trial, _damaged_between_steps)


def _damaged_between_steps(trial: Trial) -> Outcome:
    draw, days, broken = trial.draw(), _days(trial), []
    days.quiet(0)
    version = days.publish(1)
    steps: dict[str, Callable[[], object]] = {
        "publish": lambda: days.publish(1),
        "infer": lambda: infer(RECIPE, day(1), settings=days.settings),
        "shift": lambda: check_shift(RECIPE, day(1), settings=days.settings),
        "promote": lambda: days.promote(1),
    }
    before = days.seen()
    for name, step in steps.items():
        path = draw.choice(sorted(version.path.iterdir()))
        kept = path.read_bytes()
        path.chmod(0o644)
        if draw.random() < 0.3:
            cut(path, draw.random())
        else:
            flip(path, draw.random(), draw.randrange(8))
        message = error_of(step)
        if DamagedError.__name__ not in message or str(version.path) not in message or days.seen() != before:
            broken.append(f"{name} with a damaged {path.name}: {message}")
        path.write_bytes(kept)
        if name != "promote":
            step()
        else:
            gate(RECIPE, day(1), settings=days.settings)
            step()
    return Outcome(injected=len(steps), broken=tuple(broken), lost="the attempts")


def parent_missing(trial: Trial) -> Outcome:
    """The parent's snapshot is gone or damaged: what cannot be measured is said, and the day waits for a person."""
    return _within(trial, _parent_missing)


def _parent_missing(trial: Trial) -> Outcome:
    draw, days, broken = trial.draw(), _days(trial), []
    parent = days.quiet(0)
    before = days.seen()
    aside = parent.path.with_name("elsewhere")
    for number, what in enumerate(("gone", "damaged"), start=1):
        parent.path.parent.chmod(0o755)
        if what == "gone":
            parent.path.rename(aside)
        else:
            path = draw.choice(sorted(parent.path.iterdir()))
            kept = path.read_bytes()
            path.chmod(0o644)
            flip(path, draw.random(), draw.randrange(8))
        ds = day(1)
        commit_users(days.lake, ds, range(NUM_USERS), seed=number)
        publish_day(RECIPE, ds, make_tower(RECIPE), settings=days.settings, parent=parent, salt=what)
        verdict = days.judge(1)
        reasons = gate(RECIPE, ds, settings=days.settings).reasons
        if verdict != "hold" or not any("cannot be measured" in reason for reason in reasons) or days.seen() != before:
            broken.append(f"parent {what}: {verdict}, {reasons}")
        if what == "gone":
            aside.rename(parent.path)
        else:
            path.write_bytes(kept)
    return Outcome(injected=2, broken=tuple(broken), lost="the comparison by model alone, until a person decides")


def schema_mismatch(trial: Trial) -> Outcome:
    """User features without a column that the snapshot reads: the step names it and writes nothing."""
    return _within(trial, _schema_mismatch)


def _schema_mismatch(trial: Trial) -> Outcome:
    days, broken = _days(trial), []
    days.quiet(0)
    days.publish(1)
    before = days.seen()
    table = "user_features/tiny"
    right = days.lake.get(table, day(1))
    rows = days.lake.read(right)
    changes: dict[str, pa.Table] = {
        "liked": rows.drop_columns(["liked"]),
        "age": rows.rename_columns(["years" if name == "age" else name for name in rows.column_names]),
    }
    for column, changed in changes.items():

        def spoil(column: str = column, changed: pa.Table = changed) -> None:
            days.lake.commit(table, day(1), changed, fingerprint=fingerprint("spoilt", column))
            infer(RECIPE, day(1), settings=days.settings)

        message = error_of(spoil)
        version = days.registry.get("tiny", day(1))
        if column not in message or version.embeddings is not None or days.seen() != before:
            broken.append(f"without {column}: {message}")
    days.lake.commit(table, day(1), rows, fingerprint=fingerprint("right again"))
    assert days.judge(1) == "promote"
    return Outcome(injected=len(changes), broken=tuple(broken), lost="the attempts")


def tracking_down(trial: Trial) -> Outcome:
    """MLflow gone at any moment from publishing to promotion, before a request or after it was done: what consumers
    see stays whole, and the day run again ends with exactly one version and one promotion."""
    return _within(trial, _tracking_down)


def _tracking_down(trial: Trial) -> Outcome:
    draw, broken = trial.draw(), []
    store = shutil.copy(trial.world.store, trial.folder / "server.db")
    with flaky_server(store, trial.folder / "artifacts") as line:
        days = _days(trial, uri=line.uri)
        days.quiet(0)
        line.heal()
        days.quiet(1)
        num_requests, times = line.heal(), trial.times(3, 40)
        for number in range(2, 2 + times):
            place, loses = (number - 2 + draw.random()) / times, draw.choice(["request", "answer"])
            broken += _cut_once(days, number, line.cut, at=int(place * num_requests), loses=loses, heal=line.heal)
    return Outcome(injected=times, broken=tuple(broken), lost=f"the attempts; a day is {num_requests} requests")


def _cut_once(
    days: Days, number: int, cut_line: Callable[..., None], *, at: int, loses: Loss, heal: Callable[[], int]
) -> list[str]:
    """What was not as promised."""
    before = days.seen()
    cut_line(at, loses=loses)
    try:
        days.quiet(number)
        message = "it ended well"
    except Exception as error:
        message = f"{type(error).__name__}: {error}"
    heal()
    where = f"day {number}, the {loses} of request {at} lost ({message[:80]})"
    made = days.registry.find("tiny", day(number))
    may_lead = {before[0]["champion"], made.number if made and made.embeddings else None}
    if days.seen()[0]["champion"] not in may_lead:
        return [f"{where}: the champion is {days.seen()[0]}"]
    days.quiet(number)
    versions = [found for found in days.registry.versions("tiny") if found.ds == day(number)]
    promoted = [found for found in versions if found.decision == "promoted"]
    aliases, rows = days.seen()
    if len(versions) != 1 or len(promoted) != 1:
        return [f"{where}: {len(versions)} versions, {len(promoted)} promoted"]
    if aliases != {"champion": versions[0].number, "previous": before[0]["champion"]} or rows[day(number)] != NUM_USERS:
        return [f"{where}: {aliases}, {rows[day(number)]} rows"]
    return []
