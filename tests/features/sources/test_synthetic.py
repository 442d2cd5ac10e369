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
from features.fingerprint import fingerprint
from features.sources.draws import normal
from features.sources.synthetic import SyntheticWorld
from features.sources.synthetic_draws import LATENT, Draw
from features.sources.synthetic_lists import watches
from features.sources.synthetic_world import World
from tests.features.worlds import TINY

DAY = date(2026, 1, 1)
FINGERPRINT = "590aa3009923d94bf15ac20507556b1d6e22eed79fef8b62e8a5979f8b8d53f5"
"""Of the demo's size, as it was before there was an intent."""
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


def _features(log: pa.Table) -> pa.Table:
    return log.drop_columns(["click", "conversion"])


@pytest.mark.parametrize("intent", [0.0, 0.4])
def test_no_label_reaches_a_feature(intent: float) -> None:
    """Other labels, the same features to the bit: that of a shuffled day, and that of another truth."""
    config = replace(TINY, intent=intent)
    log = World(config).log(DAY)
    shuffled = World(replace(config, permuted_labels=True)).log(DAY)
    assert not shuffled["click"].equals(log["click"])
    assert sorted(shuffled["click"].to_pylist()) == sorted(log["click"].to_pylist())
    assert _features(shuffled).equals(_features(log))
    assert _features(EveryoneClicks(config).log(DAY)).equals(_features(log))


class EveryoneClicks(World):
    """A world of another truth."""

    def probabilities(
        self, users: npt.NDArray[np.int64], items: npt.NDArray[np.int64], day: int, fraction: npt.NDArray[np.float64]
    ) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
        return np.ones(len(users)), np.ones(len(users))


@pytest.mark.parametrize("intent", [0.0, 0.4])
def test_beyond_the_truth_no_feature_says_anything(intent: float) -> None:
    """Given the true probability, clicks are coin flips: what is left correlates with no value and no id list."""
    config = replace(SMALL, num_sparse=4, num_dense=6, events_per_day=30_000, intent=intent)
    log = World(config).log(DAY)
    p, _ = true_probabilities(config, log)
    left, scale = log["click"].to_numpy() - p, np.sqrt((p * (1 - p)).sum())
    assert abs(left.sum()) < 4 * scale, "calibrated"
    values = [log[name].to_numpy() for name in log.column_names if "dense" in name]
    values += [log[name].combine_chunks().flatten().to_numpy() for name in ("user", "device", "hour", "item_category")]
    lists = [name for name in log.column_names if name.startswith(("ids_", "recent_"))]
    values += [_sums(log[name], np.sin) for name in lists] + [_sums(log[name], np.cos) for name in lists]
    assert len(values) == 6 + 3 + 4 + 2 * (4 + (2 if intent else 0))
    for value in values:
        standard = (value - value.mean()) / value.std()
        assert abs((left * standard).sum()) < 4.5 * scale
    assert abs((left * (p - p.mean()) / p.std()).sum()) < 4 * scale


def true_probabilities(config: SyntheticWorld, log: pa.Table) -> tuple[npt.NDArray[np.float64], ...]:
    midnight = (DAY - date(1970, 1, 1)).days * 86_400_000_000
    fraction = (log["event_time"].cast(pa.int64()).to_numpy() - midnight) / 86_400_000_000
    items = log["item"].combine_chunks().flatten().to_numpy()
    return World(config).probabilities(log["user_id"].to_numpy(), items, DAY.toordinal(), fraction)


def _sums(ids: pa.ChunkedArray, wave: np.ufunc) -> npt.NDArray[np.float64]:
    """Of each list, of the angles for which its ids stand."""
    flat = ids.combine_chunks()
    angles = wave(flat.flatten().to_numpy() % SMALL.vocabulary * (2 * np.pi / SMALL.vocabulary))
    ends = np.concatenate([[0.0], np.cumsum(angles)])[flat.offsets.to_numpy()]
    return np.diff(ends)


def test_a_world_without_intent_is_what_it_was() -> None:
    """With one, only labels differ, and lists are added; without, the config's fingerprint is that of before."""
    log, other = World(TINY).log(DAY), World(replace(TINY, intent=0.4)).log(DAY)
    added = [name for name in other.column_names if name not in log.column_names]
    assert added == ["recent_000", "recent_001"]
    assert _features(other.drop_columns(added)).equals(_features(log))
    assert not other["click"].equals(log["click"])
    assert fingerprint(SyntheticWorld()) == FINGERPRINT
    assert fingerprint(replace(SyntheticWorld(), intent=0.4)) != FINGERPRINT


def test_the_intent_turns_within_a_day_and_its_lists_follow() -> None:
    world, day = World(replace(SMALL, intent=0.999)), DAY.toordinal()
    users = world.users(day)
    now = world.with_intent(world.tastes(users, day), users, np.full(len(users), day + 0.5))
    assert now.var() == pytest.approx(1.0, abs=0.1)
    hours = [
        _cosine(now, world.with_intent(world.tastes(users, day), users, np.full(len(users), day + 0.5 + hour / 24)))
        for hour in (1, 4, 12)
    ]
    assert hours[0] > 0.95
    assert hours[0] > hours[1] > hours[2] < 0.3
    (watch,) = (one for one in watches(world.config).values() if one.sees_intent)
    log = world.log(DAY).slice(SMALL.events_per_day // 2, 2_000)  # about noon
    newest = np.array([ids[-1] if ids else -1 for ids in log["recent_000"].to_pylist()])
    who = log["user_id"].to_numpy()
    plane = normal(world.config.seed, Draw.PLANE, 0, watch.pair, np.arange(2 * LATENT)).reshape(2, LATENT)
    seen = world.with_intent(world.tastes(who, day), who, np.full(len(who), day + 0.5)) @ plane.T
    angle = np.arctan2(seen[:, 1], seen[:, 0])
    off = angle - newest % SMALL.vocabulary * (2 * np.pi / SMALL.vocabulary)
    assert np.cos(off[newest >= 0]).mean() > 0.5


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


def test_some_events_repeat_what_the_user_was_shown() -> None:
    plain = replace(SMALL, num_items=1_000)
    repeating, kept = World(replace(plain, repeated_share=0.5)), ["event_id", "user_id", "event_time", "ids_000"]

    def shown_before(world: World) -> float:
        before, pairs = (_pairs(world.log(day)) for day in (DAY, DAY + timedelta(days=1)))
        return float(np.isin(pairs, before).mean())

    assert shown_before(repeating) > shown_before(World(plain)) + 0.2
    assert repeating.log(DAY).select(kept).equals(World(plain).log(DAY).select(kept))


def _pairs(log: pa.Table) -> npt.NDArray[np.int64]:
    pairs: npt.NDArray[np.int64] = (
        log["user_id"].to_numpy() * 1_000_000 + log["item"].combine_chunks().flatten().to_numpy()
    )
    return pairs


def test_a_world_from_before_events_repeated_is_as_it_was() -> None:
    assert fingerprint(SyntheticWorld()) == "590aa3009923d94bf15ac20507556b1d6e22eed79fef8b62e8a5979f8b8d53f5"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"repeated_share": 1.5}, "repeated_share is 1.5"),
        ({"num_users": 0}, "num_users is 0"),
        ({"seed": -1}, "seed is -1"),
        ({"num_sparse": 0}, "num_sparse is 0"),
        ({"intent": 1.0}, "intent is 1.0"),
    ],
    ids=["repeated", "users", "seed", "sparse", "intent"],
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
