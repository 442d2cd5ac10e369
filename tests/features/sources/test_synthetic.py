"""The synthetic world: made from (seed, ds) alone, drifting, with births, and not rigged."""

from __future__ import annotations

from dataclasses import replace
from datetime import date, timedelta
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

from features.arrow import examples_schema, user_features_schema
from features.sources.synthetic import SyntheticWorld
from features.sources.synthetic_world import World
from tests.features.worlds import TINY

DAY = date(2026, 1, 1)
SMALL = replace(TINY, num_users=800, events_per_day=12_000, num_sparse=2)


def test_a_day_depends_on_seed_and_day_alone() -> None:
    earlier = World(TINY).log(DAY)
    World(TINY).log(DAY + timedelta(days=1))
    assert World(TINY).log(DAY).equals(earlier)
    assert not World(TINY).log(DAY + timedelta(days=1)).equals(earlier)
    assert not World(replace(TINY, seed=1)).log(DAY).equals(earlier)


def test_the_log_lands_once_and_is_then_only_read(tmp_path: Path) -> None:
    reader = TINY.open(landing=tmp_path, data_dir=None)
    (path,) = reader.log_files(DAY)
    assert path == tmp_path / "tiny" / f"ds={DAY}" / "log.parquet"
    assert [file.name for file in path.parent.iterdir()] == ["log.parquet"], "no temporary file is left"
    landed = pq.read_table(path, partitioning=None)
    pq.write_table(landed.slice(0, 10), path)
    assert reader.read(DAY).num_rows == 10


def test_a_log_of_another_config_is_refused(tmp_path: Path) -> None:
    TINY.open(landing=tmp_path, data_dir=None).log_files(DAY)
    other = replace(TINY, seed=3).open(landing=tmp_path, data_dir=None)
    with pytest.raises(ValueError, match="made by another config of source 'tiny'"):
        other.read(DAY)


def test_examples_and_user_features_have_the_layout(tmp_path: Path) -> None:
    reader = TINY.open(landing=tmp_path, data_dir=None)
    landed = reader.read(DAY)
    assert landed.rejected.num_rows == 0
    examples = pa.Table.from_batches(reader.examples(landed.accepted, None))
    assert examples.schema.equals(examples_schema(TINY.schema))
    assert examples.num_rows == TINY.events_per_day
    assert (np.diff(examples["event_time"].cast(pa.int64()).to_numpy()) >= 0).all()
    users = reader.user_features(landed.accepted, None)
    assert users.schema.equals(user_features_schema(TINY.schema))
    newest = {row["user_id"]: row for row in examples.select(users.column_names).to_pylist()}
    assert {row["user_id"]: row for row in users.to_pylist()} == newest


def test_labels_are_rare_enough_and_conversions_follow_clicks() -> None:
    log = World(SMALL).log(DAY)
    click, conversion = log["click"].to_numpy(), log["conversion"].to_numpy()
    assert 0.10 < click.mean() < 0.25
    assert 0.01 < conversion.mean() < 0.5 * click.mean()
    assert not (conversion > click).any()


def _ids(log: pa.Table, name: str) -> set[int]:
    return set(log[name].combine_chunks().flatten().to_pylist())


@pytest.mark.parametrize("feature", ["user", "item", "ids_000"])
def test_some_ids_are_new_every_day_and_old_ones_fade(feature: str) -> None:
    today = _ids(World(SMALL).log(DAY), feature)
    tomorrow = _ids(World(SMALL).log(DAY + timedelta(days=1)), feature)
    much_later = _ids(World(SMALL).log(DAY + timedelta(days=200)), feature)
    assert tomorrow - today
    assert len(tomorrow & today) > 0.5 * len(today)
    assert not much_later & today


def test_tastes_drift_steadily_with_unit_variance() -> None:
    world, day = World(SMALL), DAY.toordinal()
    users = world.users(day)
    now = world.tastes(users, day)
    after = [world.tastes(users, day + days) for days in (1, 10, 40)]
    cosines = [_cosine(now, later) for later in after]
    assert cosines[0] > 0.99
    assert cosines[0] > cosines[1] > cosines[2] > 0.2
    assert now.var() == pytest.approx(1.0, abs=0.1)


def _cosine(left: npt.NDArray[np.float64], right: npt.NDArray[np.float64]) -> float:
    norms = np.linalg.norm(left, axis=1) * np.linalg.norm(right, axis=1)
    return float(((left * right).sum(1) / norms).mean())


def _observed(config: SyntheticWorld, ds: date) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.int8]]:
    """What a linear model of the features sees: outer products of user and item values."""
    log = World(config).log(ds)
    user = np.stack([log[f"dense_{i:03d}"].to_numpy() for i in range(1, config.num_dense)], 1)
    item = np.stack([log[f"item_dense_{i}"].to_numpy() for i in range(3)], 1)
    return (user[:, :, None] * item[:, None, :]).reshape(len(user), -1), log["click"].to_numpy()


@pytest.mark.parametrize(
    ("permuted", "low", "high"),
    [(False, 0.60, 0.95), (True, 0.46, 0.54)],
    ids=["as it is", "permuted labels"],
)
def test_features_predict_clicks_unless_labels_are_permuted(permuted: bool, low: float, high: float) -> None:
    config = replace(SMALL, num_dense=16, permuted_labels=permuted)
    model = LogisticRegression(max_iter=500).fit(*_observed(config, DAY))
    inputs, labels = _observed(config, DAY + timedelta(days=1))
    assert low < roc_auc_score(labels, model.predict_proba(inputs)[:, 1]) < high


def test_id_lists_observe_the_taste() -> None:
    """Two users whose lists overlap have closer tastes than two users at random."""
    world, day = World(SMALL), DAY.toordinal()
    log = world.log(DAY)
    users, first = np.unique(log["user_id"].to_numpy(), return_index=True)
    tastes = world.tastes(users, day)
    lists = [set(ids) for ids in log["ids_001"].take(pa.array(first)).to_pylist()]
    pairs = [(i, j) for i in range(len(users)) for j in range(i) if len(lists[i] & lists[j]) >= 2]
    left, right = (np.array(side) for side in zip(*pairs, strict=True))
    assert _cosine(tastes[left], tastes[right]) > 0.1
    assert abs(_cosine(tastes, np.roll(tastes, 1, axis=0))) < 0.1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_users": 0}, "num_users is 0"),
        ({"seed": -1}, "seed is -1"),
        ({"num_sparse": 0}, "num_sparse is 0"),
    ],
    ids=["users", "seed", "sparse"],
)
def test_a_config_that_cannot_be_is_refused(change: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(TINY, **change)


@pytest.mark.slow
def test_a_wide_world_is_made_and_read(tmp_path: Path) -> None:
    wide = SyntheticWorld(name="wide", num_sparse=600, num_dense=1_000, events_per_day=2_000, num_users=500)
    landed = wide.open(landing=tmp_path, data_dir=None).read(DAY)
    assert landed.accepted.num_rows == 2_000
    assert len(wide.schema.sparse_of("user")) == 603
    tables = [feature.table for feature in wide.schema.sparse if feature.name.startswith("ids_")]
    assert len(set(tables)) == 300
