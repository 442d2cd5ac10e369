from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from features.hashing import mixed
from features.lake import Lake, Partition
from snapshots.shift import ordered
from snapshots.shift.ordered import Layout, Spool, common, concatenated, lowest_hashes, num_buckets
from tests.snapshots.shift.planted import commit, commit_in_files, embedded, embeddings_of
from tests.snapshots.world import DAYS

LAYOUT = Layout(num_embeddings=2, dim=8)
IDS = np.random.default_rng(0).choice(10**12, 1_000, replace=False)
VECTORS = embedded(1_000)


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    return Lake(tmp_path)


@pytest.fixture
def day(lake: Lake) -> Partition:
    return commit(lake, DAYS[0], embeddings_of(DAYS[0], IDS, VECTORS))


@pytest.mark.parametrize("buckets", [1, 3, 50])
def test_everybody_comes_once_in_the_order_of_hashes(lake: Lake, day: Partition, buckets: int) -> None:
    with Spool(lake, day, LAYOUT, buckets=buckets) as spool:
        parts = list(spool.users())
    assert len(parts) == buckets
    users = concatenated(parts)
    order = np.argsort(mixed(IDS))
    np.testing.assert_array_equal(users.hashes, mixed(IDS)[order])
    np.testing.assert_array_equal(users.ids, IDS[order])
    np.testing.assert_array_equal(users.vectors, VECTORS[order])


def test_the_order_of_rows_files_and_batches_does_not_matter(
    lake: Lake, day: Partition, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ordered, "_BATCH_ROWS", 64)
    shuffled = np.random.default_rng(1).permutation(1_000)
    parts = [embeddings_of(DAYS[1], IDS[rows], VECTORS[rows]) for rows in np.array_split(shuffled, 3)]
    other = commit_in_files(lake, DAYS[1], parts)
    assert len(lake.files(other)) == 3
    with Spool(lake, day, LAYOUT, buckets=7) as a, Spool(lake, other, LAYOUT, buckets=7) as b:
        for one, another in zip(a.users(), b.users(), strict=True):
            np.testing.assert_array_equal(one.rows, another.rows)


def test_a_sample_is_of_the_lowest_hashes(lake: Lake, day: Partition, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ordered, "_BATCH_ROWS", 64)
    last = lowest_hashes(lake.dataset(day), 100)
    assert (mixed(IDS) <= last).sum() == 100
    assert (mixed(IDS) <= lowest_hashes(lake.dataset(day), 5_000)).all()


def test_two_days_are_joined(lake: Lake, day: Partition) -> None:
    ids = np.concatenate([IDS[500:], IDS[:100] + 1])
    other = commit(lake, DAYS[1], embeddings_of(DAYS[1], ids, VECTORS[:600]))
    with Spool(lake, day, LAYOUT, buckets=3) as a, Spool(lake, other, LAYOUT, buckets=3) as b:
        pairs = [common(*users) for users in zip(a.users(), b.users(), strict=True)]
    before, after = (concatenated(users) for users in zip(*pairs, strict=True))
    np.testing.assert_array_equal(before.ids, after.ids)
    assert set(before.ids.tolist()) == set(IDS.tolist()) & set(ids.tolist())


def test_buckets_keep_memory_bounded(lake: Lake, day: Partition, monkeypatch: pytest.MonkeyPatch) -> None:
    assert num_buckets(lake, [day], LAYOUT) == 1
    monkeypatch.setattr(ordered, "BUCKET_BYTES", LAYOUT.row.itemsize * 100)
    assert num_buckets(lake, [day], LAYOUT) == 10


def test_a_user_who_is_listed_twice_is_an_error(lake: Lake) -> None:
    rows = embeddings_of(DAYS[0], np.array([1, 2, 1]), VECTORS[:3])
    with (
        Spool(lake, commit(lake, DAYS[0], rows), LAYOUT, buckets=1) as spool,
        pytest.raises(ValueError, match="user 1 twice"),
    ):
        spool.read(0)


def test_another_dimension_is_an_error(lake: Lake, day: Partition) -> None:
    with pytest.raises(ValueError, match="lengths other than 12"):
        Spool(lake, day, Layout(num_embeddings=2, dim=12), buckets=1)
