"""The lab's short way gives what the product stores, to the bit."""

from __future__ import annotations

import shutil
from datetime import timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch

from features.lake import Lake
from features.schema import USER_ID
from infra.experiments.lab import Lab
from infra.experiments.sampling import is_kept
from infra.experiments.towers import DailyTowers, beside, locked, read_users
from infra.settings import Settings
from snapshots.embeddings import stack
from snapshots.inference import infer
from snapshots.promotion import promote
from tests.snapshots.world import DAYS, commit_users, make_tower, newest, publish_day, tiny_recipe
from trainer.downstream.joined import newest_embeddings

USERS = [range(40), range(5, 45), [*range(10), *range(30, 60)], range(3, 50, 2)]


def test_what_is_served_and_joined_is_what_the_product_stores(
    tmp_path: Path, empty_store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.set_num_threads(1)
    shutil.copy(empty_store, tmp_path / "mlflow.db")
    monkeypatch.chdir(tmp_path)
    settings = Settings(home=tmp_path / "home", mlflow_uri=f"sqlite:///{tmp_path}/mlflow.db", _env_file=None)
    recipe, lake, days = tiny_recipe(), Lake(settings.lake), DAYS[: len(USERS)]
    towers = [make_tower(recipe, noise=0.1 * day) for day in range(len(days))]
    partitions = []
    for day, ds in enumerate(days):
        commit_users(lake, ds, list(USERS[day]), seed=day)
        publish_day(recipe, ds, towers[day], settings=settings)
        infer(recipe, ds, settings=settings)
        promote(recipe, ds, settings=settings, by="test")
        partition = newest(settings, ds).embeddings
        assert partition is not None
        partitions.append(partition)
    users = tuple(read_users(recipe.source, ds, lake) for ds in days)
    lab = Lab(source=recipe.source, days=tuple(days), lake=lake, folder=tmp_path, users=users)
    daily = DailyTowers(recipe=recipe, users=users, towers=towers)
    for day, partition in enumerate(partitions):
        stored = lake.read(partition).sort_by(USER_ID).combine_chunks().to_batches()[0]
        for prefix, ours in (("embedding", lab.computed(daily, day)), ("pooled", lab.served(daily, day))):
            np.testing.assert_array_equal(ours.user_ids, stored.column(USER_ID).to_numpy())
            vectors = stack(stored, prefix, num_embeddings=2, dim=8)
            np.testing.assert_array_equal(ours.vectors, vectors)

    asked = np.arange(70, dtype=np.int64)
    last = len(days) - 1
    ours = lab.newest({day: lab.served(daily, day) for day in range(last)}, last)
    joined = newest_embeddings(
        lake, partitions[:last][::-1], ds=days[last], day_starts_at=timedelta(0), users=asked, num_embeddings=2, dim=8
    )
    np.testing.assert_array_equal(ours.user_ids, joined.user_ids)
    np.testing.assert_array_equal(ours.vectors, joined.vectors)
    np.testing.assert_array_equal(ours.age_days, joined.age_days)


def test_one_user_of_so_many_is_kept() -> None:
    users = np.arange(20_000, dtype=np.int64)
    kept = is_kept(users, 10)
    assert kept.mean() == pytest.approx(0.1, abs=0.01)
    assert is_kept(users[::-1], 10).tolist() == kept[::-1].tolist()


def test_a_folder_that_was_not_finished_is_begun_anew(tmp_path: Path) -> None:
    place = tmp_path / "towers" / "one"
    with pytest.raises(RuntimeError, match="killed"), locked(place), beside(place) as partial:  # noqa: PT012
        (partial / "half").touch()
        raise RuntimeError("killed")
    assert not place.exists()
    with locked(place), beside(place) as partial:
        (partial / "whole").touch()
    assert [path.name for path in place.iterdir()] == ["whole"]


def test_towers_of_other_examples_have_a_place_of_their_own(tmp_path: Path) -> None:
    recipe, lake, places = tiny_recipe(), Lake(tmp_path / "lake"), set[Path]()
    table = pa.table({USER_ID: [1]})
    for content in ("a", "b"):
        lake.commit(f"examples/{recipe.source.name}", DAYS[0], table, fingerprint=content * 64)
        lab = Lab(source=recipe.source, days=DAYS[:1], lake=lake, folder=tmp_path, users=())
        assert lab.place(recipe) == lab.place(recipe)
        places.add(lab.place(recipe))
    assert len(places) == 2
