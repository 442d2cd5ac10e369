"""L2 to the parent's weights and distillation: their gradients, their promises over ranks, resumes and changes."""

from __future__ import annotations

import shutil
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest
import torch

from features.batches import Encoder
from features.lake import Lake
from features.reader import DayReader
from tests.faults.attempts import Fault, attempt, failure, settings_of
from tests.trainer.planted import DAY, SCHEMA, commit_day, planted_recipe
from tests.trainer.test_checkpoint import tensors
from trainer import sharding
from trainer.anchor import Anchor
from trainer.carryover.compare import Comparison, compare
from trainer.carryover.document import ModelDocument
from trainer.config import TrainingConfig
from trainer.job import day_fingerprint, train
from trainer.loop import learn
from trainer.model.losses import distance_to_teacher
from trainer.recipe import Recipe
from trainer.sharding import ShardedModel
from trainer.stabilizers import Distillation, L2ToPrevious, Regularizer

TASKS = ("click", "buy")
BOTH: tuple[Regularizer, ...] = (L2ToPrevious(weight=0.1), Distillation(weight=2.0))


def config_of(*regularizers: Regularizer) -> TrainingConfig:
    return TrainingConfig.of(planted_recipe(regularizers=regularizers))


def unchanged(config: TrainingConfig) -> Comparison:
    return compare(ModelDocument(config=config), ModelDocument(config=config))


@pytest.mark.parametrize("distance", ["squared", "cosine"])
def test_the_distance_and_its_gradient_are_the_equation(distance: str) -> None:
    rng = np.random.default_rng(0)
    u, t = rng.normal(size=(2, 5, 2, 4))
    weights, num_examples = np.array([1.0, 1, 1, 0, 0]), 3.0
    users = torch.tensor(u, dtype=torch.float32, requires_grad=True)
    found = distance_to_teacher(
        users,
        torch.tensor(t, dtype=torch.float32),
        distance=distance,
        weights=torch.tensor(weights, dtype=torch.float32),
        num_examples=torch.tensor(num_examples),
    )
    found.backward()
    dot = (u * t).sum(-1, keepdims=True)
    length, other = (np.linalg.norm(x, axis=-1, keepdims=True) for x in (u, t))
    if distance == "squared":
        d, slope = ((u - t) ** 2).mean(-1), 2 * (u - t) / u.shape[-1]
    else:
        d, slope = 1 - (dot / length / other)[..., 0], -(t / (length * other) - dot * u / (length**3 * other))
    factor = (weights / num_examples / u.shape[1])[:, None]
    np.testing.assert_allclose(found.item(), (factor * d).sum(), rtol=1e-5)
    np.testing.assert_allclose(users.grad, factor[..., None] * slope, rtol=1e-4, atol=1e-6)


@pytest.fixture
def reader(tmp_path: Path) -> DayReader:
    lake = Lake(tmp_path / "lake")
    return DayReader(lake, commit_day(lake, DAY, num_rows=640), Encoder(SCHEMA, tasks=TASKS), batch_size=64)


def learnt(config: TrainingConfig, reader: DayReader, carried: Comparison | None) -> ShardedModel:
    """A model that has learnt the day once, and then a second time with an anchor."""
    sharded = sharding.build(config, local_world_size=1)
    learn(sharded, reader, tasks=TASKS, cold_start=True)
    anchor = Anchor(sharded, config, carried)
    learn(sharded, reader, tasks=TASKS, cold_start=False, anchor=anchor)
    anchor.release()
    return sharded


def state(sharded: ShardedModel) -> dict[str, torch.Tensor]:
    return {name: parameter.detach().clone() for name, parameter in sharded.core.named_parameters()}


@pytest.mark.parametrize(
    "regularizers",
    [
        pytest.param((L2ToPrevious(weight=0.0), Distillation(weight=0.0)), id="weight 0"),
        pytest.param(BOTH, id="no parent"),
    ],
)
def test_what_is_off_changes_no_bit(reader: DayReader, one_rank: None, regularizers: tuple[Regularizer, ...]) -> None:
    plain = learnt(config_of(), reader, None)
    config = config_of(*regularizers)
    carried = None if config.is_anchored else unchanged(config)
    found = state(learnt(config, reader, carried))
    assert all(torch.equal(weights, found[name]) for name, weights in state(plain).items())


def test_l2_adds_its_gradient_before_the_step(reader: DayReader, one_rank: None) -> None:
    config = config_of(L2ToPrevious(weight=0.25))
    sharded = sharding.build(config, local_world_size=1)
    before = state(sharded)
    anchor = Anchor(sharded, config, unchanged(config))
    given = {}
    with torch.no_grad():
        for name, parameter in sharded.core.named_parameters():
            if ".embedding_bags." not in name:
                parameter.add_(0.5)
                parameter.grad = torch.full_like(parameter, 0.125)
    sharded.dense.step()
    for name, parameter in sharded.core.named_parameters():
        if ".embedding_bags." not in name:
            pulled = name.startswith("user_tower.")
            given[name] = torch.full_like(parameter, 0.125) + (2 * 0.25 * 0.5 if pulled else 0)
            torch.testing.assert_close(parameter.grad, given[name], msg=name)
    assert before.keys() > given.keys()
    anchor.release()
    parameter.grad = torch.ones_like(parameter)
    sharded.dense.step()
    assert torch.equal(parameter.grad, torch.ones_like(parameter))


def test_distillation_is_in_the_loss_of_the_first_moved_step(reader: DayReader, one_rank: None) -> None:
    """The gradient of the sharded model's output layer is that of the task's loss plus the distance's, by autograd."""
    config = config_of(Distillation(weight=3.0))
    sharded = sharding.build(config, local_world_size=1)
    sharded.module.train()
    anchor = Anchor(sharded, config, unchanged(config))
    core, batch = sharded.core, next(iter(reader))
    with torch.no_grad():
        began = core.user_tower(batch.user_sparse, batch.user_dense)
        core.user_tower.output.weight.add_(0.01)
    taught, output = anchor.teach(batch).taught, core.user_tower.output
    assert torch.equal(taught, began), "the teacher has not moved"
    users = core.user_tower(batch.user_sparse, batch.user_dense)
    apart = (users - taught).square().mean(dim=(1, 2))
    (expected,) = torch.autograd.grad(3.0 * (batch.weights @ apart) / batch.num_examples, output.weight)
    losses = {}
    for name, by in (("with", core.distillation), ("without", None)):
        core.distillation = by
        core.zero_grad()
        loss, _ = core(anchor.teach(batch))
        losses[name] = torch.autograd.grad(loss, output.weight)[0]
    torch.testing.assert_close(losses["with"] - losses["without"], expected, rtol=1e-4, atol=1e-6)
    assert expected.abs().max() > 1e-4


def test_both_keep_the_embeddings_near(reader: DayReader, one_rank: None) -> None:
    """The planted day is learnt twice: how far the user embeddings move in the second pass."""
    batch = next(iter(reader))

    def moved(*regularizers: Regularizer) -> float:
        config = config_of(*regularizers)
        sharded = sharding.build(config, local_world_size=1)
        learn(sharded, reader, tasks=TASKS, cold_start=True)
        tower = sharded.core.user_tower
        with torch.no_grad():
            before = tower(batch.user_sparse, batch.user_dense).clone()
        anchor = Anchor(sharded, config, unchanged(config))
        learn(sharded, reader, tasks=TASKS, cold_start=False, anchor=anchor)
        with torch.no_grad():
            return float((tower(batch.user_sparse, batch.user_dense) - before).square().mean())

    free = moved()
    assert moved(Distillation(weight=10.0)) < 0.5 * free
    assert moved(L2ToPrevious(weight=10.0)) < free


@pytest.mark.parametrize(
    ("changed", "taught", "pulled"),
    [
        pytest.param(planted_recipe(), True, True, id="the same recipe"),
        pytest.param(
            planted_recipe(user_tower=replace(planted_recipe().user_tower, num_dense=2)), False, True, id="tower"
        ),
    ],
)
def test_a_changed_recipe_skips_what_has_no_counterpart(
    reader: DayReader, one_rank: None, changed: Recipe, taught: bool, pulled: bool, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    config = config_of(*BOTH)
    carried = compare(ModelDocument(config=TrainingConfig.of(changed)), ModelDocument(config=config))
    sharded = sharding.build(config, local_world_size=1)
    anchor = Anchor(sharded, config, carried)
    assert (sharded.core.distillation is not None) == taught
    assert ("no distillation today: the user tower is not the parent's" in caplog.text) != taught
    assert ("no L2 to the parent's weights for user_tower." in caplog.text) != taught
    learn(sharded, reader, tasks=TASKS, cold_start=False, anchor=anchor)


def test_only_regularizers_that_are_set_are_part_of_the_fingerprint() -> None:
    lake_partition = type("P", (), {"table": "t", "ds": DAY, "fingerprint": "f"})()
    plain = replace(config_of(), regularizers=())
    assert day_fingerprint(plain, lake_partition, None) == day_fingerprint(config_of(), lake_partition, None)
    assert day_fingerprint(config_of(*BOTH), lake_partition, None) != day_fingerprint(plain, lake_partition, None)


def test_two_of_a_kind_are_refused() -> None:
    with pytest.raises(ValueError, match=r"\['distillation'\] stand twice"):
        planted_recipe(regularizers=(Distillation(weight=1), Distillation(weight=2)))


@pytest.mark.slow
def test_a_killed_day_goes_on_to_the_same_bits(tmp_path: Path) -> None:
    """The anchor is its parent's again, not the waypoint's."""
    recipe, second = planted_recipe(regularizers=BOTH), DAY + timedelta(1)
    homes = [tmp_path / "whole", tmp_path / "killed"]
    for home in homes:
        lake = Lake(settings_of(home).lake)
        commit_day(lake, DAY, num_rows=640)
        commit_day(lake, second, num_rows=2_000)
    train(recipe, DAY, settings=settings_of(homes[0]))
    shutil.copytree(settings_of(homes[0]).checkpoints, settings_of(homes[1]).checkpoints)
    whole = attempt(settings_of(homes[0]), Fault(every=99), recipe=recipe, ds=second)
    failure(settings_of(homes[1]), Fault(moment="learning", step=9), recipe=recipe, ds=second)
    resumed = attempt(settings_of(homes[1]), recipe=recipe, ds=second)
    assert (whole.resumed, resumed.resumed) == (0, 1)
    expected, found = (tensors(day.path, tmp_path / f"{day.resumed}.pt") for day in (whole, resumed))
    assert [name for name in expected if not torch.equal(expected[name], found[name])] == []
