from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torchrec.optim.rowwise_adagrad import RowWiseAdagrad

from features.batches import Encoder
from features.lake import Lake
from features.reader import DayReader
from infra.settings import Settings
from tests.trainer.agreement import assert_agree
from tests.trainer.planted import DAY, SCHEMA, commit_day, planted_recipe
from tests.trainer.test_checkpoint import tensors
from trainer import sharding
from trainer.config import TrainingConfig
from trainer.job import train
from trainer.loop import NonFiniteLossError, learn
from trainer.model.build import build_model
from trainer.model.initial import initialise_dense, initialise_tables
from trainer.recipe import Optimizer

TASKS = ("click", "buy")


def test_two_sharded_ranks_learn_what_an_unsharded_model_learns(tmp_path: Path) -> None:
    """Over a few steps: rounding grows with each."""
    settings = Settings(home=tmp_path, ranks=2, device="cpu", _env_file=None)
    commit_day(Lake(settings.lake), DAY, num_rows=4 * 128)
    sharded = train(planted_recipe(), DAY, settings=settings)
    config = TrainingConfig.of(planted_recipe())
    model = build_model(config)
    initialise_dense(model, seed=config.seed)
    initialise_tables(model, seed=config.seed)
    tables = [p for name, p in model.named_parameters() if ".embedding_bags." in name]
    rest = [p for name, p in model.named_parameters() if ".embedding_bags." not in name]
    sparse = RowWiseAdagrad(tables, lr=config.optimizer.sparse_lr, eps=config.optimizer.epsilon)
    dense = torch.optim.Adam(rest, lr=config.optimizer.dense_lr)
    readers = [
        DayReader(
            Lake(settings.lake),
            sharded.examples,
            Encoder(SCHEMA, tasks=TASKS),
            batch_size=config.batch_size,
            rank=rank,
            world_size=2,
            seed=config.seed,
        )
        for rank in range(2)
    ]
    for step, batches in enumerate(zip(*readers, strict=True)):
        results = [model(batch) for batch in batches]
        sparse.zero_grad()
        dense.zero_grad()
        (sum(loss for loss, _ in results) / 2).backward()
        sparse.step()
        dense.step()
        if step == 0:
            labels = torch.cat([labels[weights > 0] for _, (_, _, labels, weights) in results])
            model.set_prior(labels.mean(dim=0))
    trained = tensors(sharded.path, tmp_path / "a.pt")
    for name, tensor in model.state_dict().items():
        assert_agree(trained[f"/model/{name}"], tensor, name=name)


def build_reader(tmp_path: Path) -> DayReader:
    lake = Lake(tmp_path / "lake")
    return DayReader(lake, commit_day(lake, DAY), Encoder(SCHEMA, tasks=TASKS), batch_size=64)


def test_the_same_seed_gives_the_same_bits(tmp_path: Path, one_rank: None) -> None:
    reader = build_reader(tmp_path)
    weights = []
    for _ in range(2):
        sharded = sharding.build(TrainingConfig.of(planted_recipe()), local_world_size=1)
        learn(sharded, reader, tasks=TASKS, cold_start=True)
        weights.append([p.detach().clone() for p in sharded.core.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*weights, strict=True))


def test_a_loss_that_is_not_finite_stops_before_the_step(tmp_path: Path, one_rank: None) -> None:
    wild = planted_recipe(optimizer=Optimizer(sparse_lr=1e30, dense_lr=1e30))
    sharded = sharding.build(TrainingConfig.of(wild), local_world_size=1)
    with pytest.raises(
        NonFiniteLossError, match=r"the loss of batch \d+ is not finite on rank\(s\) \[0\].* on rank 0 column \w+ has"
    ):
        learn(sharded, build_reader(tmp_path), tasks=TASKS, cold_start=True)
