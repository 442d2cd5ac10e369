from __future__ import annotations

from datetime import UTC, date, datetime

import numpy as np
import pyarrow as pa
import pytest

from features.lake import Lake, Partition
from infra.settings import Settings
from snapshots.embeddings import embeddings_schema, fp16_exact, to_lists, to_vectors
from snapshots.pooling import Cached
from tests.snapshots.world import DAYS

K, D = 2, 4


def _commit(lake: Lake, ds: date, users: dict[int, np.ndarray]) -> Partition:
    """A day's embeddings; pooled columns hold a value that must never be pooled."""
    ids = list(users)
    computed = np.stack([users[user] for user in ids])
    wrong = np.full_like(computed, 1000.0)
    data = pa.Table.from_arrays(
        [
            pa.array(ids, pa.int64()),
            *(to_lists(vectors[:, k]) for vectors in (computed, wrong) for k in range(K)),
            pa.array([1] * len(ids), pa.int8()),
            pa.array([1] * len(ids), pa.int32()),
            pa.array([datetime(2026, 1, 1, tzinfo=UTC)] * len(ids), pa.timestamp("us", tz="UTC")),
        ],
        schema=embeddings_schema(num_embeddings=K, dim=D, model="tiny"),
    )
    return lake.commit("user_embeddings/tiny", ds, data, fingerprint=f"{ds.toordinal():064x}")


def _vectors(rng: np.random.Generator, num_users: int) -> np.ndarray:
    return fp16_exact(rng.normal(size=(num_users, K, D)).astype(np.float32))


@pytest.mark.parametrize("versions", [1, 2, 3, 4])
def test_pooling_is_the_mean_of_the_newest_computed_vectors(lake: Lake, versions: int) -> None:
    rng = np.random.default_rng(versions)
    days = [
        {int(user): vector for user, vector in zip(users, _vectors(rng, len(users)), strict=True)}
        for users in (rng.permutation(60)[: rng.integers(20, 50)] for _ in range(4))
    ]
    newest_first = [_commit(lake, ds, users) for ds, users in zip(DAYS, days, strict=False)][::-1]
    today = rng.permutation(80)[:60].astype(np.int64)
    computed = _vectors(rng, 60)
    history = Cached(lake, newest_first, num_embeddings=K, dim=D, versions=versions).of(today)
    pooled, num_pooled = history.pool(today, computed)
    for row, user in enumerate(today):
        earlier = [users[int(user)] for users in days[::-1] if int(user) in users][: versions - 1]
        expected = np.mean([computed[row], *earlier], axis=0, dtype=np.float64)
        assert num_pooled[row] == 1 + len(earlier)
        np.testing.assert_allclose(pooled[row], expected, rtol=1e-3, atol=1e-3)
        np.testing.assert_array_equal(pooled[row], fp16_exact(pooled[row]))


def test_a_vector_that_did_not_move_stays_what_it_is(lake: Lake) -> None:
    vectors = _vectors(np.random.default_rng(0), 10)
    ids = np.arange(10, dtype=np.int64)
    previous = [_commit(lake, ds, dict(enumerate(vectors))) for ds in DAYS[:2]][::-1]
    history = Cached(lake, previous, num_embeddings=K, dim=D, versions=3).of(ids)
    pooled, num_pooled = history.pool(ids, vectors)
    np.testing.assert_array_equal(pooled, vectors)
    assert set(num_pooled) == {3}


def test_a_user_with_two_rows_is_an_error(settings: Settings) -> None:
    with pytest.raises(ValueError, match="user 7 has more than one row"):
        Cached(Lake(settings.lake), [], num_embeddings=K, dim=D, versions=3).of(np.array([7, 1, 7]))


@pytest.mark.parametrize(
    "lists",
    [
        pytest.param([[1.0, 2.0, 3.0, 4.0], [1.0]], id="one is short"),
        pytest.param([[1.0, 2.0, 3.0, 4.0], None], id="one is null"),
        pytest.param([[1.0, 2.0, 3.0, None]], id="a value is null"),
        pytest.param([[1.0, 2.0, 3.0, 4.0, 5.0], [1.0, 2.0, 3.0]], id="right in sum only"),
    ],
)
def test_vectors_of_another_length_are_refused(lists: list[object]) -> None:
    with pytest.raises(ValueError, match="nulls or lengths other than 4"):
        to_vectors(pa.array(lists, pa.list_(pa.float32())), dim=D)


def test_vectors_survive_slicing_and_chunking() -> None:
    vectors = np.arange(40, dtype=np.float32).reshape(10, D)
    lists = to_lists(vectors)
    np.testing.assert_array_equal(to_vectors(lists.slice(3, 5), dim=D), vectors[3:8])
    np.testing.assert_array_equal(to_vectors(pa.chunked_array([lists[:4], lists[4:]]), dim=D), vectors)
