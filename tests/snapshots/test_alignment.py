"""A planted change of space is undone; a snapshot is sealed in the space of the promoted one before it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from features.batches import Encoder
from features.lake import Lake
from infra.settings import Settings
from snapshots.aligned import read_alignment
from snapshots.alignment import fit, procrustes
from snapshots.embedder import embedder_of
from snapshots.export import load_snapshot
from snapshots.graph import ALIGNMENT
from snapshots.inference import infer
from snapshots.movement import movement
from snapshots.promotion import promote
from snapshots.registry import Registry, Version
from snapshots.shift.measure import check_shift
from tests.snapshots.world import DAYS, commit_users, make_tower, publish_day, tiny_recipe
from trainer.model.user_tower import UserTower
from trainer.recipe import Recipe
from trainer.stabilizers import Alignment, BackwardCompatible, Procrustes

N, K, D = 400, 2, 6
RNG = np.random.default_rng(0)
Y = RNG.normal(size=(N, K, D)) * np.linspace(0.2, 2, D)  # directions of unequal weight
ROTATIONS = np.stack([np.linalg.qr(RNG.normal(size=(D, D)))[0] for _ in range(K)])
LINEAR = np.linalg.qr(RNG.normal(size=(K * D, K * D)))[0] * np.linspace(0.5, 2, K * D)
EXACT = BackwardCompatible(ridge=1e-12)


def rotated(y: np.ndarray) -> np.ndarray:
    return np.einsum("nkd,kde->nke", y, ROTATIONS)


def linear(y: np.ndarray) -> np.ndarray:
    return (y.reshape(N, -1) @ LINEAR).reshape(N, K, D)


UNDONE = [
    pytest.param(Procrustes(), rotated, id="procrustes: each embedding rotated"),
    pytest.param(Procrustes(), lambda y: y[:, :, ::-1], id="procrustes: dimensions swapped"),
    pytest.param(Procrustes(), lambda y: -y, id="procrustes: mirrored"),
    pytest.param(Procrustes(), lambda y: y, id="procrustes: nothing"),
    pytest.param(EXACT, rotated, id="linear: each embedding rotated"),
    pytest.param(EXACT, linear, id="linear: a linear change of all"),
    pytest.param(EXACT, lambda y: 3 * y, id="linear: scaled"),
    pytest.param(EXACT, lambda y: y[:, ::-1], id="linear: embeddings swapped"),
]


@pytest.mark.parametrize(("alignment", "change"), UNDONE)
def test_a_planted_change_is_undone(alignment: Alignment, change) -> None:
    new = change(Y).astype(np.float32)
    fitted = fit(alignment, new, Y.astype(np.float32))
    back = (new.reshape(N, -1) @ fitted.matrix).reshape(N, K, D)
    assert np.abs(back - Y).max() < 1e-5
    assert max(fitted.residual) < 1e-5
    assert fitted.rank == K * D


def test_procrustes_is_orthogonal_and_keeps_the_embeddings_apart() -> None:
    new = RNG.normal(size=(N, K, D))
    matrix = fit(Procrustes(), new, Y).matrix
    np.testing.assert_allclose(matrix @ matrix.T, np.eye(K * D), atol=1e-5)
    assert not matrix[:D, D:].any()
    assert not matrix[D:, :D].any()


def test_procrustes_is_the_best_of_many_rotations() -> None:
    x = rotated(Y) + 0.5 * RNG.normal(size=Y.shape)
    best = np.linalg.norm((x.reshape(N, -1) @ procrustes(x, Y)).reshape(Y.shape) - Y)
    for _ in range(50):
        turns = [np.linalg.qr(RNG.normal(size=(D, D)))[0] for _ in range(K)]
        assert best <= np.linalg.norm(np.stack([x[:, k] @ turns[k] for k in range(K)], axis=1) - Y)


def test_the_linear_map_is_that_of_the_normal_equations() -> None:
    """Against lstsq with the penalty as rows of its own."""
    x, ridge = rotated(Y) + 0.3 * RNG.normal(size=Y.shape), 0.1
    flat, towards = x.reshape(N, -1), procrustes(x, Y)
    penalty = np.sqrt(ridge * (flat**2).sum() / (K * D)) * np.eye(K * D)
    rows, wanted = np.vstack([flat, penalty]), np.vstack([Y.reshape(N, -1), penalty @ towards])
    expected = np.linalg.lstsq(rows, wanted, rcond=None)[0]
    np.testing.assert_allclose(fit(BackwardCompatible(ridge=ridge), x, Y).matrix, expected, atol=1e-5)


COLLAPSED = {
    "all zeros": np.zeros((N, K, D)),
    "one vector for all users": np.broadcast_to(Y[:1], (N, K, D)),
    "one dimension is left": Y * (np.arange(D) == 0),
    "a dimension is gone": Y * (np.arange(D) != 2),
    "one embedding is zero": Y * np.array([[1.0], [0.0]]),
    "tiny": 1e-6 * Y,
}


@pytest.mark.parametrize("alignment", [Procrustes(), BackwardCompatible()], ids=["procrustes", "linear"])
@pytest.mark.parametrize("new", COLLAPSED.values(), ids=COLLAPSED.keys())
@pytest.mark.parametrize("old", [Y, np.zeros_like(Y)], ids=["old", "old collapsed"])
def test_a_collapsed_space_does_not_blow_up(alignment: Alignment, new: np.ndarray, old: np.ndarray) -> None:
    fitted = fit(alignment, new.astype(np.float32), old.astype(np.float32))
    scale = max(np.linalg.norm(old) / max(np.linalg.norm(new), 1e-9), 1.0) if alignment.kind != "procrustes" else 1.0
    assert np.isfinite(fitted.matrix).all()
    assert np.linalg.norm(fitted.matrix, ord=2) <= 3 * scale + 1e-5
    applied = new.reshape(N, -1) @ fitted.matrix
    assert np.linalg.norm(applied) <= 2 * max(np.linalg.norm(new), np.linalg.norm(old))


def test_a_collapsed_direction_stays_where_it_is() -> None:
    new = Y * (np.arange(D) != 2)
    matrix = fit(Procrustes(), new, new).matrix
    np.testing.assert_allclose(matrix, np.eye(K * D), atol=1e-4)
    assert fit(Procrustes(), new.astype(np.float32), new).rank == K * (D - 1)


REFUSED = [
    pytest.param(Y[:, :1], Y, "shapes", id="another K"),
    pytest.param(Y[:0], Y[:0], "shapes", id="no user"),
    pytest.param(np.full_like(Y, np.nan), Y, "NaN or inf", id="NaN"),
]


@pytest.mark.parametrize(("new", "old", "message"), REFUSED)
def test_what_cannot_be_aligned_is_refused(new: np.ndarray, old: np.ndarray, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        fit(Procrustes(), new, old)


def aligned(alignment: Alignment | None, **changes: object) -> Recipe:
    return replace(tiny_recipe(pooling_versions=1), alignment=alignment, **changes)


def turned(recipe: Recipe) -> UserTower:
    """The tower of seed 0 with its outputs rotated: the bound is on lengths, which a rotation keeps."""
    tower, d = make_tower(recipe), recipe.user_tower.dim
    turn = torch.linalg.qr(torch.randn(d, d, generator=torch.Generator().manual_seed(3)))[0]
    with torch.no_grad():
        for k in range(recipe.user_tower.num_embeddings):
            rows = slice(k * d, (k + 1) * d)
            tower.output.weight[rows] = turn @ tower.output.weight[rows]
            tower.output.bias[rows] = turn @ tower.output.bias[rows]
    return tower


def first_day(recipe: Recipe, settings: Settings, lake: Lake, *, promoted: bool = True) -> Version:
    for ds in DAYS[:3]:
        commit_users(lake, ds, range(200))
    version = publish_day(recipe, DAYS[0], make_tower(recipe), settings=settings)
    infer(recipe, DAYS[0], settings=settings)
    if promoted:
        promote(recipe, DAYS[0], settings=settings, by="test")
    return version


@pytest.mark.parametrize("alignment", [Procrustes(), BackwardCompatible(ridge=1e-6)], ids=["procrustes", "linear"])
def test_a_rotated_snapshot_is_published_in_the_space_of_the_promoted_one(
    settings: Settings, lake: Lake, alignment: Alignment
) -> None:
    recipe = aligned(alignment)
    first = first_day(recipe, settings, lake)
    assert first.tags["alignment"] == f"{alignment.kind}: a space of its own, no earlier version is promoted"
    second = publish_day(recipe, DAYS[1], turned(recipe), settings=settings, parent=first)
    assert second.tags["alignment.to"] == str(first.number)
    assert second.parent == first.number, "found by the training, though an aligned snapshot has its own fingerprint"
    rows = lake.read(lake.get("user_features/tiny", DAYS[1])).to_batches()[0]
    before, after = (embedder_of(version).embed(rows) for version in (first, second))
    assert min(movement(before[:, k], after[:, k]).cosine.min() for k in range(2)) > 0.999
    infer(recipe, DAYS[1], settings=settings)
    shift = check_shift(recipe, DAYS[1], settings=settings)
    same = {row.value for row in shift.rows if row.kind == "same_inputs" and row.metric == "cosine_mean"}
    assert min(same) > 0.999
    client, run = Registry(settings).client, second.run_id
    values = client.get_run(run).data.metrics
    assert values["alignment/residual_before 0"] > 0.5 > 0.01 > values["alignment/residual 0"]


def test_without_alignment_the_rotation_is_seen(settings: Settings, lake: Lake) -> None:
    recipe = aligned(None)
    first = first_day(recipe, settings, lake)
    second = publish_day(recipe, DAYS[1], turned(recipe), settings=settings, parent=first)
    assert "alignment" not in second.tags
    assert read_alignment(second.path) is None
    assert not load_snapshot(second.path).contract.aligned
    rows = lake.read(lake.get("user_features/tiny", DAYS[1])).to_batches()[0]
    before, after = (embedder_of(version).embed(rows) for version in (first, second))
    assert movement(before[:, 0], after[:, 0]).cosine.mean() < 0.5


def test_sealed_is_not_fitted_again(settings: Settings, lake: Lake) -> None:
    """Once the first day is rejected or promoted later, the day's snapshot is what it was."""
    recipe = aligned(Procrustes())
    first_day(recipe, settings, lake, promoted=False)
    tower = turned(recipe)
    second = publish_day(recipe, DAYS[1], tower, settings=settings)
    manifest = second.tags["manifest_sha256"]
    promote(recipe, DAYS[0], settings=settings, by="test")
    again = publish_day(recipe, DAYS[1], tower, settings=settings)
    assert (again.number, again.tags["manifest_sha256"], again.tags["alignment.to"]) == (second.number, manifest, "")
    other = publish_day(replace(recipe, alignment=BackwardCompatible()), DAYS[1], tower, settings=settings)
    assert other.number != second.number
    assert other.tags["alignment.to"] == "1"


def test_another_tower_keeps_its_own_space(settings: Settings, lake: Lake) -> None:
    recipe = aligned(Procrustes())
    first_day(recipe, settings, lake)
    wide = replace(recipe, user_tower=replace(recipe.user_tower, dim=12))
    version = publish_day(wide, DAYS[1], make_tower(wide), settings=settings)
    assert version.tags["alignment"].startswith("procrustes: a space of its own, version 1 of")
    assert "gives 2 embeddings of 8, the day's 2 of 12" in version.tags["alignment"]


def test_an_aligned_tower_is_the_tower_and_then_the_map(settings: Settings, lake: Lake) -> None:
    recipe = aligned(BackwardCompatible())
    first_day(recipe, settings, lake)
    tower = turned(recipe)
    loaded = load_snapshot(publish_day(recipe, DAYS[1], tower, settings=settings).path)
    batch = Encoder(recipe.schema, sides=("user",)).encode(lake.read(lake.get("user_features/tiny", DAYS[1])))
    with torch.inference_mode():
        found = loaded.embed(batch)
        expected = tower(batch.user_sparse, batch.user_dense).flatten(1) @ loaded.weights[ALIGNMENT]
    assert torch.equal(found, expected.view_as(found))
