from __future__ import annotations

from pathlib import Path

import pytest
import torch

from features.batches import Encoder
from features.lake import Lake
from features.reader import DayReader
from tests.trainer.planted import DAY, SCHEMA, commit_day, planted_recipe
from trainer import loop, sharding
from trainer.config import Dlrm, TrainingConfig
from trainer.device import autocast, backend, rank_device
from trainer.loop import NonFiniteLossError, learn
from trainer.pipeline import OverlappedSteps, Steps, build_pipeline
from trainer.recipe import Compute, Optimizer, Task

CONFIG = TrainingConfig.of(planted_recipe())
DLRM = TrainingConfig(
    name="dlrm",
    schema=SCHEMA,
    tasks=(Task(name="click"),),
    model=Dlrm(dim=8, bottom=(16,), over=(32, 16)),
    optimizer=Optimizer(sparse="adagrad", dense="adagrad", sparse_lr=0.05, dense_lr=0.05),
    batch_size=64,
    seed=0,
)


def reader_of(tmp_path: Path, config: TrainingConfig, *, num_rows: int = 2000) -> DayReader:
    lake = Lake(tmp_path / "lake")
    partition = commit_day(lake, DAY, num_rows=num_rows)
    return DayReader(lake, partition, Encoder(SCHEMA, tasks=config.task_names), batch_size=config.batch_size)


@pytest.mark.parametrize("config", [CONFIG, DLRM], ids=["sum", "dlrm"])
def test_overlapped_steps_learn_what_steps_by_hand_learn(
    tmp_path: Path, one_rank: None, monkeypatch: pytest.MonkeyPatch, config: TrainingConfig
) -> None:
    reader = reader_of(tmp_path, config)
    weights, values = [], []
    for pipeline in (Steps, OverlappedSteps):
        monkeypatch.setattr(loop, "build_pipeline", pipeline)
        sharded = sharding.build(config, local_world_size=1)
        values.append(learn(sharded, reader, tasks=config.task_names, cold_start=True))
        weights.append(sharded.module.state_dict())
    assert values[0] == values[1]
    assert values[0]["click"]["examples"] == 2000
    for name, tensor in weights[0].items():
        other = weights[1][name]
        if hasattr(tensor, "local_shards"):
            tensor, other = tensor.local_shards()[0].tensor, other.local_shards()[0].tensor
        assert torch.equal(tensor, other), name


@pytest.mark.parametrize("pipeline", [Steps, OverlappedSteps])
def test_a_loss_that_is_not_finite_stops_either_before_it_learns(
    tmp_path: Path, one_rank: None, monkeypatch: pytest.MonkeyPatch, pipeline: type[Steps] | type[OverlappedSteps]
) -> None:
    monkeypatch.setattr(loop, "build_pipeline", pipeline)
    wild = TrainingConfig.of(planted_recipe(optimizer=Optimizer(sparse_lr=1e30, dense_lr=1e30)))
    sharded = sharding.build(wild, local_world_size=1)
    with pytest.raises(NonFiniteLossError, match=r"the loss of batch 1 is not finite on rank\(s\) \[0\]"):
        learn(sharded, reader_of(tmp_path, wild), tasks=wild.task_names, cold_start=True)


def test_a_dlrm_learns_what_was_planted(tmp_path: Path, one_rank: None) -> None:
    reader = reader_of(tmp_path, DLRM, num_rows=20_000)
    sharded = sharding.build(DLRM, local_world_size=1)
    first = learn(sharded, reader, tasks=DLRM.task_names, cold_start=True)
    second = learn(sharded, reader, tasks=DLRM.task_names, cold_start=False)
    assert second["click"]["ne"] < min(first["click"]["ne"], 0.85)


def test_a_cpu_takes_steps_by_hand(one_rank: None) -> None:
    sharded = sharding.build(CONFIG, local_world_size=1)
    assert isinstance(build_pipeline(sharded, sharded.module), Steps)


def test_a_rank_without_a_gpu_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    assert rank_device("auto", local_rank=0) == torch.device("cuda", 0)
    assert rank_device("auto", local_rank=1) == torch.device("cpu")
    assert rank_device("cpu", local_rank=0) == torch.device("cpu")
    with pytest.raises(ValueError, match="rank 1 of this host wants a GPU of its own, but torch sees 1"):
        rank_device("cuda", local_rank=1)


def test_gpus_talk_nccl_and_keep_gloo_for_checkpoints() -> None:
    assert backend(torch.device("cuda", 0)) == "cpu:gloo,cuda:nccl"
    assert backend(torch.device("cpu")) == "gloo"


def test_a_cpu_computes_in_float32_whatever_the_recipe_allows(one_rank: None) -> None:
    with autocast(torch.device("cpu"), Compute(matmul="bf16")):
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.float32
