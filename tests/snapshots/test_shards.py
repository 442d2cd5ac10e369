"""Shards of a day: each alone, in any order, again or not at all; one commit, or none."""

from __future__ import annotations

import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from features.fingerprint import fingerprint
from features.lake import Lake
from infra.settings import Settings
from snapshots import embedder, shards
from snapshots.embedder import Embedder
from snapshots.embeddings import candidates_table_of
from snapshots.inference import commit_inference, infer, infer_shard, plan_inference
from snapshots.promotion import promote
from tests.snapshots.world import DAYS, commit_users, make_tower, newest, publish_day, tiny_recipe
from trainer.recipe import Inference, Recipe

TABLE = candidates_table_of("tiny")


def _recipe(num_shards: int) -> Recipe:
    return replace(tiny_recipe(), inference=Inference(shards=num_shards))


def _publish(recipe: Recipe, settings: Settings, *, day: int = 0, users: range = range(100)) -> None:
    commit_users(Lake(settings.lake), DAYS[day], users, seed=day)
    publish_day(recipe, DAYS[day], make_tower(recipe, noise=0.1 * day), settings=settings)


def _aside(settings: Settings, day: int, users: range) -> pa.Table:
    """User features that are in another lake."""
    aside = Lake(settings.home / "aside")
    return aside.read(commit_users(aside, DAYS[day], users))


def _written(settings: Settings) -> list[Path]:
    return sorted(path for path in (Path(settings.lake) / TABLE).glob("ds=*/*") if path.is_file())


def _rows(settings: Settings, day: int = 0) -> pa.Table:
    lake = Lake(settings.lake)
    return lake.read(lake.get(TABLE, DAYS[day]))


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Many windows and batches of few users."""
    monkeypatch.setattr(shards, "USERS_PER_WINDOW", 16)
    monkeypatch.setattr(embedder, "USERS_PER_FORWARD", 8)


def test_each_shard_alone_then_one_commit(settings: Settings) -> None:
    recipe = _recipe(3)
    _publish(recipe, settings)
    assert plan_inference(recipe, DAYS[0], settings=settings) == [0, 1, 2]
    for shard, num_users in ((2, 34), (0, 33)):
        found = infer_shard(recipe, DAYS[0], shard, settings=settings)
        assert (found.num_users, found.unchanged) == (num_users, False)
    with pytest.raises(ValueError, match=r"shards \[1\] of 3 are not written .* --shard 1`"):
        commit_inference(recipe, DAYS[0], settings=settings)
    assert Lake(settings.lake).find(TABLE, DAYS[0]) is None
    before = {path: path.stat().st_mtime_ns for path in _written(settings)}
    assert infer_shard(recipe, DAYS[0], 2, settings=settings).unchanged
    infer_shard(recipe, DAYS[0], 1, settings=settings)
    embedded = commit_inference(recipe, DAYS[0], settings=settings)
    assert {path: path.stat().st_mtime_ns for path in before} == before, "finished shards are left as they are"
    assert (embedded.num_users, embedded.unchanged) == (100, False)
    assert newest(settings, DAYS[0]).embeddings == embedded.partition
    assert _rows(settings)["user_id"].to_pylist() == list(range(100)), "in the order of the user features"
    assert commit_inference(recipe, DAYS[0], settings=settings).unchanged
    with pytest.raises(ValueError, match="shard 3 is none of 3"):
        infer_shard(recipe, DAYS[0], 3, settings=settings)


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("num_shards", [1, 4, 7])
def test_however_it_is_cut_the_rows_are_the_same(settings: Settings, num_shards: int) -> None:
    for day, users in enumerate((range(10, 60), range(40, 100), range(100))):
        _publish(_recipe(num_shards), settings, day=day, users=users)
        assert infer(_recipe(num_shards), DAYS[day], settings=settings).num_users == len(users)
        if day < 2:
            promote(_recipe(num_shards), DAYS[day], settings=settings, by="test")
    rows = _rows(settings, 2)
    assert set(rows["num_pooled"].to_pylist()) == {1, 2, 3}
    expected = _whole(settings)
    for name in expected.column_names:
        found = rows[name].to_pylist()
        np.testing.assert_allclose(np.array(found), np.array(expected[name].to_pylist()), rtol=2e-3, atol=2e-3)


def _whole(settings: Settings) -> pa.Table:
    """The day's vectors in one piece: what any cut must give."""
    lake, version = Lake(settings.lake), newest(settings, DAYS[2])
    features = lake.read(lake.get("user_features/tiny", DAYS[2]))
    vectors = Embedder(version.path).embed(features)
    names = [f"embedding_{k}" for k in range(2)]
    return pa.table({"user_id": features["user_id"], **{n: vectors[:, k].tolist() for k, n in enumerate(names)}})


@pytest.mark.usefixtures("small")
def test_users_in_any_order_are_pooled_with_their_own(settings: Settings) -> None:
    recipe, lake = _recipe(2), Lake(settings.lake)
    _publish(recipe, settings)
    infer(recipe, DAYS[0], settings=settings)
    promote(recipe, DAYS[0], settings=settings, by="test")
    users = _aside(settings, 1, range(120))
    mixed = users.take(np.random.default_rng(0).permutation(120))
    lake.commit("user_features/tiny", DAYS[1], mixed, fingerprint=fingerprint("mixed"))
    publish_day(recipe, DAYS[1], make_tower(recipe), settings=settings)  # the same tower, the same features
    infer(recipe, DAYS[1], settings=settings)
    rows = _rows(settings, 1)
    assert rows["user_id"].to_pylist() == mixed["user_id"].to_pylist()
    assert rows["num_pooled"].to_pylist() == [2 if user < 100 else 1 for user in rows["user_id"].to_pylist()]
    for k in range(2):
        pooled, computed = (np.array(rows[f"{kind}_{k}"].to_pylist()) for kind in ("pooled", "embedding"))
        np.testing.assert_allclose(pooled, computed, rtol=2e-3, atol=2e-3)


@pytest.mark.slow
def test_processes_write_the_same_bytes(settings: Settings, tmp_path: Path) -> None:
    recipe = _recipe(2)
    _publish(recipe, settings)
    assert infer(recipe, DAYS[0], settings=settings, workers=2).num_users == 100
    before = {path.name: path.read_bytes() for path in _written(settings)}
    for path in _written(settings):
        path.unlink()
    for shard in (0, 1):
        infer_shard(recipe, DAYS[0], shard, settings=settings)
    assert {path.name: path.read_bytes() for path in _written(settings)} == before
    with pytest.raises(ValueError, match="0 workers"):
        infer(recipe, DAYS[0], settings=settings, workers=0)


def test_inputs_that_changed_meanwhile_are_embedded_anew(settings: Settings) -> None:
    recipe = _recipe(2)
    _publish(recipe, settings)
    infer_shard(recipe, DAYS[0], 0, settings=settings)
    commit_users(Lake(settings.lake), DAYS[0], range(110))  # late data
    infer_shard(recipe, DAYS[0], 1, settings=settings)
    with pytest.raises(ValueError, match=r"shards \[0\] of 2 are not written for the day's inputs as they are now"):
        commit_inference(recipe, DAYS[0], settings=settings)
    assert infer(recipe, DAYS[0], settings=settings).num_users == 110


def test_more_shards_than_users(settings: Settings) -> None:
    recipe = _recipe(5)
    _publish(recipe, settings, users=range(3))
    assert infer(recipe, DAYS[0], settings=settings).num_users == 3
    assert _rows(settings)["user_id"].to_pylist() == [0, 1, 2]


def _fail(*_args: object, **_kwargs: object) -> None:
    raise OSError("it broke here")


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize(
    ("where", "name"),
    [
        pytest.param(Embedder, "encode", id="reading"),
        pytest.param(Embedder, "compute", id="computing"),
        pytest.param(shards, "fp16_exact", id="pooling"),
        pytest.param(shards.TableFile, "write", id="writing"),
    ],
)
def test_an_error_in_any_thread_is_the_error(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, where: object, name: str
) -> None:
    recipe = _recipe(2)
    _publish(recipe, settings)
    with monkeypatch.context() as patched:
        patched.setattr(where, name, _fail)
        with pytest.raises(OSError, match="it broke here"):
            infer_shard(recipe, DAYS[0], 1, settings=settings)
    assert _written(settings) == []
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("embed-")]
    assert infer(recipe, DAYS[0], settings=settings).num_users == 100


def _interrupt(window: object, *_args: object) -> None:
    raise KeyboardInterrupt


def test_an_interrupt_ends_every_thread(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = _recipe(1)
    _publish(recipe, settings)
    monkeypatch.setattr(shards, "_arrow", _interrupt)
    with pytest.raises(KeyboardInterrupt):
        infer_shard(recipe, DAYS[0], 0, settings=settings)
    assert _written(settings) == []
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("embed-")]


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("places", [(3, 5), (3, 90)], ids=["in one shard", "in two shards"])
def test_a_user_with_two_rows_is_named(settings: Settings, places: tuple[int, int]) -> None:
    recipe, lake = _recipe(2), Lake(settings.lake)
    users = _aside(settings, 0, range(100))
    first, second = places
    rows = users.take([*range(second), first, *range(second + 1, 100)])
    lake.commit("user_features/tiny", DAYS[0], rows, fingerprint=fingerprint("twice"))
    publish_day(recipe, DAYS[0], make_tower(recipe), settings=settings)
    with pytest.raises(ValueError, match="user 3 has more than one row"):
        infer(recipe, DAYS[0], settings=settings)
    assert lake.find(TABLE, DAYS[0]) is None


@pytest.mark.parametrize("wrong", [0, 1_001])
def test_a_number_of_shards_that_is_none_is_refused(wrong: int) -> None:
    with pytest.raises(ValueError, match=f"shards is {wrong}; it is 1 to 1000"):
        Inference(shards=wrong)
