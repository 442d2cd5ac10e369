"""Which version of the embeddings an arm of Table 4 is given on which day."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from features.lake import Lake
from infra.experiments.lab import Lab
from infra.experiments.towers import DailyTowers, read_users
from infra.experiments.versions import NONE, OPTION_1, TURNED_ONCE, Days, Variant, variants
from tests.snapshots.world import DAYS, commit_users, make_tower, tiny_recipe


@pytest.fixture
def lab_and_towers(tmp_path: Path) -> tuple[Lab, DailyTowers]:
    lake, days, recipe = Lake(tmp_path / "lake"), tuple(DAYS[:4]), tiny_recipe()
    for day, ds in enumerate(days):
        commit_users(lake, ds, range(day, day + 30), seed=day)
    users = tuple(read_users(recipe.source, ds, lake) for ds in days)
    lab = Lab(source=recipe.source, days=days, lake=lake, folder=tmp_path, users=users)
    towers = [make_tower(recipe, noise=0.1 * day) for day in range(len(days))]
    return lab, DailyTowers(recipe=recipe, users=users, towers=towers)


def test_option_1_serves_the_newest_version_that_was_trained_on(lab_and_towers: tuple[Lab, DailyTowers]) -> None:
    lab, towers = lab_and_towers
    option = variants(lab, towers, seed=0)[OPTION_1]
    assert option.evaluated is not None
    np.testing.assert_array_equal(option.trained(2).vectors, towers.embed(2, 2))
    np.testing.assert_array_equal(option.evaluated(2).vectors, towers.embed(1, 2))
    joined = Days(lab=lab, of_day=option.evaluated, only=None).newest(3)
    np.testing.assert_array_equal(joined.user_ids, np.arange(32))
    assert joined.age_days.tolist() == [3, 2, *[1] * 30], "users 0 and 1 were last seen on days 0 and 1"
    np.testing.assert_array_equal(joined.vectors[2:], towers.embed(1, 2))


def test_one_embedding_alone(lab_and_towers: tuple[Lab, DailyTowers]) -> None:
    lab, towers = lab_and_towers
    alone: Variant = variants(lab, towers, seed=0)["Embedding1 alone"]
    joined = Days(lab=lab, of_day=alone.trained, only=alone.only).newest(1)
    np.testing.assert_array_equal(joined.vectors, towers.embed(0, 0)[:, 1:])


def test_a_space_that_turns_holds_the_same(lab_and_towers: tuple[Lab, DailyTowers]) -> None:
    """Versions differ by a rotation, so products between users of one version stay."""
    lab, towers = lab_and_towers
    arms = variants(lab, towers, seed=0)
    plain, turned = (arms[name].trained(3).vectors[:, 0] for name in (NONE, TURNED_ONCE))
    assert not np.allclose(plain, turned, atol=0.1)
    np.testing.assert_allclose(turned @ turned.T, plain @ plain.T, rtol=0.01, atol=0.05)
