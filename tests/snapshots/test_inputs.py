"""What went in, in numbers that are known."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from features.arrow import examples_schema, user_features_schema
from features.fingerprint import fingerprint
from features.lake import Lake, Partition
from features.packing import pack
from features.schema import PACKED_FROM, DenseFeature, Schema, SparseFeature, Table
from infra.settings import Settings
from snapshots.inference import infer
from snapshots.promotion import promote
from snapshots.shift.day_profile import profile_day
from snapshots.shift.id_sketch import IdSketch, seen_again
from snapshots.shift.inputs import psi
from snapshots.shift.measure import check_shift
from snapshots.shift.rows import ShiftRow
from snapshots.shift.user_profile import hash_lists, profile_users
from tests.snapshots.world import DAYS, TinySource, commit_users, make_tower, newest, publish_day, tiny_recipe

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)


def test_few_ids_are_counted_exactly_and_many_within_their_error() -> None:
    few, many, later = IdSketch(), IdSketch(), IdSketch()
    few.add(np.array([5, 5, 7, 9, 7]))
    assert (few.num_distinct, few.error) == (3, None)
    for begin in range(0, 100_000, 10_000):
        many.add(np.repeat(np.arange(begin, begin + 10_000), 2))
    assert many.error is not None
    assert abs(many.num_distinct - 100_000) < 3 * many.error < 10_000
    later.add(np.arange(30_000, 500_000))
    share, error = seen_again(many, later)
    assert error is not None
    assert abs(share - 0.7) < 3 * error < 0.1
    assert seen_again(few, few) == (1.0, None)


def test_a_list_is_another_when_an_id_or_its_place_is() -> None:
    lists = [[1, 2], [2, 1], [1, 2], [], [1], [1, 2, 3], [], [0]]
    ids = np.array([value for of in lists for value in of])
    hashes = hash_lists(ids, np.array([len(of) for of in lists]))
    assert [list(hashes).index(value) for value in hashes] == [0, 1, 0, 3, 4, 5, 3, 7]
    assert [value == 0 for value in hashes] == [not of for of in lists]


@pytest.mark.parametrize(
    ("after", "low", "high"),
    [
        (np.random.default_rng(1).normal(0, 1, 5_000), 0.0, 0.02),
        (np.random.default_rng(1).normal(0.5, 1, 5_000), 0.2, 0.35),
        (np.zeros(5_000), 2.0, 20.0),
    ],
    ids=["as before", "moved by half a deviation", "all zeros"],
)
def test_psi_is_small_for_the_same_population(after: np.ndarray, low: float, high: float) -> None:
    before = np.random.default_rng(0).normal(0, 1, 5_000)
    assert low <= psi(before, after) <= high


def test_psi_of_one_value_is_nothing_until_it_is_another() -> None:
    same = np.zeros(100)
    assert psi(same, same) == pytest.approx(0)
    assert psi(same, np.ones(100)) > 1


def test_a_wide_schema_is_profiled_as_a_narrow_one(tmp_path: Path) -> None:
    """Packed or not, sampled or not."""
    sparse = tuple(SparseFeature(name=f"s{i}", table="t") for i in range(PACKED_FROM))
    schema = Schema(
        tables=(Table(name="t", num_rows=10),), sparse=sparse, dense=(DenseFeature(name="d"),), tasks=("y",)
    )
    rows = [
        {"user_id": user, "event_time": NOON, "d": float(user % 2), **{f.name: [user, 1][: user % 3] for f in sparse}}
        for user in range(60)
    ]
    plain = pa.Table.from_pylist(rows, schema=user_features_schema(schema))
    packed = pa.Table.from_batches([pack(plain, user_features_schema(schema, stored=True))])
    lake = Lake(tmp_path)
    found = [
        profile_users(lake, lake.commit(name, NOON.date(), table, fingerprint=fingerprint(name)), schema)
        for name, table in (("user_features/packed", packed), ("user_features/plain", plain))
    ]
    assert [len(profile.lists) for profile in found] == [PACKED_FROM, PACKED_FROM]
    for profile in found:
        assert (profile.num_users, len(profile.sampled)) == (60, 60)
        assert (profile.lists["s5"].num_present, profile.lists["s5"].num_ids) == (40, 60)
        assert (profile.numbers["d"].mean, profile.numbers["d"].num_zeros) == (0.5, 30)
    assert np.array_equal(np.sort(found[0].values_of("s7")), np.sort(found[1].values_of("s7")))


def _examples(lake: Lake, ds: date, hours: list[float], *, name: str) -> Partition:
    schema = examples_schema(TinySource().schema)
    start = datetime(ds.year, ds.month, ds.day, tzinfo=UTC)
    rows = [
        {"user_id": 1, "event_time": start + timedelta(hours=hour), "liked": [], "seen": [], "place": [], "age": 1.0,
         "click": number % 2}
        for number, hour in enumerate(hours)
    ]  # fmt: skip
    return lake.commit(name, ds, pa.Table.from_pylist(rows, schema=schema), fingerprint=fingerprint(name, ds))


@pytest.mark.parametrize(
    ("kept", "missing"),
    [(24.0, 0.0), (12.0, 0.5), (23.0, 1 / 24), (0.0, 1.0)],
    ids=["whole", "half", "an hour", "nothing"],
)
def test_missing_hours_are_a_share_of_the_day_before(lake: Lake, kept: float, missing: float) -> None:
    hours = [number / 4 for number in range(96)]
    before = profile_day(lake, _examples(lake, DAYS[0], hours, name="examples/a"), TinySource())
    left = [hour for hour in hours if hour < kept]
    after = profile_day(lake, _examples(lake, DAYS[1], left, name="examples/b"), TinySource())
    assert after.num_examples == len(left)
    assert after.missing_share(before) == pytest.approx(missing)
    assert before.positives == {"click": 48}
    if left:
        assert after.span_hours == pytest.approx(left[-1])
        assert after.hours_moved(before) == pytest.approx(missing)


def test_a_quiet_day_and_an_hour_later_are_no_missing_hours(lake: Lake) -> None:
    hours = [number / 4 for number in range(96)]
    before = profile_day(lake, _examples(lake, DAYS[0], hours, name="examples/a"), TinySource())
    thin = profile_day(lake, _examples(lake, DAYS[1], hours[::4], name="examples/b"), TinySource())
    assert thin.missing_share(before) == 0


def _row(rows: tuple[ShiftRow, ...], metric: str, feature: str = "") -> float:
    return next(row.value for row in rows if (row.kind, row.metric, row.feature) == ("inputs", metric, feature))


def test_the_day_is_compared_with_the_last_promoted_one(settings: Settings, lake: Lake) -> None:
    recipe = tiny_recipe()
    users = range(300)
    for ds, promoted in ((DAYS[0], True), (DAYS[1], False), (DAYS[2], False)):
        commit_users(lake, ds, users if ds != DAYS[2] else range(100, 400), seed=0 if ds != DAYS[1] else 1)
        publish_day(recipe, ds, make_tower(recipe), settings=settings)
        infer(recipe, ds, settings=settings)
        rows = check_shift(recipe, ds, settings=settings).rows
        if promoted:
            assert not [row for row in rows if row.metric == "unchanged_share"], "there is nothing to compare with"
            promote(recipe, ds, settings=settings, by="test")
        elif ds == DAYS[1]:
            assert _row(rows, "unchanged_share", "seen") == 0
            assert _row(rows, "ids_seen_again", "seen") < 0.1
    assert _row(rows, "unchanged_share", "seen") == 1, "against DAYS[0], not against the day that nobody promoted"
    assert _row(rows, "returning_share") == pytest.approx(2 / 3)
    assert _row(rows, "present_share", "liked") == pytest.approx(0.75, abs=0.06)
    assert _row(rows, "present_share", "age") == 1
    assert newest(settings, DAYS[2]).decision == "pending"
