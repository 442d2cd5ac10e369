from __future__ import annotations

import dataclasses

import duckdb
import numpy as np
import polars as pl
import pytest
import torch

from features.batches import Encoder
from features.lake import Lake, MissingPartitionError
from infra.settings import Settings
from snapshots.embeddings import fp16_exact, stack
from snapshots.inference import infer
from snapshots.promotion import promote
from snapshots.registry import Registry
from tests.snapshots.world import DAYS, commit_users, make_tower, newest, publish_day, tiny_recipe
from trainer.recipe import Recipe

K, D = 2, 8


def _computed(lake: Lake, ds: int) -> tuple[list[int], np.ndarray]:
    rows = lake.read(lake.get("candidate_embeddings/tiny", DAYS[ds]))
    return rows["user_id"].to_pylist(), stack(rows, "embedding", num_embeddings=K, dim=D)


def _run(recipe: Recipe, ds: int, users: range, settings: Settings, *, promoted: bool = True) -> None:
    commit_users(Lake(settings.lake), DAYS[ds], users, seed=ds)
    publish_day(recipe, DAYS[ds], make_tower(recipe, noise=0.1 * ds), settings=settings)
    infer(recipe, DAYS[ds], settings=settings)
    if promoted:
        promote(recipe, DAYS[ds], settings=settings, by="test")


def test_every_active_user_is_embedded(recipe: Recipe, settings: Settings, lake: Lake) -> None:
    users = commit_users(lake, DAYS[0], range(50, 150))
    tower = make_tower(recipe)
    version = publish_day(recipe, DAYS[0], tower, settings=settings)
    embedded = infer(recipe, DAYS[0], settings=settings)
    assert (embedded.num_users, embedded.version, embedded.unchanged) == (100, version.number, False)
    features = lake.read(users)
    batch = Encoder(recipe.source.schema, sides=("user",)).encode(features)
    with torch.inference_mode():
        expected = fp16_exact(tower(batch.user_sparse, batch.user_dense).numpy())
    ids, computed = _computed(lake, 0)
    assert ids == features["user_id"].to_pylist()
    np.testing.assert_array_equal(computed, expected)
    rows = lake.read(embedded.partition)
    np.testing.assert_array_equal(stack(rows, "pooled", num_embeddings=K, dim=D), expected)
    assert set(rows["num_pooled"].to_pylist()) == {1}
    assert set(rows["version"].to_pylist()) == {1}
    assert rows["feature_time"].equals(features["event_time"])
    assert newest(settings, DAYS[0]).embeddings == embedded.partition
    metadata = lake.open("candidate_embeddings/tiny").history(1)[0]
    assert metadata["usermodel.version"] == "1"
    assert metadata["usermodel.model_fingerprint"] == version.fingerprint


def test_pooled_are_the_last_three_promoted_days_and_nothing_held(
    recipe: Recipe, settings: Settings, lake: Lake
) -> None:
    _run(recipe, 0, range(0, 60), settings)
    _run(recipe, 1, range(20, 80), settings)
    _run(recipe, 2, range(0, 100), settings, promoted=False)
    _run(recipe, 3, range(0, 100), settings)
    vectors = [dict(zip(*_computed(lake, ds), strict=True)) for ds in range(4)]
    rows = lake.read(lake.get("candidate_embeddings/tiny", DAYS[3]))
    pooled = stack(rows, "pooled", num_embeddings=K, dim=D)
    for row, user in enumerate(rows["user_id"].to_pylist()):
        own = [vectors[ds][user] for ds in (3, 1, 0) if user in vectors[ds]]
        assert rows["num_pooled"][row].as_py() == len(own)
        np.testing.assert_allclose(pooled[row], np.mean(own, axis=0), atol=2e-3)


def test_running_it_twice_commits_once(recipe: Recipe, settings: Settings, lake: Lake) -> None:
    _run(recipe, 0, range(30), settings, promoted=False)
    before = lake.open("candidate_embeddings/tiny").version()
    again = infer(recipe, DAYS[0], settings=settings)
    assert again.unchanged
    assert lake.open("candidate_embeddings/tiny").version() == before


def test_a_promoted_day_is_sealed(recipe: Recipe, settings: Settings, lake: Lake) -> None:
    _run(recipe, 0, range(30), settings)
    sealed = newest(settings, DAYS[0]).embeddings
    commit_users(lake, DAYS[0], range(40), seed=9)  # late data
    again = infer(recipe, DAYS[0], settings=settings)
    assert again.unchanged
    assert again.partition == sealed
    assert again.num_users == 30


def test_an_explicit_new_version_leaves_the_promoted_bytes_readable(
    recipe: Recipe, settings: Settings, lake: Lake
) -> None:
    _run(recipe, 0, range(30), settings)
    sealed = newest(settings, DAYS[0]).visible
    before = lake.read(sealed)
    publish_day(recipe, DAYS[0], make_tower(recipe, seed=5), settings=settings, salt="again")
    assert infer(recipe, DAYS[0], settings=settings).version == 2
    assert Registry(settings).promoted_embeddings("tiny", before=DAYS[1]) == [sealed]
    assert lake.read(sealed).equals(before)


@pytest.mark.parametrize("poison", [pytest.param(float("nan"), id="NaN"), pytest.param(float("inf"), id="infinity")])
def test_a_vector_that_is_not_finite_stops_the_day(
    recipe: Recipe, settings: Settings, lake: Lake, poison: float
) -> None:
    commit_users(lake, DAYS[0], range(30))
    tower = make_tower(recipe)
    with torch.no_grad():
        tower.output.bias[3] = poison
    publish_day(recipe, DAYS[0], tower, settings=settings)
    with pytest.raises(ValueError, match=r"user 0 has a vector with NaN or inf \(15 such users"):
        infer(recipe, DAYS[0], settings=settings)
    assert lake.find("candidate_embeddings/tiny", DAYS[0]) is None
    assert newest(settings, DAYS[0]).embeddings is None


def test_missing_user_features_are_named(recipe: Recipe, settings: Settings) -> None:
    publish_day(recipe, DAYS[0], make_tower(recipe), settings=settings)
    with pytest.raises(MissingPartitionError, match="user_features/tiny has no partition ds=2026-01-01"):
        infer(recipe, DAYS[0], settings=settings)


def test_another_dimension_needs_another_table(recipe: Recipe, settings: Settings) -> None:
    _run(recipe, 0, range(30), settings)
    wider = dataclasses.replace(tiny_recipe(), user_tower=dataclasses.replace(recipe.user_tower, dim=12))
    with pytest.raises(ValueError, match="has dim 8 in the table and 12 in the recipe"):
        _run(wider, 1, range(30), settings)


def test_duckdb_and_polars_read_plain_numbers(recipe: Recipe, settings: Settings, lake: Lake) -> None:
    _run(recipe, 0, range(30), settings)
    ids, computed = _computed(lake, 0)
    files = lake.files(lake.get("candidate_embeddings/tiny", DAYS[0]))
    found = duckdb.sql(
        f"select user_id, embedding_1 from read_parquet({files!r}) order by user_id"  # noqa: S608
    ).fetchall()
    np.testing.assert_array_equal(np.array([row[1] for row in found], np.float32), computed[:, 1])
    frame = pl.read_delta(lake.uri("candidate_embeddings/tiny")).sort("user_id")
    np.testing.assert_array_equal(np.array(frame["embedding_0"].to_list(), np.float32), computed[:, 0])
    assert frame["user_id"].to_list() == ids
    fields = {field.name: field.metadata for field in lake.open("candidate_embeddings/tiny").schema().fields}
    assert fields["embedding_0"]["usermodel.dim"] == "8"
    assert fields["pooled_1"]["usermodel.num_embeddings"] == "2"
