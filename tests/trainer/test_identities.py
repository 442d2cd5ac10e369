"""A managed table from the day's ids to the embeddings: rows that are given, kept, taken away and begin anew."""

from __future__ import annotations

import re
import shutil
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest
import torch

from features.batches import Encoder
from features.id_map import IdMap
from features.lake import Lake
from features.schema import Managed, Table
from infra.settings import Settings
from snapshots.embedder import Embedder
from snapshots.publish import publish
from snapshots.registry import Registry
from tests.trainer.planted import DAY, commit_day, planted_examples, planted_recipe
from trainer import identities, sharding
from trainer.carryover.compare import compare
from trainer.carryover.document import ModelDocument, assumed
from trainer.checkpoint import DamagedCheckpointError
from trainer.config import TrainingConfig
from trainer.identities import read_maps, start_newcomers
from trainer.job import train
from trainer.origin import warm_start
from trainer.recipe import Recipe
from trainer.trained import TrainedDay, load_user_tower

WEIGHTS = "user_tower.sparse.tables.embedding_bags.user_user.weight"
MANAGED = Table(name="user", num_rows=121, ids=Managed(half_life_days=1.0))


def managed(table: Table = MANAGED) -> Recipe:
    return planted_recipe(tables=(table,))


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """Two days of 200 users, of whom 120 can own a row."""
    settings = Settings(home=tmp_path_factory.mktemp("identities"), ranks=2, checkpoint_seconds=0, _env_file=None)
    for day in range(2):
        commit_day(Lake(settings.lake), DAY + timedelta(day), num_rows=2000)
    return settings


@pytest.fixture(scope="module")
def days(home: Settings) -> tuple[TrainedDay, TrainedDay]:
    return train(managed(), DAY, settings=home), train(managed(), DAY + timedelta(1), settings=home)


def user_map(trained: TrainedDay) -> IdMap:
    return read_maps(trained.path, managed().schema)["user"]


@pytest.mark.slow
def test_the_maps_go_from_day_to_day(days: tuple[TrainedDay, TrainedDay]) -> None:
    first, second = (user_map(day) for day in days)
    assert first.day + 1 == second.day == (DAY + timedelta(1)).toordinal()
    assert first.owning.ids.size == second.owning.ids.size == 120
    stayed, at_first, at_second = np.intersect1d(first.owning.ids, second.owning.ids, return_indices=True)
    assert 0 < stayed.size < 120
    np.testing.assert_array_equal(first.owning.rows[at_first], second.owning.rows[at_second])


def test_the_day_tells_how_its_tables_are_used(days: tuple[TrainedDay, TrainedDay]) -> None:
    uses = {use.table: use for use in days[1].tables}
    assert list(uses) == ["user", "topic", "item"]
    assert uses["item"].managing is None
    user = uses["user"].managing
    assert user is not None
    assert user.admitted == user.evicted > 0
    assert 0 < user.overflow_share < 0.5
    assert days[1].carried_over is not None
    assert days[1].carried_over.num_fresh == 0


def test_newcomers_begin_anew_and_the_others_go_on(
    days: tuple[TrainedDay, TrainedDay], tmp_path: Path, one_rank: None
) -> None:
    config = TrainingConfig.of(managed())
    sharded = sharding.build(config, local_world_size=1)
    initial = whole(sharded.state_dict()["model"][WEIGHTS]).clone()
    warm_start(sharded, days[0], config=config)
    yesterday = whole(sharded.state_dict()["model"][WEIGHTS]).clone()
    assert not torch.equal(initial, yesterday)
    start_newcomers(sharded, config, read_maps(days[1].path, config.schema))

    new = torch.zeros(initial.shape[0], dtype=torch.bool)
    new[torch.from_numpy(user_map(days[1]).newcomers)] = True
    state = sharded.state_dict()
    found = whole(state["model"][WEIGHTS])
    assert torch.equal(found[new], initial[new])
    assert torch.equal(found[~new], yesterday[~new])
    (moment,) = state["optim"]["state"][WEIGHTS].values()
    assert not whole(moment)[new].any()
    assert whole(moment)[~new].any()
    assert torch.equal(whole(sharded.module.state_dict()[WEIGHTS]), found), "the model itself, not a copy"


def whole(tensor: object) -> torch.Tensor:
    (shard,) = tensor.local_shards()  # type: ignore[attr-defined]
    return shard.tensor


@pytest.mark.slow
def test_any_number_of_ranks_decides_the_same(days: tuple[TrainedDay, TrainedDay], home: Settings) -> None:
    again = home.model_copy(update={"home": home.home.parent / "one", "ranks": 1})
    shutil.copytree(home.lake, again.lake)
    for day, expected in zip((DAY, DAY + timedelta(1)), days, strict=True):
        found = train(managed(), day, settings=again)
        assert found.tables == expected.tables
        np.testing.assert_array_equal(user_map(found).rows, user_map(expected).rows)


def decide(folder: Path, home: Settings, attempt: str) -> None:
    lake = Lake(home.lake)
    examples = lake.get("examples/planted", DAY)
    identities.decide(folder, TrainingConfig.of(managed()), examples, lake=lake, parent=None, token=attempt)


def test_an_attempt_finds_the_maps_of_the_one_before(home: Settings, tmp_path: Path) -> None:
    folder, schema = tmp_path / "ids", managed().schema
    decide(folder, home, "a")
    before = (folder / "ids" / "user.parquet").stat().st_mtime_ns
    decide(folder, home, "b")
    assert (folder / "ids" / "user.parquet").stat().st_mtime_ns == before
    (folder / "ids" / "user.parquet").write_bytes(b"\0" * (folder / "ids" / "user.parquet").stat().st_size)
    with pytest.raises(DamagedCheckpointError, match=r"user\.parquet has SHA-256"):
        read_maps(folder, schema)
    decide(folder, home, "c")
    assert read_maps(folder, schema)["user"].owning.ids.size == 120


def test_without_maps_there_is_nothing_to_put(tmp_path: Path) -> None:
    """An archive keeps no empty folder: on another machine there is none."""
    identities.put_into(tmp_path / "checkpoint", tmp_path / "ids")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("before", "today", "words"),
    [
        pytest.param(Table(name="user", num_rows=121), MANAGED, "by hash .121 rows. before, by an id map", id="manage"),
        pytest.param(MANAGED, Table(name="user", num_rows=121), "by an id map .121 rows, 1 of them sha", id="hash"),
        pytest.param(MANAGED, replace(MANAGED, num_rows=242), "121 rows, 1 .*242 rows, 1 of them", id="grow"),
    ],
)
def test_a_table_whose_rows_are_chosen_otherwise_starts_fresh(
    before: Table, today: Table, words: str, days: tuple[TrainedDay, TrainedDay], home: Settings, tmp_path: Path
) -> None:
    settings = home.model_copy(update={"home": tmp_path, "ranks": 1})
    shutil.copytree(home.lake, settings.lake)
    if before is MANAGED:
        shutil.copytree(days[0].path, settings.checkpoints / "tiny" / days[0].path.name)
    train(managed(before), DAY, settings=settings)
    found = train(managed(today), DAY + timedelta(1), settings=settings).carried_over
    assert found is not None
    (change,) = found.changes
    assert change.outcome == "fresh"
    assert change.tensors == (WEIGHTS,)
    assert re.search(words, change.why)
    use = read_uses_of(settings)
    assert use is None or use.evicted == 0


def test_a_checkpoint_that_does_not_say_what_it_holds_was_hashed() -> None:
    config = TrainingConfig.of(managed())
    changes = {change.name: change.outcome for change in compare(assumed(config), ModelDocument(config=config)).tensors}
    assert [name for name, outcome in changes.items() if outcome != "carried"] == [WEIGHTS]
    assert changes[WEIGHTS] == "fresh"


def read_uses_of(settings: Settings) -> object:
    from trainer.trained import find_trained

    found = find_trained(settings, "tiny", DAY + timedelta(1))
    assert found is not None
    return next(use.managing for use in found.tables if use.table == "user")


def test_what_is_published_embeds_by_the_map(
    days: tuple[TrainedDay, TrainedDay], home: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # MLflow's artifacts land here
    recipe = managed()
    settings = home.model_copy(update={"mlflow_uri": f"sqlite:///{tmp_path}/mlflow.db"})
    version = publish(recipe, days[1].ds, settings=settings)
    rows = planted_examples(300, seed=1)
    found = Embedder(version.path).embed(rows.to_batches()[0])
    batch = Encoder(recipe.schema, sides=("user",), maps={"user": user_map(days[1])}).encode(rows)
    with torch.inference_mode():
        expected = load_user_tower(recipe, days[1])(batch.user_sparse, batch.user_dense)
    np.testing.assert_allclose(found, expected.numpy(), atol=2e-3)
    assert (version.path / "ids.user.parquet").is_file()
    client = Registry(settings).client
    assert client.get_run(version.run_id).data.metrics["tables/user/occupancy"] == days[1].tables[0].occupancy
