from __future__ import annotations

import math
import tracemalloc
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from numpy.typing import NDArray

from features.lake import Lake, Partition
from snapshots.embeddings import fp16_exact
from snapshots.movement import movement
from snapshots.shift import consecutive_days as module
from snapshots.shift import ordered, same_users
from snapshots.shift.consecutive_days import consecutive_days
from snapshots.shift.pair import Compared
from snapshots.shift.rows import ShiftRow
from tests.snapshots.shift.planted import commit, commit_in_files, embedded, embeddings_of, rotation
from tests.snapshots.world import DAYS, tiny_recipe
from trainer.recipe import Recipe

N, DIM = 600, 8
IDS = np.random.default_rng(0).choice(10**12, N, replace=False)
VECTORS = embedded(N)
RECIPE = tiny_recipe()
Vectors = NDArray[np.float32]
Key = tuple[str, str, int | None, str, str]


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    return Lake(tmp_path)


def pair_of(before: Partition, after: Partition, **changes: Any) -> Compared:
    version: Any = SimpleNamespace(number=2, ds=after.ds)
    pair = Compared(
        version=version, embeddings=after, users=after, parent=None, previous=before, examples=None,
        previous_users=None,
        previous_examples=None,
    )  # fmt: skip
    return replace(pair, **changes)


def measure(lake: Lake, after: Vectors, *, before: Vectors = VECTORS, recipe: Recipe = RECIPE) -> dict[Key, ShiftRow]:
    """The same users with these vectors on two days."""
    days = zip(DAYS, (before, after), strict=False)
    return by_key(recipe, lake, *(commit(lake, ds, embeddings_of(ds, IDS, vectors)) for ds, vectors in days))


def by_key(recipe: Recipe, lake: Lake, before: Partition, after: Partition, **changes: Any) -> dict[Key, ShiftRow]:
    rows = list(consecutive_days(recipe, pair_of(before, after, **changes), lake))
    found = {(row.kind, row.metric, row.embedding, row.pooling, row.users): row for row in rows}
    assert len(found) == len(rows), "a row per key"
    assert all(math.isfinite(row.value) or row.note for row in rows)
    return found


def of_pooled(found: dict[Key, ShiftRow], embedding: int = 0) -> dict[str, float]:
    """By metric, of everyone."""
    return {key[1]: row.value for key, row in found.items() if key[2:] == (embedding, "3", "all")}


def turned(vectors: Vectors) -> Vectors:
    return fp16_exact((vectors @ rotation(DIM)).astype(np.float32))


def collapsed(vectors: Vectors) -> Vectors:
    vectors = vectors.copy()
    vectors[:, :, 5] = 0.5
    return vectors


@pytest.mark.parametrize(
    ("after", "low", "high"),
    [
        pytest.param(
            VECTORS,
            {"cosine_p05": 1.0, "knn_overlap": 1.0, "std_ratio_min": 1.0},
            {"norm_change_p95": 0.0, "eigenspace_instability": 1e-9, "classifier_auc": 0.51, "wasserstein_share": 0.0,
             "psi_max": 0.0, "mmd": 1e-9, "collapsed_dimensions": 0.0, "cross_cosine_max": 0.6, "unusable_share": 0.0},
            id="unmoved",
        ),
        pytest.param(
            turned(VECTORS),
            {"knn_overlap": 0.97, "wasserstein_share": 0.5, "psi_max": 0.2, "mmd": 0.01},
            {"cosine_mean": 0.5, "eigenspace_instability": 1e-4, "norm_change_p95": 0.01},
            id="a rotated space: its neighbours and eigenspace stay",
        ),
        pytest.param(
            2 * VECTORS,
            {"norm_change_p05": 1.0, "cosine_p05": 1.0, "knn_overlap": 1.0, "std_ratio_min": 2.0, "psi_max": 0.2},
            {"eigenspace_instability": 1e-9, "norm_change_p95": 1.0},
            id="a scaled norm: only the norm and the population moved",
        ),
        pytest.param(
            collapsed(VECTORS),
            {"collapsed_dimensions": 1.0},
            {"collapsed_dimensions": 1.0, "std_ratio_min": 0.0, "knn_overlap": 0.9},
            id="a collapsed dimension",
        ),
        pytest.param(
            VECTORS[:, [1, 0, 3, 2]],
            {"cross_cosine_max": 1.0},
            {"cosine_mean": 0.6},
            id="a swapped pair of embeddings",
        ),
        pytest.param(
            VECTORS[np.random.default_rng(2).permutation(N)],
            {},
            {"knn_overlap": 0.1, "cosine_mean": 0.7, "psi_max": 1e-9, "classifier_auc": 0.55, "mean_shift_max": 1e-9},
            id="permuted users: the population stays",
        ),
    ],
)  # fmt: skip
def test_planted_faults_are_told_apart(
    after: Vectors, low: dict[str, float], high: dict[str, float], lake: Lake
) -> None:
    found = of_pooled(measure(lake, after))
    assert {name: found[name] for name in low if found[name] < low[name] - 1e-9} == {}
    assert {name: found[name] for name in high if found[name] > high[name] + 1e-9} == {}


def test_rows_say_which(lake: Lake) -> None:
    found = measure(lake, collapsed(VECTORS))
    assert found["consecutive_days", "collapsed_dimensions", 1, "none", "all"].note == "dimensions 5"
    assert found["consecutive_days", "std_ratio_min", 1, "none", "all"].note == "dimension 5"
    swapped = measure(lake, VECTORS[:, [1, 0, 3, 2]])
    assert swapped["consecutive_days", "cross_cosine_max", 0, "3", "all"].note == "with embedding 1"


def test_streaming_is_one_pass_and_order_does_not_matter(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    after = fp16_exact(VECTORS + 0.3 * embedded(N, seed=7))
    one = measure(lake, after)
    expected = movement(VECTORS[:, 2], after[:, 2])
    pooled = of_pooled(one)
    assert pooled["cosine_mean"] == pytest.approx(expected.cosine.mean(), abs=1e-12)
    assert pooled["cosine_p05"] == pytest.approx(np.quantile(expected.cosine, 0.05), abs=1e-4)
    assert pooled["norm_change_p95"] == pytest.approx(np.quantile(expected.norm_change, 0.95), abs=1e-3)
    rng, days = np.random.default_rng(3), []
    for ds, vectors in zip(DAYS[2:4], (VECTORS, after), strict=True):
        parts = [embeddings_of(ds, IDS[rows], vectors[rows]) for rows in np.array_split(rng.permutation(N), 3)]
        days.append(commit_in_files(lake, ds, parts))
    monkeypatch.setattr(ordered, "_BATCH_ROWS", 100)
    shuffled = by_key(RECIPE, lake, *days)
    assert {key: row.value for key, row in shuffled.items()} == {key: row.value for key, row in one.items()}, "to a bit"
    monkeypatch.setattr(ordered, "BUCKET_BYTES", 64 * ordered.Layout(num_embeddings=2, dim=DIM).row.itemsize)
    many = by_key(RECIPE, lake, *days)
    assert {key: row.value for key, row in many.items()} == pytest.approx(
        {key: row.value for key, row in one.items()}, abs=1e-9
    )


@dataclass(frozen=True, kw_only=True)
class Day:
    ids: NDArray[np.int64]
    vectors: Vectors


FEW = Day(ids=IDS[:5], vectors=VECTORS[:5])
NAN, INF = VECTORS.copy(), VECTORS.copy()
NAN[7, 0, 3], INF[9, 2, 1] = np.nan, np.inf


@pytest.mark.parametrize(
    ("before", "after", "note"),
    [
        pytest.param(FEW, Day(ids=IDS, vectors=VECTORS), "", id="five users in common"),
        pytest.param(FEW, FEW, "", id="five users on both days"),
        pytest.param(Day(ids=IDS[:1], vectors=VECTORS[:1]), FEW, "", id="one user"),
        pytest.param(
            FEW, Day(ids=IDS[5:], vectors=VECTORS[5:]), "no user of 2026-01-01 is active", id="none in common"
        ),
        pytest.param(Day(ids=IDS, vectors=0 * VECTORS), Day(ids=IDS, vectors=VECTORS), "", id="out of zero"),
        pytest.param(Day(ids=IDS, vectors=VECTORS), Day(ids=IDS, vectors=0 * VECTORS), "", id="to zero"),
        pytest.param(Day(ids=IDS, vectors=0 * VECTORS), Day(ids=IDS, vectors=0 * VECTORS), "", id="zero stays zero"),
        pytest.param(Day(ids=IDS, vectors=NAN), Day(ids=IDS, vectors=INF), "", id="NaN and inf"),
    ],
)
def test_there_is_always_a_value_or_a_reason(before: Day, after: Day, note: str, lake: Lake) -> None:
    days = [commit(lake, ds, embeddings_of(ds, d.ids, d.vectors)) for ds, d in zip(DAYS, (before, after), strict=False)]
    found = by_key(RECIPE, lake, *days)
    first = found["consecutive_days", "predecessor", None, "none", "all"]
    assert (first.value, first.note) == (1.0, note)
    assert first.num_users == len(set(before.ids) & set(after.ids)) - (2 if before.vectors is NAN else 0)


def test_who_has_a_nan_is_counted_and_left_out(lake: Lake) -> None:
    found = measure(lake, INF, before=NAN)
    row = found["consecutive_days", "unusable_share", 0, "none", "all"]
    assert (row.value, row.num_users) == (pytest.approx(2 / N), N - 2)
    assert found["consecutive_days", "cosine_p05", 1, "3", "all"].value == pytest.approx(1.0)
    assert found["populations", "psi_max", 0, "none", "all"].num_users == N


def test_a_damaged_day_before_is_a_note(lake: Lake) -> None:
    days = [commit(lake, ds, embeddings_of(ds, IDS, VECTORS)) for ds in DAYS[:2]]
    (file,) = lake.files(days[0])
    path = Path(file.removeprefix("file://"))
    path.write_bytes(path.read_bytes()[:-9] + b"otherwise")
    fresh = Lake(lake.root)
    ((key, row),) = by_key(RECIPE, fresh, *days).items()
    assert key[:2] == ("consecutive_days", "predecessor")
    assert row.note.startswith("2026-01-01 cannot be compared with: ")


def test_a_user_who_is_listed_twice_is_a_note(lake: Lake) -> None:
    ids = IDS.copy()
    ids[5] = ids[9]
    days = [commit(lake, ds, embeddings_of(ds, of, VECTORS)) for ds, of in zip(DAYS, (ids, IDS), strict=False)]
    (row,) = by_key(RECIPE, lake, *days).values()
    assert row.note.startswith(f"2026-01-01 cannot be compared with: user_embeddings/tiny 2026-01-01 has user {ids[5]}")


def test_slices(lake: Lake) -> None:
    """100 new users a day; users 0 to 59 are heavy; topic 1 is of the even users, 2 of the odd ones; those of topic 2
    moved."""
    recipe = replace(RECIPE, slices=("liked",))
    pooled = np.where(np.arange(N) < 100, 1, 3)
    moved = VECTORS.copy()
    moved[1::2] = turned(VECTORS[1::2])
    days = [
        commit(lake, ds, embeddings_of(ds, IDS, vectors, num_pooled=pooled))
        for ds, vectors in zip(DAYS, (VECTORS, moved), strict=False)
    ]
    users = np.concatenate([np.arange(N), np.repeat(np.arange(60), 4)])
    liked = pa.array([[1 + user % 2, 7] if user % 5 else [1 + user % 2] for user in users], pa.list_(pa.int64()))
    examples = [
        commit(lake, ds, pa.table({"user_id": pa.array(IDS[users]), "liked": liked}), table="examples/tiny")
        for ds in DAYS[:2]
    ]
    found = by_key(recipe, lake, *days, previous_examples=examples[0], examples=examples[1])
    users_of = {key[-1]: row.num_users for key, row in found.items() if key[:4] == ("populations", "mmd", 0, "3")}
    assert users_of == {"all": N, "new": 100, "returning": 500, "heavy": 60, "liked=1": 300, "liked=2": 300}
    cosine = {key[-1]: row for key, row in found.items() if key[:4] == ("consecutive_days", "cosine_mean", 0, "3")}
    assert list(cosine) == ["all", "heavy", "liked=1", "liked=2"]
    assert cosine["liked=1"].value == pytest.approx(1.0)
    assert cosine["liked=2"].value < 0.5
    assert cosine["liked=1"].error is None, "everybody was measured"
    psi = {key[-1]: row.value for key, row in found.items() if key[:4] == ("populations", "psi_max", 0, "3")}
    assert psi["liked=1"] == pytest.approx(0.0, abs=1e-9)
    assert psi["liked=2"] > 0.2


def test_of_a_sample_slices_have_errors(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SAMPLE_USERS", 300)
    recipe = replace(RECIPE, slices=("liked",))
    after = fp16_exact(VECTORS + 0.3 * embedded(N, seed=7))
    days = [commit(lake, ds, embeddings_of(ds, IDS, v)) for ds, v in zip(DAYS, (VECTORS, after), strict=False)]
    liked = pa.array([[user % 2] for user in range(N)], pa.list_(pa.int64()))
    examples = [
        commit(lake, ds, pa.table({"user_id": pa.array(IDS), "liked": liked}), table="examples/tiny") for ds in DAYS[:2]
    ]
    found = by_key(recipe, lake, *days, previous_examples=examples[0], examples=examples[1])
    everyone = found["consecutive_days", "cosine_mean", 0, "3", "all"]
    sampled = found["consecutive_days", "cosine_mean", 0, "3", "liked=1"]
    assert (everyone.num_users, everyone.error) == (N, None)
    assert 100 < sampled.num_users < 200
    assert sampled.error is not None
    assert sampled.value == pytest.approx(everyone.value, abs=4 * sampled.error)
    assert found["populations", "mmd", 0, "3", "all"].num_users == 300


def test_examples_that_cannot_be_read_leave_their_slices_out(lake: Lake) -> None:
    recipe = replace(RECIPE, slices=("liked",))
    days = [commit(lake, ds, embeddings_of(ds, IDS, VECTORS)) for ds in DAYS[:2]]
    gone = Partition(table="examples/tiny", ds=DAYS[0], version=3, fingerprint="a" * 15)
    found = by_key(recipe, lake, *days, examples=gone, previous_examples=gone)
    assert {key[-1] for key in found} == {"all", "returning"}


def test_memory_does_not_grow_with_the_table(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    """NumPy's: Arrow's grows up to a row group, and the benchmark `shift` measures all of it."""
    monkeypatch.setattr(module, "SAMPLE_USERS", 300)
    monkeypatch.setattr(same_users, "NEIGHBOUR_USERS", 100)
    monkeypatch.setattr(ordered, "BUCKET_BYTES", 2**17)
    monkeypatch.setattr(ordered, "_BATCH_ROWS", 512)
    peaks = []
    for num_users, first in ((4_000, 0), (40_000, 2)):
        vectors, days = embedded(num_users), DAYS[first : first + 2]
        parts = [commit(lake, ds, embeddings_of(ds, np.arange(num_users), vectors)) for ds in days]
        del vectors
        tracemalloc.start()
        rows = list(consecutive_days(RECIPE, pair_of(*parts), lake))
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        assert rows[0].num_users == num_users
    assert peaks[1] < 1.1 * peaks[0], peaks
    assert peaks[1] < 2 * 40_000 * ordered.Layout(num_embeddings=2, dim=DIM).row.itemsize, "both days at once"
