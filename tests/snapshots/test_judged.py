"""A day judged for real: what is kept, what is usual, and what becomes of the alerts."""

from __future__ import annotations

import json
import shutil
import socket
import threading
from collections.abc import Callable
from contextlib import chdir
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
import torch
from prometheus_client.parser import text_string_to_metric_families

from features.lake import Lake
from infra.loop_metrics.collect import MOVED, collect
from infra.loop_metrics.families import ALL
from infra.settings import LOOPBACK, Settings
from snapshots.alerts.book import Alert, read_alerts
from snapshots.alerts.kinds import KINDS
from snapshots.export import WEIGHTS
from snapshots.gate import gate
from snapshots.inference import infer
from snapshots.judgement.rows import JudgedRow, read_judged, read_trailing
from snapshots.promotion import hold, promote, reject, rollback
from snapshots.registry import Registry
from snapshots.seal import DamagedError
from snapshots.shift.measure import check_shift
from tests.snapshots.world import DAYS, commit_users, make_tower, newest, publish_day, tiny_recipe
from trainer.gate import Gate
from trainer.recipe import Recipe
from trainer.tracking import TrackingUnavailableError

FAR = 5.0


def _day(recipe: Recipe, ds: int, settings: Settings, *, noise: float = 0.001, ne: float = 0.9) -> None:
    commit_users(Lake(settings.lake), DAYS[ds], range(ds, 40 + ds))
    parent = Registry(settings).find("tiny", DAYS[ds - 1]) if ds else None
    publish_day(
        recipe, DAYS[ds], make_tower(recipe, noise=noise * ds), settings=settings, parent=parent,
        metrics={"ne": ne, "calibration": 1.0, "auc": 0.7},
    )  # fmt: skip
    infer(recipe, DAYS[ds], settings=settings)
    check_shift(recipe, DAYS[ds], settings=settings)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory, empty_store: Path) -> Path:
    """`one`: a day that waits for its gate. `two`: that day is promoted, and the next one has moved far."""
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("judged")
    (folder / "one").mkdir()
    shutil.copy(empty_store, folder / "one" / "mlflow.db")
    with chdir(folder):  # where MLflow's artifacts land
        _day(tiny_recipe(), 0, _settings_in(folder / "one"))
        shutil.copytree(folder / "one", folder / "two")
        promote(tiny_recipe(), DAYS[0], settings=_settings_in(folder / "two"), by="gate")
        _day(tiny_recipe(), 1, _settings_in(folder / "two"), noise=FAR)
    return folder


@pytest.fixture
def one(prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    return _copied(prepared / "one", tmp_path, monkeypatch)


@pytest.fixture
def two(prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    return _copied(prepared / "two", tmp_path, monkeypatch)


def _copied(folder: Path, to: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    monkeypatch.chdir(to)
    return _settings_in(shutil.copytree(folder, to / "copy"))


def _settings_in(folder: Path) -> Settings:
    return Settings(home=folder / "home", mlflow_uri=f"sqlite:///{folder}/mlflow.db", _env_file=None)


def _judged(settings: Settings, ds: int) -> tuple[JudgedRow, ...]:
    lake = Lake(settings.lake)
    return read_judged(lake, lake.get("gate/tiny", DAYS[ds]))


def _alerts(settings: Settings) -> list[Alert]:
    return read_alerts(Lake(settings.lake), "tiny")


def test_every_value_is_kept_and_judging_again_writes_nothing(recipe: Recipe, two: Settings) -> None:
    settings, lake = two, Lake(two.lake)
    decision = gate(recipe, DAYS[1], settings=settings)
    before = lake.get("gate/tiny", DAYS[1])
    rows = read_judged(lake, before)
    asked = {row.sentence for row in rows if row.verdict == "hold"}
    assert asked == set(decision.reasons) != set()
    assert {row.metric for row in rows if not row.rule} >= {"cosine_p05", "norm_change_p95"}, "what is not judged, too"
    counts = {row.metric: row.value for row in rows if row.kind == "counts"}
    assert counts == {"users": 40, "examples": 0, "coverage": 1}
    client, version = Registry(settings).client, newest(settings, DAYS[1])
    assert "checks" not in version.tags
    kept = json.loads(Path(client.download_artifacts(version.run_id, "gate.json", str(settings.home))).read_text())
    assert len(kept["checks"]) == len(decision.checks)

    assert gate(recipe, DAYS[1], settings=settings) == decision
    assert lake.get("gate/tiny", DAYS[1]) == before
    wide = replace(recipe, gate=Gate(cosine_min=-1, norm_change_max=9))
    assert gate(wide, DAYS[1], settings=settings).verdict == "promote", "other thresholds, nothing measured again"
    assert lake.get("gate/tiny", DAYS[1]).fingerprint != before.fingerprint
    assert {row.metric: row.value for row in _judged(settings, 1) if row.kind == "counts"} == counts


def test_two_gates_at_once_agree(recipe: Recipe, one: Settings) -> None:
    settings = one
    found: list[object] = []
    threads = [
        threading.Thread(target=lambda: found.append(gate(recipe, DAYS[0], settings=settings))) for _ in range(2)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found[0] == found[1]
    rows = [(row.kind, row.metric, row.subject, row.pooling, row.users) for row in _judged(settings, 0)]
    assert len(set(rows)) == len(rows), "no row is there twice"


def test_two_who_tag_at_once_both_do(one: Settings) -> None:
    """Between the look and the insertion of one, the other inserts: each of many new tags is a chance for it."""
    version, together = newest(one, DAYS[0]), threading.Barrier(2)
    failed: list[Exception] = []

    def tag() -> None:
        registry = Registry(one)
        for number in range(20):
            together.wait()
            try:
                registry.tag(version, {f"tag-{number}": "there"})
            except Exception as error:
                failed.append(error)

    threads = [threading.Thread(target=tag) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed
    assert {f"tag-{number}" for number in range(20)} < newest(one, DAYS[0]).tags.keys()


def test_what_is_usual_is_what_was_promoted(recipe: Recipe, two: Settings) -> None:
    """Day 1 is held, and day 2 was never judged: neither is usual."""
    settings, lake, registry = two, Lake(two.lake), Registry(two)
    gate(recipe, DAYS[0], settings=settings)
    hold(recipe, DAYS[1], settings=settings)
    _day(recipe, 3, settings)
    gate(recipe, DAYS[3], settings=settings)
    promote(recipe, DAYS[3], settings=settings, by="alice")
    key = ("training", "ne", "click", "none", "all")
    assert read_trailing(registry, lake, "tiny", DAYS[4], days=14)[key] == (0.9, 0.9)
    assert read_trailing(registry, lake, "tiny", DAYS[4], days=2)[key] == (0.9,)
    assert read_trailing(registry, lake, "tiny", DAYS[0], days=14) == {}
    _day(recipe, 4, settings)
    judged = gate(replace(recipe, gate=Gate(min_days=2)), DAYS[4], settings=settings)
    (ne,) = (check for check in judged.checks if check.name == "ne of click")
    assert (ne.usual, ne.num_days, ne.verdict) == (0.9, 2, "promote")
    rollback(recipe, settings=settings, by="alice")
    assert read_trailing(registry, lake, "tiny", DAYS[4], days=14)[key] == (0.9,), "rolled back, no longer usual"


def test_the_alert_of_a_held_day_ends_with_a_person(recipe: Recipe, two: Settings) -> None:
    settings = two
    for _ in range(2):
        hold(recipe, DAYS[1], settings=settings)
    (alert,) = _alerts(settings)
    assert (alert.severity, alert.version, alert.is_open) == ("warning", 2, True)
    assert alert.runbook == f"infra/runbooks/{alert.kind}.md"
    assert alert.report.endswith("2026-01-02.md")
    hold(recipe, DAYS[1], settings=settings, by="alice", note="asking the owners")
    (alert,) = _alerts(settings)
    assert (alert.is_open, alert.decided_by, alert.note) == (True, "alice", "asking the owners")
    version = newest(settings, DAYS[1])
    assert (version.tags["decided_by"], version.tags["note"]) == ("alice", "asking the owners")
    hold(recipe, DAYS[1], settings=settings)
    assert newest(settings, DAYS[1]) == version, "the gate says the same, and a person stays the one who decided"
    promote(recipe, DAYS[1], settings=settings, by="bob", note="a world cup")
    (alert,) = _alerts(settings)
    assert (alert.is_open, alert.decision, alert.decided_by, alert.note) == (False, "promoted", "bob", "a world cup")
    rollback(recipe, settings=settings, by="carol", note="ctr fell")
    undone = _alerts(settings)[-1]
    assert (undone.kind, undone.is_open, undone.decided_by) == ("rolled-back", False, "carol")
    assert "ctr fell" in undone.reasons[0]


def told(settings: Settings) -> dict[str, dict[tuple[str, ...], float]]:
    """What Prometheus reads of the loop: values by the labels' own, in the order of their names."""
    page = collect([tiny_recipe()], settings=settings, now=datetime(2026, 1, 2, 1, tzinfo=UTC)).decode()
    found: dict[str, dict[tuple[str, ...], float]] = {}
    for family in text_string_to_metric_families(page):
        for one in family.samples:
            name = one.name.removeprefix("usermodel_loop_")
            found.setdefault(name, {})[tuple(one.labels[key] for key in sorted(one.labels))] = one.value
    return found


def test_prometheus_is_told_what_the_gate_kept(recipe: Recipe, two: Settings) -> None:
    hold(recipe, DAYS[1], settings=two)
    found, version = told(two), newest(two, DAYS[1])
    assert set(found["up"].values()) == {1.0}
    of_training = {"training_seconds", "training_examples_per_second", "training_resumed"}  # these towers were made
    of_airflow = {"schedulers_alive", "schedulers_wanted", "edge_worker_lost"}  # there is none
    assert set(found) == {one.name.removeprefix("usermodel_loop_") for one in ALL} - of_training - of_airflow
    assert found["ne"] == {("tiny", task): of["ne"] for task, of in version.metrics.items()}
    assert found["champion_version"] == {("tiny",): 1.0}
    assert {labels for labels, is_so in found["newest_decision"].items() if is_so} == {("held", "tiny")}
    assert found["versions"]["held", "tiny"] == found["versions"]["promoted", "tiny"] == 1
    start = datetime(DAYS[1].year, DAYS[1].month, DAYS[1].day, tzinfo=UTC).timestamp()
    assert found["day_timestamp_seconds"]["tiny", "held"] == start
    kept = {
        (row.subject.removeprefix("embedding "), row.kind, row.metric, "tiny", row.pooling): row.value
        for row in _judged(two, 1)
        if row.kind in MOVED and row.users == "all" and row.value is not None
    }
    assert found["shift"] == kept
    (alert,) = _alerts(two)
    assert {labels for labels, count in found["alerts_open"].items() if count} == {(alert.kind, "tiny", "warning")}
    assert len(found["alerts_open"]) == 3 * len(KINDS)
    assert max(found["gate_verdict"].values()) == 1


def test_prometheus_is_told_the_rest_while_mlflow_is_down(recipe: Recipe, two: Settings) -> None:
    hold(recipe, DAYS[1], settings=two)
    found = told(two.model_copy(update={"mlflow_uri": f"http://{LOOPBACK}:1"}))
    assert found["up"] == {("registry",): 0, ("lake",): 1, ("alerts",): 1, ("checkpoints",): 1}
    assert sum(found["alerts_open"].values()) == 1
    assert "versions" not in found


def test_a_person_who_rejects_a_good_day_is_announced_once(recipe: Recipe, one: Settings) -> None:
    settings = one
    for _ in range(2):
        reject(recipe, DAYS[0], settings=settings, by="bob", note="wrong log")
    (alert,) = _alerts(settings)
    assert (alert.kind, alert.severity, alert.is_open, alert.note) == ("by-hand", "info", False, "wrong log")


def test_a_damaged_snapshot_is_an_alert(recipe: Recipe, settings: Settings) -> None:
    _day(recipe, 0, settings)
    weights = newest(settings, DAYS[0]).path / WEIGHTS
    weights.chmod(0o644)
    weights.write_bytes(weights.read_bytes()[:-1])
    for _ in range(2):
        with pytest.raises(DamagedError):
            promote(recipe, DAYS[0], settings=settings, by="gate")
    (alert,) = _alerts(settings)
    assert (alert.kind, alert.severity, alert.is_open) == ("damaged-snapshot", "critical", True)


STEPS: dict[str, Callable[[Recipe, Settings], object]] = {
    "gate": lambda recipe, settings: gate(recipe, DAYS[1], settings=settings),
    "hold": lambda recipe, settings: hold(recipe, DAYS[1], settings=settings),
    "promote": lambda recipe, settings: promote(recipe, DAYS[1], settings=settings, by="alice"),
    "rollback": lambda recipe, settings: rollback(recipe, settings=settings, by="alice"),
}


@pytest.mark.parametrize("step", STEPS)
def test_with_mlflow_down_nothing_happens(step: str, recipe: Recipe, settings: Settings) -> None:
    with socket.socket() as probe:
        probe.bind((LOOPBACK, 0))
        down = settings.model_copy(update={"mlflow_uri": f"http://{LOOPBACK}:{probe.getsockname()[1]}"})
        with pytest.raises(TrackingUnavailableError, match="infra up"):
            STEPS[step](recipe, down)
    assert Lake(settings.lake).open("gate/tiny") is None
    assert _alerts(settings) == []


WRITES = ("log_dict", "log_artifact", "set_model_version_tag", "set_registered_model_alias")


def test_mlflow_lost_at_any_write_leaves_a_step_that_can_be_repeated(
    recipe: Recipe, two: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The n-th write of the n-th attempt fails until one gets through: the end is that of an undisturbed step."""
    import mlflow

    settings, left = two, 0

    def failing(name: str) -> Callable[..., object]:
        real = getattr(mlflow.MlflowClient, name)

        def write(*args: object, **kwargs: object) -> object:
            nonlocal left
            left -= 1
            if left == 0:
                raise TrackingUnavailableError("MLflow went away")
            return real(*args, **kwargs)

        return write

    for name in WRITES:
        monkeypatch.setattr(mlflow.MlflowClient, name, failing(name))
    for step, decision in (("hold", "held"), ("promote", "promoted")):
        interrupted = 0
        while True:
            left = 1 + interrupted
            try:
                STEPS[step](recipe, settings)
                break
            except TrackingUnavailableError:
                interrupted += 1
                assert newest(settings, DAYS[1]).decision in ("pending", "held")
        assert interrupted >= 2
        version = newest(settings, DAYS[1])
        assert version.decision == decision
        assert len(_alerts(settings)) == 1
        assert _alerts(settings)[0].is_open == (decision == "held")
    assert Registry(settings).aliases("tiny")["champion"] == 2
