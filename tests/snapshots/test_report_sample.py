from __future__ import annotations

from datetime import UTC, date, datetime
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from features.lake import Lake, Partition
from snapshots.embeddings import embeddings_schema, to_lists
from snapshots.movement import movement
from snapshots.report import sample
from snapshots.report.sample import sampled_movement

DIM = 4


def _vectors(user_ids: range, seed: int) -> np.ndarray:
    """Of all users that there are, so that a user's vector is the same whoever else is there."""
    return np.random.default_rng(seed).normal(size=(300, DIM)).astype(np.float32)[user_ids.start : user_ids.stop]


def _commit(lake: Lake, ds: date, user_ids: range, seed: int) -> Partition:
    num = len(user_ids)
    vectors = _vectors(user_ids, seed)
    columns = [
        pa.array(user_ids, pa.int64()), to_lists(vectors), to_lists(2 * vectors),
        pa.repeat(pa.scalar(1, pa.int8()), num), pa.repeat(pa.scalar(1, pa.int32()), num),
        pa.repeat(pa.scalar(datetime(2026, 1, 1, tzinfo=UTC)), num),
    ]  # fmt: skip
    schema = embeddings_schema(num_embeddings=1, dim=DIM, model="tiny")
    data = pa.Table.from_arrays([c.cast(f.type) for c, f in zip(columns, schema, strict=True)], schema=schema)
    return lake.commit("user_embeddings/tiny", ds, data, fingerprint=f"{seed:064d}")


def test_everyone_of_a_small_day_is_sampled(tmp_path: Path) -> None:
    lake = Lake(tmp_path)
    before, after = (_commit(lake, date(2026, 1, 1 + i), range(10 * i, 200 + 10 * i), i) for i in range(2))
    computed, pooled = sampled_movement(lake, before, after, num_embeddings=1, dim=DIM)
    a, b = (_vectors(range(10, 200), seed) for seed in range(2))
    assert (computed.pooled, pooled.pooled, computed.embedding) == (False, True, 0)
    np.testing.assert_allclose(computed.movement.cosine, movement(a, b).cosine)
    np.testing.assert_allclose(computed.dimensions, np.abs(b - a).mean(axis=0) / a.std(axis=0), rtol=1e-5)
    np.testing.assert_allclose(pooled.dimensions, computed.dimensions, rtol=1e-5)


def test_a_large_day_is_sampled_the_same_way_on_both_days(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sample, "SAMPLE_USERS", 60)
    lake = Lake(tmp_path)
    before, after = (_commit(lake, date(2026, 1, 1 + i), range(300), i) for i in range(2))
    first, _ = sampled_movement(lake, before, after, num_embeddings=1, dim=DIM)
    assert 30 < first.movement.num_users < 100


def test_days_without_a_common_user_give_nothing(tmp_path: Path) -> None:
    lake = Lake(tmp_path)
    before, after = _commit(lake, date(2026, 1, 1), range(50), 0), _commit(lake, date(2026, 1, 2), range(60, 90), 1)
    assert list(sampled_movement(lake, before, after, num_embeddings=1, dim=DIM)) == []
