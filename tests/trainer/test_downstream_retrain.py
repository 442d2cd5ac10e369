"""The daily retraining, on a tiny world in a real lake."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
import torch

from features.lake import Lake, MissingPartitionError, Partition
from features.selection import Selection
from infra.settings import Settings
from tests.trainer.downstream_world import CTR, SCHEMA, UPSTREAM, World, day, variant
from trainer.checkpoint import DamagedCheckpointError
from trainer.downstream.arms import shape_of, with_and_without
from trainer.downstream.checkpoint import Checkpoints
from trainer.downstream.day import DownstreamDay
from trainer.downstream.joined import NoEmbeddingsError
from trainer.downstream.retrain import retrain, retrain_on
from trainer.recipe import DownstreamRecipe


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(settings=Settings(home=tmp_path, _env_file=None))


def run(world: World, index: int, promoted: list[Partition], recipe: DownstreamRecipe = CTR) -> DownstreamDay:
    return retrain_on(recipe, (UPSTREAM,), day(index), settings=world.settings, promoted={"tiny": promoted})


def run_days(world: World, last: int, *, permuted: bool = False) -> list[DownstreamDay]:
    """Days 1 to `last`, each with the embeddings of all days, its own and later ones included."""
    promoted = [world.commit_embeddings(day(i), permuted=permuted) for i in range(last + 1)]
    for index in range(1, last + 1):
        world.commit_examples(day(index))
    return [run(world, index, promoted) for index in range(1, last + 1)]


def test_informative_embeddings_help_on_the_next_day(world: World) -> None:
    first, *_, last = run_days(world, 4)
    assert first.evaluation is None
    assert first.parent_ds is None
    assert last.evaluation is not None
    everyone, known, unknown = (
        last.evaluation.everyone,
        last.evaluation.with_embedding,
        last.evaluation.without_embedding,
    )
    assert known is not None
    assert unknown is not None
    assert everyone.interval is not None
    assert everyone.sum.ne < everyone.baseline.ne < 1.02
    assert everyone.interval[1] < -5
    assert known.ne_diff_percent < everyone.ne_diff_percent
    assert abs(unknown.ne_diff_percent) < 2
    assert 0.9 < everyone.sum.calibration < 1.1
    assert everyone.sum.auc > everyone.baseline.auc + 0.1
    assert last.training.everyone.ne_diff_percent < -5
    assert last.coverage.users == pytest.approx(0.8)
    assert last.coverage.mean_age_days == 1
    assert (last.num_examples, last.num_users) == (world.examples_per_day, world.num_users)
    assert last.day_index == 4


def test_permuted_embeddings_do_not_help(world: World) -> None:
    last = run_days(world, 4, permuted=True)[-1]
    assert last.evaluation is not None
    assert last.evaluation.everyone.interval is not None
    assert last.evaluation.everyone.interval[1] > -0.1
    assert abs(last.evaluation.everyone.ne_diff_percent) < 0.5


def test_the_days_own_embeddings_change_nothing(world: World) -> None:
    """Promoting the day itself, or a later one, neither retrains nor could be read."""
    before = world.commit_embeddings(day(0))
    world.commit_examples(day(1))
    first = run(world, 1, [before])
    again = run(world, 1, [before, world.commit_embeddings(day(1)), world.commit_embeddings(day(2))])
    assert again == first
    assert [partition.ds for partition in first.embeddings] == [day(0)]


def test_embeddings_of_the_day_under_an_earlier_name_are_refused(world: World) -> None:
    world.commit_examples(day(1))
    leaking = world.commit_embeddings(day(0), late=timedelta(hours=1))
    with pytest.raises(ValueError, match="would leak"):
        run(world, 1, [leaking])
    assert Checkpoints(world.settings, CTR.name).days() == []


def test_both_arms_begin_as_the_same_function() -> None:
    arms = with_and_without(CTR, SCHEMA, [shape_of(UPSTREAM.user_tower)]).arms
    baseline, with_sum = arms["baseline"].state(), arms["sum"].state()
    assert baseline.keys() < with_sum.keys()
    assert all(torch.equal(value, with_sum[name]) for name, value in baseline.items())
    assert not with_sum["weights.join.weight"].any()


def test_twice_is_once(world: World) -> None:
    promoted = [world.commit_embeddings(day(0))]
    world.commit_examples(day(1))
    first = run(world, 1, promoted)
    stamps = {path: path.stat().st_mtime_ns for path in first.path.iterdir()}
    assert run(world, 1, promoted) == first
    assert {path: path.stat().st_mtime_ns for path in first.path.iterdir()} == stamps


def test_the_same_inputs_give_the_same_weights(world: World, tmp_path_factory: pytest.TempPathFactory) -> None:
    other = World(settings=Settings(home=tmp_path_factory.mktemp("other"), _env_file=None))
    one, two = run_days(world, 2)[-1], run_days(other, 2)[-1]
    assert (one.fingerprint, one.evaluation, one.training) == (two.fingerprint, two.evaluation, two.training)
    a, b = (Checkpoints(w.settings, CTR.name).load(d) for w, d in ((world, one), (other, two)))
    assert a.keys() == b.keys()
    assert all(torch.equal(a[name], b[name]) for name in a)


def test_it_goes_on_from_the_day_before(world: World) -> None:
    first, second = run_days(world, 2)
    assert (second.parent_ds, second.parent_fingerprint) == (day(1), first.fingerprint)
    assert second.evaluation is not None
    # evaluated as it stood after day 1: better than what training began with on day 1
    assert second.evaluation.everyone.sum.ne < first.training.everyone.sum.ne
    checkpoints = Checkpoints(world.settings, CTR.name)
    steps = {n: v for n, v in checkpoints.load(second).items() if n.endswith("entry.weight.step")}
    assert {float(step) for step in steps.values()} == {2 * -(-world.examples_per_day // CTR.batch_size)}


def test_a_gap_is_crossed_and_said(world: World, caplog: pytest.LogCaptureFixture) -> None:
    promoted = [world.commit_embeddings(day(0))]
    for index in (1, 3):
        world.commit_examples(day(index))
    run(world, 1, promoted)
    late = run(world, 3, promoted)
    assert late.parent_ds == day(1)
    assert late.coverage.mean_age_days == 3
    assert "gap model=tiny_ctr ds=2026-01-04 goes on from ds=2026-01-02" in caplog.text


def test_other_examples_make_a_new_revision_that_the_next_day_goes_on_from(world: World) -> None:
    promoted = [world.commit_embeddings(day(0))]
    for index in (1, 2):
        world.commit_examples(day(index))
    first = run(world, 1, promoted)
    second = run(world, 2, promoted)
    world.commit_examples(day(1), seed=1)
    corrected = run(world, 1, promoted)
    again = run(world, 2, promoted)
    assert (first.revision, corrected.revision, again.revision) == (0, 1, 1)
    assert corrected.fingerprint != first.fingerprint
    assert again.parent_fingerprint == corrected.fingerprint != second.parent_fingerprint
    assert first.path.is_dir()


def test_an_interrupted_writer_leaves_nothing_that_counts(world: World) -> None:
    promoted = [world.commit_embeddings(day(0))]
    world.commit_examples(day(1))
    first = run(world, 1, promoted)
    partial = first.path.with_name(f".partial-{first.path.name}-dead")
    first.path.rename(partial)
    assert Checkpoints(world.settings, CTR.name).days() == []
    again = run(world, 1, promoted)
    assert again.fingerprint == first.fingerprint
    assert not partial.exists()


def test_a_flipped_bit_is_refused(world: World) -> None:
    promoted = [world.commit_embeddings(day(0))]
    for index in (1, 2):
        world.commit_examples(day(index))
    file = run(world, 1, promoted).path / "state.safetensors"
    damaged = bytearray(file.read_bytes())
    damaged[-1] ^= 1
    file.write_bytes(damaged)
    with pytest.raises(DamagedCheckpointError, match="SHA-256"):
        run(world, 2, promoted)


def test_the_sealed_folder_holds_no_code(world: World) -> None:
    promoted = [world.commit_embeddings(day(0))]
    world.commit_examples(day(1))
    path = run(world, 1, promoted).path
    assert sorted(file.name for file in path.iterdir()) == [
        "downstream.json",
        "manifest.json",
        "state.safetensors",
    ]
    assert json.loads((path / "downstream.json").read_text())["ds"] == "2026-01-02"


@pytest.mark.parametrize(
    ("recipe", "message"),
    [
        pytest.param(variant(task="like"), "task 'like' is no label of tiny", id="unknown task"),
        pytest.param(variant(user_features=("price",)), "no user-side features", id="an item's feature"),
        pytest.param(variant(upstreams=("other",)), "consumes .'other',., not .'tiny',.", id="another upstream"),
    ],
)
def test_recipes_that_do_not_fit(world: World, recipe: DownstreamRecipe, message: str) -> None:
    promoted = [world.commit_embeddings(day(0))]
    world.commit_examples(day(1))
    with pytest.raises(ValueError, match=message):
        run(world, 1, promoted, recipe)


def test_a_day_of_which_nothing_is_selected(world: World) -> None:
    promoted = [world.commit_embeddings(day(0))]
    world.commit_examples(day(1))
    nobody = variant(examples=(Selection(column="click", values=(7,)),))
    with pytest.raises(ValueError, match=r"examples/tiny ds=2026-01-02 has no rows where click in \[7\]"):
        run(world, 1, promoted, nobody)


def test_a_document_with_a_flipped_byte_counts_as_untrained(world: World, caplog: pytest.LogCaptureFixture) -> None:
    promoted = [world.commit_embeddings(day(0))]
    world.commit_examples(day(1))
    document = run(world, 1, promoted).path / "downstream.json"
    document.parent.chmod(0o755)
    document.chmod(0o644)
    damaged = bytearray(document.read_bytes())
    damaged[0] ^= 0x20
    document.write_bytes(damaged)
    assert Checkpoints(world.settings, CTR.name).days() == []
    assert str(document) in caplog.text


def test_weights_do_not_go_on_from_another_user_model(world: World) -> None:
    promoted = [world.commit_embeddings(day(0))]
    for index in (1, 2):
        world.commit_examples(day(index))
    run(world, 1, promoted)
    other = replace(UPSTREAM, name="other")
    lake = Lake(world.settings.lake)
    rows = lake.read(promoted[0])
    rows = rows.drop_columns([name for name in ("ds",) if name in rows.schema.names])
    moved = [lake.commit("user_embeddings/other", day(0), rows, fingerprint="2" * 64)]
    consumer = variant(upstreams=("other",))
    with pytest.raises(ValueError, match=r"has learnt to read \('tiny',\), in this order, not \('other',\)"):
        retrain_on(consumer, (other,), day(2), settings=world.settings, promoted={"other": moved})


def test_missing_inputs(world: World) -> None:
    promoted = [world.commit_embeddings(day(0))]
    with pytest.raises(MissingPartitionError, match="examples/tiny has no partition ds=2026-01-02"):
        run(world, 1, promoted)
    world.commit_examples(day(1))
    with pytest.raises(NoEmbeddingsError, match="promote the embeddings of a day before"):
        run(world, 1, [])
    with pytest.raises(ValueError, match="there is no recipe 'tiny'"):
        retrain(CTR, day(1), settings=world.settings, promoted={"tiny": promoted})


def test_a_changed_model_does_not_go_on_from_other_shapes(world: World) -> None:
    promoted = [world.commit_embeddings(day(0))]
    for index in (1, 2):
        world.commit_examples(day(index))
    run(world, 1, promoted)
    with pytest.raises(ValueError, match="give it a new name"):
        run(world, 2, promoted, replace(CTR, hidden=(16, 8)))


def test_a_loss_that_is_not_finite_publishes_nothing(world: World) -> None:
    promoted = [world.commit_embeddings(day(0))]
    world.commit_examples(day(1))
    wild = replace(CTR, optimizer=replace(CTR.optimizer, dense_lr=1e30))
    with pytest.raises(FloatingPointError, match="batch 1"):
        run(world, 1, promoted, wild)
    assert Checkpoints(world.settings, CTR.name).days() == []
