"""Promoted days in the feature store: what batch inference pooled is what a reader pools, to the bit."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import date

import numpy as np
import pytest
import redis

from features.lake import Lake
from infra.settings import Settings
from serving.compute.champions import Champions
from serving.compute.statistics import Statistics
from serving.features import FeatureCodec
from serving.keys import LOADED, Keys
from serving.load import Loaded, NothingLearntError, load
from serving.record import Entry, Record
from serving.store import Store, Write
from snapshots.embeddings import stack, table_of
from snapshots.inference import infer
from snapshots.promotion import promote, rollback
from snapshots.registry import Registry
from snapshots.release import release
from tests.serving.servers import redis_server
from tests.snapshots.learners import commit_examples, consumer, learn, learning_recipe
from tests.snapshots.world import DAYS, make_tower, publish_day, tiny_recipe
from trainer.recipe import Recipe
from trainer.recipes import DOWNSTREAM_MODELS
from trainer.serving import Mode

K, D = 2, 8
USERS = range(60)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[redis.Redis]:
    with redis_server(tmp_path_factory.mktemp("redis")) as running, running.client() as client:
        yield client


@pytest.fixture
def store(server: redis.Redis) -> Store:
    server.flushall()
    return Store(server, Keys(4))


def of_mode(mode: Mode, **more: object) -> Recipe:
    model = tiny_recipe()
    return replace(model, serving=replace(model.serving, mode=mode, **more))  # type: ignore[arg-type]


def pooled_in_the_lake(settings: Settings, ds: date) -> dict[int, bytes]:
    lake = Lake(settings.lake)
    rows = lake.read(lake.get(table_of("tiny"), ds))
    pooled = stack(rows, "pooled", num_embeddings=K, dim=D).astype(np.float16)
    return {user: one.tobytes() for user, one in zip(rows["user_id"].to_pylist(), pooled, strict=True)}


def pooled_in_the_store(store: Store, users: range = USERS) -> dict[int, bytes]:
    found = {user: store.read(user, ("tiny",))[0] for user in users}
    return {user: record.pooled().tobytes() for user, record in found.items() if record is not None}


def written(loaded: Loaded) -> list[int]:
    return [day.seeded.written for day in loaded.days]


@pytest.mark.parametrize("order", [DAYS[:3], [DAYS[2]], [DAYS[1], DAYS[0], DAYS[2]]], ids=["by day", "once", "mixed"])
def test_what_is_pooled_is_what_batch_inference_pooled(
    store: Store, promoted_days: Settings, order: list[date]
) -> None:
    for ds in order:
        load(of_mode("batch"), ds, store=store, settings=promoted_days)
    newest: dict[int, bytes] = {}
    for ds in DAYS[:3]:
        newest |= pooled_in_the_lake(promoted_days, ds)
    assert pooled_in_the_store(store) == newest
    assert len(newest) == 60


def test_a_day_is_loaded_once(store: Store, promoted_days: Settings) -> None:
    first = load(of_mode("batch"), None, store=store, settings=promoted_days)
    assert [(day.ds, day.version, day.unchanged) for day in first.days] == [
        (DAYS[2], 3, False), (DAYS[1], 2, False), (DAYS[0], 1, False)
    ]  # fmt: skip
    assert written(first) == [40, 40, 40]
    before = {key: store.redis.dump(key) for key in store.redis.scan_iter("um:{*}:e:*")}
    again = load(of_mode("batch"), None, store=store, settings=promoted_days)
    assert [day.unchanged for day in again.days] == [True] * 3
    forced = load(of_mode("batch"), None, store=store, settings=promoted_days, again=True)
    assert [day.seeded.known for day in forced.days] == [40, 40, 40]
    assert {key: store.redis.dump(key) for key in store.redis.scan_iter("um:{*}:e:*")} == before


def test_a_killed_load_is_finished_by_the_next(store: Store, promoted_days: Settings) -> None:
    load(of_mode("batch"), None, store=store, settings=promoted_days)
    whole = pooled_in_the_store(store)
    store.redis.hdel(LOADED, f"{table_of('tiny')}/{DAYS[1]}")
    for user in range(10, 30):
        store.redis.delete(store.keys.record("tiny", user))
    load(of_mode("batch"), None, store=store, settings=promoted_days, again=True)
    assert pooled_in_the_store(store) == whole


def test_a_store_that_lost_everything_is_filled_again(store: Store, promoted_days: Settings) -> None:
    load(of_mode("batch"), DAYS[2], store=store, settings=promoted_days)
    whole = pooled_in_the_store(store)
    store.redis.flushall()
    assert written(load(of_mode("batch"), DAYS[2], store=store, settings=promoted_days)) == [40, 40, 40]
    assert pooled_in_the_store(store) == whole
    assert store.served()["tiny"].ds == DAYS[2].isoformat()


def test_newer_entries_stay(store: Store, promoted_days: Settings) -> None:
    now = int(1000 * time.time())
    entry = Entry(version=3, feature_ms=now, vectors=np.ones((K, D), np.float16))
    # computed by requests of today, long after the features of the promoted days
    store.write([Write(user=30, entries={"tiny": (entry, 60.0)}, future_seconds=60)])
    loaded = load(of_mode("async"), None, store=store, settings=promoted_days)
    (record,) = store.read(30, ("tiny",))
    assert record is not None
    assert record.entries["feature_ms"].tolist() == [now], "what is older than the lookback is not pooled with it"
    assert [day.seeded.older for day in loaded.days] == [1, 1, 1]


def test_the_time_of_loading_is_kept(store: Store, promoted_days: Settings) -> None:
    before = int(1000 * time.time()) - 1
    load(of_mode("async"), None, store=store, settings=promoted_days)
    (record,) = store.read(30, ("tiny",))
    assert record is not None
    assert (record.entries["write_ms"] >= before).all(), "kept for failover_seconds from now on"
    load(of_mode("async"), None, store=store, settings=promoted_days, again=True)
    (again,) = store.read(30, ("tiny",))
    assert again is not None
    assert again.entries.tobytes() == record.entries.tobytes(), "and does not look younger for being loaded again"


def test_known_features_can_be_computed_from(store: Store, promoted_days: Settings) -> None:
    model = of_mode("async")
    loaded = load(model, None, store=store, settings=promoted_days)
    assert [day.features for day in loaded.days] == [40, 10, 10], "newest first: an older day has no news"
    lake = Lake(promoted_days.lake)
    rows = lake.read(lake.get("user_features/tiny", DAYS[1])).filter(
        [user < 20 for user in lake.read(lake.get("user_features/tiny", DAYS[1]))["user_id"].to_pylist()]
    )
    codec = FeatureCodec(model.schema)
    for row in rows.to_pylist():
        value = store.redis.get(store.keys.features("tiny", row["user_id"]))
        assert isinstance(value, bytes)
        assert int.from_bytes(value[:8], "little") == int(1000 * row["event_time"].timestamp())
        assert value[8:] == codec.encode({name: row[name] for name in ("liked", "seen", "age")})


def test_a_model_that_computes_nothing_needs_no_features(store: Store, promoted_days: Settings) -> None:
    load(of_mode("batch"), None, store=store, settings=promoted_days)
    assert not list(store.redis.scan_iter("um:{*}:f:*"))


@pytest.mark.parametrize(
    ("day", "wanted"), [(None, DAYS[0]), (DAYS[1], DAYS[1])], ids=["the first that was promoted", "declared"]
)
def test_a_frozen_model_has_one_day(store: Store, promoted_days: Settings, day: date | None, wanted: date) -> None:
    model = of_mode("frozen", frozen_day=day)
    for ds in (DAYS[1], DAYS[2], None):
        loaded = load(model, ds, store=store, settings=promoted_days)
        assert [one.ds for one in loaded.days] == [wanted]
    assert store.served()["tiny"].ds == wanted.isoformat()
    number = DAYS.index(wanted)
    assert sorted(pooled_in_the_store(store)) == list(range(10 * number, 40 + 10 * number))


def test_a_rollback_brings_back_what_was_pooled_before(store: Store, three_days: Settings) -> None:
    model = of_mode("batch")
    for ds in DAYS[:2]:
        load(model, ds, store=store, settings=three_days)
    before = pooled_in_the_store(store)
    load(model, DAYS[2], store=store, settings=three_days)
    assert store.served()["tiny"].version == 3
    rollback(model, settings=three_days, by="test")
    loaded = load(model, DAYS[1], store=store, settings=three_days)
    served = store.served()["tiny"]
    assert (loaded.serves, served.version, served.withdrawn) == (served, 2, (3,))
    found = {user: store.read(user, ("tiny",))[0] for user in USERS}
    kept = {
        user: record.entries[~np.isin(record.entries["version"], served.withdrawn)]
        for user, record in found.items()
        if record is not None
    }
    after = {user: Record(entries).pooled().tobytes() for user, entries in kept.items() if len(entries)}
    assert after == before


def test_another_version_of_a_day_takes_the_place_of_the_one_before(store: Store, three_days: Settings) -> None:
    model = of_mode("batch")
    load(model, None, store=store, settings=three_days)
    publish_day(model, DAYS[2], make_tower(model, noise=0.9), settings=three_days, salt="again")
    infer(model, DAYS[2], settings=three_days)
    promote(model, DAYS[2], settings=three_days, by="test")
    load(model, DAYS[2], store=store, settings=three_days)
    served = store.served()["tiny"]
    assert (served.version, served.withdrawn) == (4, ())
    newest = pooled_in_the_lake(three_days, DAYS[2])
    assert pooled_in_the_store(store, range(20, 60)) == newest


def test_a_later_day_goes_on_serving(store: Store, promoted_days: Settings) -> None:
    load(of_mode("batch"), DAYS[2], store=store, settings=promoted_days)
    load(of_mode("batch"), DAYS[0], store=store, settings=promoted_days)
    assert store.served()["tiny"].version == 3


def test_the_compute_center_says_what_serves(store: Store, three_days: Settings) -> None:
    model = of_mode("async")
    load(model, DAYS[1], store=store, settings=three_days)
    assert store.served()["tiny"].version == 2, "nobody had said anything"
    load(model, DAYS[2], store=store, settings=three_days)
    assert store.served()["tiny"].version == 2
    assert Registry(three_days).alias("tiny", "champion") is not None
    rollback(model, settings=three_days, by="test")
    load(model, DAYS[1], store=store, settings=three_days)
    assert store.served()["tiny"].withdrawn == (3,)


def test_nothing_serves_before_its_consumers_have_learnt_it(
    store: Store, three_days: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = learning_recipe("batch")
    monkeypatch.setitem(DOWNSTREAM_MODELS, "one", lambda: consumer("one"))
    computes, idle = [learning_recipe("async")], Statistics()
    champions = Champions(computes, settings=three_days, store=store, statistics=idle, warm_up=(1,))

    def serves() -> tuple[int, int, list[int]]:
        """By the compute center, by what clients are told, and of the loaded days."""
        champions.poll()
        loaded = load(model, None, store=store, settings=three_days)
        (at_work,) = champions.of("tiny")
        return at_work.reference.version, store.served()["tiny"].version, [day.version for day in loaded.days]

    rollback(model, settings=three_days, by="test")
    promote(model, DAYS[2], settings=three_days, by="test")
    assert serves() == (2, 2, [2, 1]), "promoted and visible"
    commit_examples(Lake(three_days.lake), DAYS[3])
    learn(three_days, DAYS[3], "one")
    assert serves() == (2, 2, [2, 1]), "learnt too"
    assert pooled_in_the_store(store, range(50, 60)) == {}, "users of the third day alone"
    assert release(model, settings=three_days).partitions == (DAYS[2],)
    assert serves() == (3, 3, [3, 2, 1])
    assert len(pooled_in_the_store(store)) == 60


def test_a_first_day_that_waits_is_no_missing_day(store: Store, three_days: Settings) -> None:
    registry = Registry(three_days)
    for version in registry.versions("tiny"):
        registry.tag(version, {"waits_for": "one two"})
    with pytest.raises(NothingLearntError, match="version 1 of 2026-01-01 waits for one, two to learn it"):
        load(of_mode("batch"), None, store=store, settings=three_days)


@pytest.mark.parametrize(
    ("model", "ds", "words"),
    [
        (of_mode("batch"), date(2025, 12, 31), "no promoted day up to 2025-12-31; promote one first"),
        (of_mode("frozen", frozen_day=date(2026, 1, 9)), None, "no promoted day up to 2026-01-09"),
        (replace(tiny_recipe(), pooling_versions=4), None, "pools 4 versions; a record keeps 3"),
    ],
    ids=["before the first", "frozen on no day", "pools more than is kept"],
)
def test_what_cannot_be_loaded(
    store: Store, promoted_days: Settings, model: Recipe, ds: date | None, words: str
) -> None:
    with pytest.raises(ValueError, match=words):
        load(model, ds, store=store, settings=promoted_days)
