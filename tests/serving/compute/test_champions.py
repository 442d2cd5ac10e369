"""Which version computes, whatever becomes of MLflow, of the snapshot and of the store."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import date
from pathlib import Path

import pytest

from features.lake import Partition
from infra.settings import Settings
from serving.compute.champions import Champions
from serving.compute.remembered import recall
from serving.compute.statistics import Statistics
from serving.store import Store
from snapshots.registry import partition_tags
from tests.serving.compute.world import World, champions_of
from tests.serving.servers import free_port
from trainer.serving import Serving


def versions(champions: Champions) -> list[int]:
    return [one.reference.version for one in champions.of("tiny")]


def without_mlflow(world: World) -> World:
    settings = Settings(home=world.settings.home, mlflow_uri=f"http://127.0.0.1:{free_port()}", _env_file=None)
    return replace(world, settings=settings)


@contextmanager
def damaged(path: Path) -> Iterator[None]:
    """One bit of it."""
    content = path.read_bytes()
    path.chmod(0o644)
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    yield
    path.write_bytes(content)
    path.chmod(0o444)


def test_the_alias_is_followed_and_told(world: World, store: Store) -> None:
    champions = champions_of(world, store, world.recipe, world.other)
    assert champions.sources == frozenset()
    for number in (1, 2, 1):
        world.promote(number)
        champions.poll()
        assert versions(champions) == [number, 1]
        served = store.served()
        assert (served["tiny"].version, served["other"].version) == (number, 1)
        assert (served["tiny"].source, served["tiny"].num_embeddings, served["tiny"].dim) == ("tiny", 2, 8)
        assert served["tiny"].ds == world.versions[number - 1].ds.isoformat()


def test_what_was_rolled_back_is_withdrawn(world: World, store: Store) -> None:
    champions = champions_of(world, store)
    world.promote(3)
    champions.poll()
    assert store.served()["tiny"].withdrawn == ()
    shown = Partition(table="user_embeddings/tiny", ds=date(2026, 1, 3), version=1, fingerprint="f")
    gone = world.registry.tag(world.versions[2], partition_tags("visible", shown))
    world.registry.decide(gone, "rejected", by="someone", note="")
    world.promote(1)
    champions.poll()
    assert (versions(champions), store.served()["tiny"].withdrawn) == ([1], (3,))
    world.registry.decide(gone, "promoted", by="someone", note="")
    champions.poll()
    assert store.served()["tiny"].withdrawn == ()


def test_a_damaged_snapshot_is_refused_and_the_old_one_serves(world: World, store: Store) -> None:
    statistics = Statistics()
    champions = champions_of(world, store, statistics=statistics)
    champions.poll()
    world.promote(2)
    with damaged(world.versions[1].path / "user_tower.safetensors"):
        champions.poll()
        champions.poll()
    assert versions(champions) == [1]
    assert store.served()["tiny"].version == 1
    assert statistics.snapshot()["champions_refused"] == {"model=tiny": 1}  # not read again at every look
    world.promote(3)
    champions.poll()
    assert versions(champions) == [3]


def test_while_mlflow_is_down_the_present_champion_serves(
    world: World, store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    statistics = Statistics()
    champions = champions_of(world, store, statistics=statistics)
    champions.poll()
    champions._settings = without_mlflow(world).settings
    champions.poll()
    assert versions(champions) == [1]
    assert statistics.total("registry_errors") == 1
    assert "version 1 serves" in caplog.text
    champions._settings = world.settings
    world.promote(2)
    champions.poll()
    assert versions(champions) == [2]


def test_started_while_mlflow_is_down_the_last_one_serves_and_is_no_news(world: World, store: Store) -> None:
    alone = without_mlflow(world)
    cold = champions_of(alone, store)
    cold.poll()
    assert versions(cold) == []
    world.promote(2)
    champions_of(world, store).poll()
    again = champions_of(alone, store)
    again.poll()
    assert versions(again) == [2]
    store.announce(replace(store.served()["tiny"], version=3))  # others have gone on
    again.poll()
    assert store.served()["tiny"].version == 3
    store.redis.flushall()
    again.poll()
    assert store.served()["tiny"].version == 2
    with damaged(world.versions[1].path / "user_tower.pt2"):
        refused = champions_of(alone, store)
        refused.poll()
        assert versions(refused) == []


def test_a_memory_that_is_none_is_not_used(world: World, store: Store) -> None:
    champions_of(world, store).poll()
    path = world.settings.home / "serving" / "tiny.json"
    assert json.loads(path.read_text())["version"] == 1
    path.write_text("{")
    assert recall(world.settings, "tiny") is None
    path.write_text('{"model": "tiny"}')
    assert recall(world.settings, "tiny") is None


def test_a_loaded_model_is_not_computed(world: World, store: Store) -> None:
    with pytest.raises(ValueError, match="tiny is served in the mode 'batch'"):
        champions_of(world, store, replace(world.recipe, serving=Serving(mode="batch")))


@pytest.mark.parametrize(
    ("day", "wanted"), [(None, [1]), (date(2026, 1, 2), [2]), (date(2026, 1, 9), [])],
    ids=["the first that was promoted", "declared", "declared, and not promoted"],
)  # fmt: skip
def test_a_frozen_model_stays_what_it_is(world: World, store: Store, day: date | None, wanted: list[int]) -> None:
    champions = champions_of(world, store, replace(world.recipe, serving=Serving(mode="frozen", frozen_day=day)))
    for number in (1, 2, 3):
        world.registry.decide(world.versions[number - 1], "promoted", by="test", note="")
    for number in (1, 3):
        world.promote(number)
        champions.poll()
        assert versions(champions) == wanted


def test_what_others_told_clients_is_put_right(world: World, store: Store) -> None:
    champions = champions_of(world, store)
    champions.poll()
    told = store.served()["tiny"]
    store.announce(replace(told, version=9))
    without_mlflow_champions = champions_of(without_mlflow(world), store)
    without_mlflow_champions.poll()
    assert store.served()["tiny"].version == 9, "who does not know better says nothing"
    champions.poll()
    assert store.served()["tiny"] == told


def test_a_model_without_a_version_is_named(world: World, store: Store) -> None:
    third = replace(world.recipe, name="third")
    champions = champions_of(world, store, world.recipe, third)
    champions.poll()
    assert (champions.sources, champions.missing("tiny")) == ({"tiny"}, ["third"])
