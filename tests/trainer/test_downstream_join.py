"""The join as of the day before, against a plain reference."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from features.lake import Lake, Partition
from tests.trainer.downstream_world import CTR, SCHEMA, TOWER, day, embeddings_table, end_of
from trainer.downstream.joined import (
    JoiningEncoder,
    NewestEmbeddings,
    NoEmbeddingsError,
    newest_embeddings,
    usable,
    usable_of,
)

TABLE = "user_embeddings/tiny"


def partition(index: int, *, table: str = TABLE) -> Partition:
    return Partition(table=table, ds=day(index), version=0, fingerprint="0" * 15)


def join(lake: Lake, partitions: tuple[Partition, ...], users: list[int], *, ds: int = 5) -> NewestEmbeddings:
    return newest_embeddings(
        lake,
        partitions,
        ds=day(ds),
        day_starts_at=timedelta(hours=3),
        users=np.array(users, dtype=np.int64),
        num_embeddings=TOWER.num_embeddings,
        dim=TOWER.dim,
    )


@pytest.mark.parametrize(
    ("given", "lookback", "expected"),
    [
        pytest.param([0, 1, 2], 14, [2, 1, 0], id="newest first"),
        pytest.param([3, 4, 5, 6], 14, [4, 3], id="never the day itself or a later one"),
        pytest.param([0, 2, 3, 4], 2, [4, 3], id="not older than the lookback"),
        pytest.param([4], 1, [4], id="the day before alone"),
    ],
)
def test_usable_partitions(given: list[int], lookback: int, expected: list[int]) -> None:
    found = usable([partition(i) for i in given], day(5), table=TABLE, lookback_days=lookback)
    assert [p.ds for p in found] == [day(i) for i in expected]


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        pytest.param([], NoEmbeddingsError, "promote the embeddings of a day before 2026-01-06", id="none"),
        pytest.param([partition(5), partition(6)], NoEmbeddingsError, "no promoted partition", id="only later"),
        pytest.param([partition(0), partition(0)], ValueError, "given twice", id="twice"),
        pytest.param([partition(0, table="user_embeddings/other")], ValueError, "joins", id="another table"),
    ],
)
def test_unusable_partitions(given: list[Partition], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        usable_of(CTR, day(5), promoted={"tiny": given})


def test_each_user_gets_the_newest_vectors(tmp_path: Path) -> None:
    lake, rng = Lake(tmp_path), np.random.default_rng(0)
    width = TOWER.num_embeddings * TOWER.dim
    reference: dict[int, tuple[int, np.ndarray]] = {}
    partitions = []
    for index in range(5):
        ids = rng.permutation(200)[:60].astype(np.int64)
        vectors = rng.normal(size=(60, width)).astype(np.float16).astype(np.float64)
        table = embeddings_table(ids, vectors, end_of(day(index)))
        partitions.append(lake.commit(TABLE, day(index), table, fingerprint=f"{index + 1:064x}"))
        reference |= {int(user): (index, vector) for user, vector in zip(ids, vectors, strict=True)}
    wanted = [*range(0, 220, 2), 3, 3]

    found = join(lake, usable(partitions, day(5), table=TABLE, lookback_days=14), wanted)
    asked = rng.permutation(250).astype(np.int64)
    vectors, has_embedding = found.lookup(asked)

    for row, user in enumerate(asked.tolist()):
        index, vector = reference.get(user, (0, np.zeros(width)))
        if user not in reference or user not in wanted:
            assert (has_embedding[row], vectors[row].abs().sum()) == (0, 0)
        else:
            assert has_embedding[row] == 1
            np.testing.assert_array_equal(vectors[row].numpy().ravel(), vector)
            assert found.age_days[np.searchsorted(found.user_ids, user)] == 5 - index


def test_nobody_has_an_embedding(tmp_path: Path) -> None:
    lake = Lake(tmp_path)
    table = embeddings_table(np.array([7]), np.ones((1, 16)), end_of(day(0)))
    found = join(lake, (lake.commit(TABLE, day(0), table, fingerprint="1" * 64),), [1, 2])
    vectors, has_embedding = found.lookup(np.array([1, 2, 7], dtype=np.int64))
    assert vectors.shape == (3, 2, 8)
    assert not vectors.any()
    assert not has_embedding.any()


def test_a_partition_of_the_day_never_gets_through(tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="would leak"):
        join(Lake(tmp_path), (partition(5),), [1])


@pytest.mark.parametrize(
    ("table", "message"),
    [
        pytest.param(
            embeddings_table(np.array([1]), np.ones((1, 16)), end_of(day(4)) + timedelta(seconds=1)),
            "would leak",
            id="features of the examples' day",
        ),
        pytest.param(
            embeddings_table(np.array([1]), np.ones((1, 16)), end_of(day(0))).drop_columns(["pooled_1"]),
            "lacks .'pooled_1'.",
            id="a vector too few",
        ),
        pytest.param(
            embeddings_table(np.array([1]), np.ones((1, 16)), end_of(day(0))).set_column(
                3, "pooled_0", pa.array([[1.0, 2.0]], pa.list_(pa.float32()))
            ),
            "pooled_0 is not a vector of 8",
            id="another dimension",
        ),
    ],
)
def test_a_table_that_cannot_be_joined(tmp_path: Path, table: pa.Table, message: str) -> None:
    lake = Lake(tmp_path)
    committed = lake.commit(TABLE, day(4), table, fingerprint="1" * 64)
    with pytest.raises(ValueError, match=message):
        join(lake, (committed,), [1])


def test_batches_carry_the_join() -> None:
    embeddings = NewestEmbeddings(
        user_ids=np.array([0, 5], dtype=np.int64),
        vectors=np.stack([np.full((2, 8), 9), np.full((2, 8), 2)]).astype(np.float16),
        age_days=np.array([1, 1]),
    )
    encoder = JoiningEncoder(
        SCHEMA, task="click", features=frozenset({"item", "price"}), embeddings={"sum": embeddings}
    )
    rows = pa.table(
        {"user_id": [5, 6], "item": [[1], [2]], "price": pa.array([0.0, 1.0], pa.float32()), "click": [1, 0]}
    )
    assert encoder.columns == ["user_id", "item", "price", "click"]
    batch = encoder.encode(rows.combine_chunks(), num_rows=3)
    users, has_embedding = batch.joined["sum"]
    assert batch.user_ids.tolist() == [5, 6]
    assert has_embedding.tolist() == [[1], [0], [0]]
    assert users.sum(dim=(1, 2)).tolist() == [32, 0, 0]
    assert batch.weights.tolist() == [1, 1, 0]
