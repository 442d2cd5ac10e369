from __future__ import annotations

import json
import math
from dataclasses import replace

import numpy as np
import pytest

from features.lake import Lake
from infra.commands.compare import print_comparison
from infra.settings import Settings
from snapshots.compare.compare import compare
from snapshots.compare.features import DENSE, TABLES, TOWER, swap_features
from snapshots.compare.sample import draw
from snapshots.compare.scores import Difference, Scored, score
from snapshots.compare.subject import Subject, trained_day
from snapshots.registry import Registry
from tests.snapshots.days import promoted_day
from tests.snapshots.trained import SMALL_DAYS
from tests.snapshots.world import DAYS, make_tower, newest, publish_day
from trainer.recipe import Recipe

NUM_ROWS = 1_500
EVERYONE = "all"


def _scores(scored: Scored, **slices: np.ndarray) -> dict[tuple[str, str], Difference]:
    everyone = {EVERYONE: np.ones(len(scored.labels), dtype=bool)}
    return {(of.metric, of.users): of for of in score("click", scored, everyone | slices, seed=0)}


def _scored(*, better: float, num_users: int = 200) -> Scored:
    """Five examples of each user; B knows `better` more of the label than A."""
    rng = np.random.default_rng(7)
    labels = rng.integers(0, 2, 5 * num_users).astype(float)
    a = rng.normal(size=labels.size)
    return Scored(user_ids=np.repeat(np.arange(num_users), 5), labels=labels, a=a, b=a + better * (2 * labels - 1))


def test_equal_models_do_not_differ() -> None:
    for of in _scores(_scored(better=0.0)).values():
        assert (of.difference, of.interval, of.is_sure) == (0.0, (0.0, 0.0), False)


def test_a_better_model_is_better_for_sure() -> None:
    found = _scores(_scored(better=0.5))
    ne, auc = found["ne", EVERYONE], found["auc", EVERYONE]
    assert ne.is_sure
    assert auc.is_sure
    assert ne.difference == ne.b - ne.a < 0 < auc.difference
    assert ne.interval[0] < ne.difference < ne.interval[1]
    assert (ne.num_examples, ne.num_users) == (1_000, 200)


def test_metrics_are_what_numpy_says() -> None:
    scored = _scored(better=0.3)
    scored = replace(scored, b=np.round(scored.b, 1))  # ties
    found = _scores(scored)
    p = 1 / (1 + np.exp(-scored.b))
    y, rate = scored.labels, scored.labels.mean()
    entropy = -(y * np.log(p) + (1 - y) * np.log(1 - p)).mean()
    background = -(rate * math.log(rate) + (1 - rate) * math.log(1 - rate))
    assert found["ne", EVERYONE].b == pytest.approx(entropy / background, abs=1e-9)
    assert found["calibration", EVERYONE].b == pytest.approx(p.sum() / y.sum())
    pairs = scored.b[y == 1][:, None] - scored.b[y == 0][None, :]
    assert found["auc", EVERYONE].b == pytest.approx((pairs > 0).mean() + (pairs == 0).mean() / 2)


def test_a_slice_without_positives_or_of_one_user_is_not_judged() -> None:
    scored = _scored(better=0.3)
    found = _scores(scored, negative=scored.labels == 0, one=scored.user_ids == 3, nobody=scored.user_ids < 0)
    assert found["ne", "negative"].difference is None
    assert found["ne", "negative"].interval is None
    assert found["auc", "one"].interval is None
    assert not [users for _, users in found if users == "nobody"]


@pytest.mark.slow
def test_two_trained_days_are_compared(small_days: tuple[Recipe, Settings], capsys: pytest.CaptureFixture[str]) -> None:
    recipe, settings = small_days
    found = compare(recipe, "previous", "champion", settings=settings, rows=NUM_ROWS)
    assert (found.a.number, found.b.number, found.notes) == (1, 2, ())
    assert found == compare(recipe, "2026-01-01", "v2", settings=settings, rows=NUM_ROWS), "the same numbers again"
    assert found.on is not None
    assert (found.on.ds, found.on.held_out, found.on.num_examples) == (SMALL_DAYS[2], True, NUM_ROWS)
    assert {(of.task, of.metric) for of in found.scores} == {
        (task, metric) for task in ("click", "conversion") for metric in ("ne", "calibration", "auc")
    }
    assert {EVERYONE, "heavy", "returning"} <= {of.users for of in found.scores} == {of.users for of in found.moved}
    assert {row.kind for row in found.shift} == {"same_inputs"}
    names = {feature.name for feature in recipe.schema.sparse_of("user")}
    assert {of.feature for of in found.features} == names | {TABLES, DENSE, TOWER}
    assert {("lineage", "examples.table_version"), ("lineage", "parent_ds")} <= {
        (c.part, c.name) for c in found.changed
    }
    summary = json.loads(json.dumps(found.summary()))
    print_comparison(summary)
    shown = capsys.readouterr().out
    for words in ("on the same 1,500 examples", "which neither has learnt", TABLES, "parent_ds", "compare/1-2.html"):
        assert words in shown
    registry = Registry(settings)
    version = registry.number("small", 2)
    assert [a.path for a in registry.client.list_artifacts(version.run_id, "compare")] == ["compare/1-2.html"]
    assert [a.path for a in registry.client.list_artifacts(version.run_id, "training")] == ["training/plan.csv"]
    assert version.tags["plan"].startswith("1 rank on 1 host (cpu), tables: ")
    assert registry.client.get_run(version.run_id).data.params["dim"] == "8"


@pytest.mark.slow
def test_a_feature_taken_from_the_same_version_changes_nothing(small_days: tuple[Recipe, Settings]) -> None:
    recipe, settings = small_days
    registry = Registry(settings)
    a, b = (Subject.load(v, trained_day(v, settings)) for v in registry.versions("small"))
    sample = draw(recipe, a, b, lake=Lake(settings.lake), num_rows=NUM_ROWS, seed=0)
    of_a, of_b = a.encode(sample.chunks), b.encode(sample.chunks)
    for swapped in swap_features(a, a, of_a, of_a):
        assert swapped.cosine == pytest.approx(1.0, abs=1e-6)
        assert swapped.row_change in (None, 0.0)
        assert all(change == pytest.approx(0.0, abs=1e-6) for change in swapped.ne_change.values())
    apart = {swapped.feature: swapped for swapped in swap_features(a, b, of_a, of_b)}
    assert apart[TABLES].cosine < 1
    assert apart["user"].row_change > 0
    learnt = replace(b, version=replace(b.version, ds=SMALL_DAYS[2]))
    assert not draw(recipe, a, learnt, lake=Lake(settings.lake), num_rows=10, seed=0).held_out


def test_what_a_pruned_checkpoint_leaves_is_compared(
    recipe: Recipe, settings: Settings, capsys: pytest.CaptureFixture[str]
) -> None:
    """The tiny world has no checkpoints at all: only sealed snapshots."""
    for ds in range(2):
        promoted_day(recipe, ds, settings)
    found = compare(recipe, "1", "2", settings=settings)
    assert len([note for note in found.notes if "the checkpoint of tiny version" in note]) == 2
    assert (found.on, found.scores, found.features, found.moved) == (None, (), (), ())
    assert {row.metric for row in found.shift} >= {"cosine_mean", "norm_change_mean"}
    assert any(changed.name == "parent_ds" for changed in found.changed)
    print_comparison(found.summary())
    assert "no scores, no effect of features" in capsys.readouterr().out

    for file in (newest(settings, DAYS[0]).path,):
        file.chmod(0o755)
        file.rename(file.with_name("gone"))
    found = compare(recipe, "1", "2", settings=settings)
    assert any("the shift cannot be measured" in note for note in found.notes)
    assert not [row for row in found.shift if row.embedding is not None]


def test_another_recipe_is_told_by_the_contract(recipe: Recipe, settings: Settings) -> None:
    publish_day(recipe, DAYS[0], make_tower(recipe), settings=settings)
    wider = replace(recipe, user_tower=replace(recipe.user_tower, num_embeddings=3))
    publish_day(wider, DAYS[1], make_tower(wider), settings=settings)
    found = compare(wider, "1", "2", settings=settings)
    assert ("config", "user_tower.num_embeddings", "2", "3") in {(c.part, c.name, c.a, c.b) for c in found.changed}
    assert any("has no embeddings" in note for note in found.notes), "the second was never embedded"


@pytest.mark.parametrize(
    ("a", "b", "words"),
    [
        pytest.param("1", "3", "no version 3; it has 1 to 2, of 2026-01-01 to 2026-01-02", id="unknown number"),
        pytest.param(
            "2026-01-05", "1", "no version of 2026-01-05; its days: 2026-01-01 to 2026-01-02", id="unknown day"
        ),
        pytest.param("previous", "1", "has no previous; its aliases: candidate \\(version 2\\)", id="unset alias"),
        pytest.param("yesterday", "1", "'yesterday' is no version: give a number", id="neither"),
        pytest.param("2", "candidate", "are both tiny version 2 of 2026-01-02", id="the same"),
    ],
)
def test_versions_that_cannot_be_compared(recipe: Recipe, settings: Settings, a: str, b: str, words: str) -> None:
    for ds in DAYS[:2]:
        publish_day(recipe, ds, make_tower(recipe), settings=settings)
    with pytest.raises(ValueError, match=words):
        compare(recipe, a, b, settings=settings)


def test_a_model_without_versions(recipe: Recipe, settings: Settings) -> None:
    with pytest.raises(ValueError, match="usermodel snapshots publish --recipe tiny"):
        compare(recipe, "1", "2", settings=settings)
    with pytest.raises(ValueError, match="0 rows"):
        compare(recipe, "1", "2", settings=settings, rows=0)
