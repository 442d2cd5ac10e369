"""A consumer of two user models, as the registry has their days promoted, held back and withdrawn."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner

from infra.commands import cli
from infra.commands.consumer_lineage import print_consumer_lineage
from infra.settings import Settings
from snapshots.consumer_lineage import consumer_lineage, learnt_from
from snapshots.consumers import retrain_consumer, waits_for
from snapshots.registry import Registry, Version, partition_tags
from tests.trainer.downstream_world import World, day
from tests.trainer.several_models import BOTH, FIRST, MODELS, SECOND, commit_embeddings
from trainer import recipes, tracking
from trainer.downstream.checkpoint import Checkpoints
from trainer.downstream.day import DownstreamDay
from trainer.recipe import Recipe

pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader:DeprecationWarning")


def publish(world: World, model: Recipe, index: int, *, seed: int = 0) -> Version:
    """A registered version whose embeddings were visible; nobody has decided on it."""
    registry, ds = Registry(world.settings), day(index)
    partition = commit_embeddings(world, model, ds, seed=seed)
    client = registry.client
    run = tracking.open_run(
        client, tracking.experiment(client, model.name), name=str(ds), key={"fingerprint": partition.fingerprint}
    )
    tags = {"path": str(world.settings.home), **partition_tags("visible", partition)}
    return registry.register(model.name, ds, fingerprint=partition.fingerprint, run_id=run, reference={}, tags=tags)


def promote(world: World, model: Recipe, index: int, *, seed: int = 0) -> Version:
    return Registry(world.settings).decide(publish(world, model, index, seed=seed), "promoted", by="gate", note="")


def retrained(world: World, index: int) -> DownstreamDay:
    return retrain_consumer(BOTH, MODELS, day(index), settings=world.settings)


def world_in(folder: Path) -> World:
    settings = Settings(home=folder / "home", mlflow_uri=f"sqlite:///{folder}/mlflow.db", _env_file=None)
    return World(settings=settings, num_users=200, examples_per_day=1_500)


@pytest.fixture
def world(tmp_path: Path, empty_store: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    shutil.copy(empty_store, tmp_path / "mlflow.db")
    monkeypatch.chdir(tmp_path)
    return world_in(tmp_path)


@pytest.fixture(scope="module")
def learnt(tmp_path_factory: pytest.TempPathFactory, empty_store: Path) -> Path:
    """Both models promoted days 0 to 3; the consumer has learnt days 1 to 3."""
    folder = tmp_path_factory.mktemp("learnt")
    shutil.copy(empty_store, folder / "mlflow.db")
    with pytest.MonkeyPatch.context() as patched:
        patched.chdir(folder)
        world = world_in(folder)
        for index in range(4):
            world.commit_examples(day(index))
            for model in MODELS:
                promote(world, model, index)
        for index in (1, 2, 3):
            retrained(world, index)
    return folder


@pytest.fixture
def three_days(learnt: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    """A copy of it."""
    monkeypatch.setitem(recipes.DOWNSTREAM_MODELS, BOTH.name, lambda: BOTH)
    shutil.copytree(learnt, tmp_path / "learnt")
    monkeypatch.chdir(tmp_path / "learnt")
    return world_in(tmp_path / "learnt")


def test_a_day_waits_for_every_user_model(world: World) -> None:
    world.commit_examples(day(1))
    promote(world, FIRST, 0)
    promote(world, FIRST, 1)
    held = publish(world, SECOND, 1)
    assert waits_for(BOTH, day(1), settings=world.settings) == ("second",)
    assert waits_for(BOTH, day(2), settings=world.settings) == ("first", "second")
    Registry(world.settings).decide(held, "promoted", by="alice", note="")
    assert waits_for(BOTH, day(1), settings=world.settings) == ()


def test_a_day_that_was_trained_waits_for_nobody(three_days: World) -> None:
    registry = Registry(three_days.settings)
    for model in MODELS:
        registry.decide(registry.get(model.name, day(3)), "rejected", by="alice", note="")
    assert waits_for(BOTH, day(3), settings=three_days.settings) == ()
    assert waits_for(BOTH, day(4), settings=three_days.settings) == ("first", "second")


def test_the_registry_knows_which_versions_a_day_joined(three_days: World) -> None:
    registry = Registry(three_days.settings)
    (version,) = tracking.find_versions(registry.client, "downstream.tiny_both", f"tags.ds = '{day(3)}'")
    first = registry.get("first", day(2))
    assert first.visible is not None
    assert version.tags["user_models"] == "first second"
    assert {name: version.tags[f"user_model.first.{name}"] for name in ("version", "versions", "ds", "run_id")} == {
        "version": "3", "versions": "3 2 1", "ds": str(day(2)), "run_id": first.run_id,
    }  # fmt: skip
    second = registry.get("second", day(2)).visible
    assert second is not None
    assert version.tags["user_model.second.embeddings"].split()[0] == f"{day(2)}@{second.version}"
    inputs = {found.dataset.name for found in registry.client.get_run(version.run_id).inputs.dataset_inputs}
    assert {f"examples/tiny/ds={day(3)}", f"user_embeddings/second/ds={day(0)}"} < inputs
    found = learnt_from("second", settings=three_days.settings)
    assert found[2] == {"tiny_both": (day(2), day(3))}
    assert set(found) == {1, 2, 3}, "of the day of version 4 nobody has learnt yet"


def test_after_a_rollback_every_day_is_learnt_again_whichever_is_told_first(three_days: World) -> None:
    """Airflow keeps the partitions that a task emits in a set."""
    registry, checkpoints = Registry(three_days.settings), Checkpoints(three_days.settings, BOTH.name)
    registry.decide(registry.get("second", day(1)), "rejected", by="alice", note="")
    last = retrained(three_days, 3)
    newest = {found.ds: found for found in checkpoints.days()}
    assert [newest[day(index)].revision for index in (1, 2, 3)] == [0, 1, 1]
    assert newest[day(3)].parent_fingerprint == newest[day(2)].fingerprint
    assert newest[day(2)].parent_fingerprint == newest[day(1)].fingerprint
    gone = ("user_embeddings/second", day(1))
    assert gone not in {(p.table, p.ds) for found in newest.values() for p in found.embeddings}
    assert retrained(three_days, 2) == newest[day(2)], "told afterwards, it has nothing to do"
    assert retrained(three_days, 3) == last


def test_a_day_that_has_nothing_left_to_join_does_not_stop_the_others(
    three_days: World, caplog: pytest.LogCaptureFixture
) -> None:
    registry = Registry(three_days.settings)
    for model in MODELS:
        registry.decide(registry.get(model.name, day(0)), "rejected", by="alice", note="")
    last = retrained(three_days, 3)
    assert last.revision == 1
    assert f"downstream stays model=tiny_both ds={day(1)}" in caplog.text


def test_lineage_names_parents_versions_and_what_is_stale(
    three_days: World, capsys: pytest.CaptureFixture[str]
) -> None:
    found = consumer_lineage(BOTH, settings=three_days.settings)
    assert [(link.ds, link.parent_ds, link.version, link.stale) for link in found.links] == [
        (day(1), None, 1, None), (day(2), day(1), 2, None), (day(3), day(2), 3, None),
    ]  # fmt: skip
    assert [(of.ds, of.version) for of in found.links[2].joined["second"]] == [(day(2), 3), (day(1), 2), (day(0), 1)]
    assert found.links[0].scores is None
    assert found.summary()["links"][1]["scores"]["ne_diff_percent"] is not None

    registry = Registry(three_days.settings)
    registry.decide(registry.get("second", day(1)), "rejected", by="alice", note="")
    after = consumer_lineage(BOTH, settings=three_days.settings)
    assert [link.stale for link in after.links] == [
        None, f"it joined user_embeddings/second of {day(1)}, which is promoted no more",
        f"it joined user_embeddings/second of {day(1)}, which is promoted no more",
    ]  # fmt: skip
    print_consumer_lineage(after)
    printed = capsys.readouterr().out
    assert "withdrawn" in printed
    assert f"to repair: usermodel trainer downstream --name tiny_both --ds {day(2)}, then the days after it" in printed


def test_a_promotion_after_the_fact_is_no_fault_of_the_days_after(three_days: World) -> None:
    """The day that waited goes on from the day before it; what was trained since has another parent."""
    registry, world = Registry(three_days.settings), three_days
    world.commit_examples(day(5))
    world.commit_examples(day(4))
    retrained(world, 5)
    retrained(world, 4)
    links = {link.ds: link for link in consumer_lineage(BOTH, settings=world.settings).links}
    assert links[day(5)].parent_ds == day(3)
    assert links[day(5)].stale == f"its parent is another training of {day(3)}; {day(4)} is trained now"
    assert registry.aliases("first") == {}


def test_a_day_that_was_promoted_too_late_is_said(three_days: World) -> None:
    world, registry = three_days, Registry(three_days.settings)
    held = registry.decide(registry.get("first", day(3)), "held", by="gate", note="")
    world.commit_examples(day(4))
    retrained(world, 4)
    registry.decide(held, "promoted", by="alice", note="")
    last = consumer_lineage(BOTH, settings=world.settings).links[-1]
    assert (last.ds, last.stale) == (day(4), None)
    assert last.late == f"user_embeddings/first of {day(3)} is promoted since"


def test_without_mlflow_there_is_a_lineage_without_versions(
    three_days: World, capsys: pytest.CaptureFixture[str]
) -> None:
    nowhere = three_days.settings.model_copy(update={"mlflow_uri": "http://127.0.0.1:9"})
    found = consumer_lineage(BOTH, settings=nowhere)
    assert [(link.version, link.stale) for link in found.links] == [(None, None)] * 3
    assert found.registry is not None
    print_consumer_lineage(found)
    assert "no versions: MLflow at http://127.0.0.1:9 does not answer" in capsys.readouterr().out


@pytest.mark.parametrize("options", [[], ["--recipe", "demo", "--downstream", "demo_ctr"]], ids=["none", "both"])
def test_the_command_shows_one_model(options: list[str]) -> None:
    done = CliRunner().invoke(cli, ["trainer", "lineage", *options])
    assert str(done.exception) == "name one model: --recipe R or --downstream NAME"


def test_the_command_says_what_to_run_first(tmp_path: Path) -> None:
    done = CliRunner().invoke(cli, ["trainer", "lineage", "--downstream", "demo_a_ctr_small"])
    assert "run `usermodel trainer downstream --name demo_a_ctr_small --ds D` first" in str(done.exception)
