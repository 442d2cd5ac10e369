from __future__ import annotations

import json
import shutil
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
import torch
from torch.distributed.checkpoint.format_utils import dcp_to_torch_save

from infra.settings import Settings
from tests.towers import tiny_user_tower
from tests.trainer.planted import DAY, planted_recipe
from tests.trainer.resave import resave
from trainer import sharding
from trainer.assignment import Assignment, write_assignment
from trainer.checkpoint import MANIFEST, STATE, DamagedCheckpointError, is_complete, seal, verify
from trainer.config import TrainingConfig
from trainer.launch import run_ranks
from trainer.origin import warm_start
from trainer.trained import TrainedDay, load_user_tower, read_trained


def tensors(directory: Path, scratch: Path) -> dict[str, torch.Tensor]:
    """Every tensor of a checkpoint, unsharded, by its path."""
    dcp_to_torch_save(directory / STATE, scratch)
    found: dict[str, torch.Tensor] = {}

    def walk(prefix: str, value: object) -> None:
        if isinstance(value, dict):
            for name, inner in value.items():
                walk(f"{prefix}/{name}", inner)
        elif isinstance(value, torch.Tensor):
            found[prefix] = value

    walk("", torch.load(scratch, weights_only=True))
    return found


def assignment_from(trained: TrainedDay, home: Settings) -> Assignment:
    return Assignment(
        config=TrainingConfig.of(planted_recipe()),
        ds=DAY + timedelta(2),
        lake=home.lake,
        examples=trained.examples,
        parent=trained,
        fingerprint="0" * 64,
        revision=0,
        destination=trained.path,
        lock=trained.path,
        token="t",  # noqa: S106
        device="cpu",
        deadline_seconds=60,
    )


@pytest.mark.slow
def test_weights_and_optimizer_state_survive_any_ranks_and_plans(
    home: Settings, pair: tuple[TrainedDay, TrainedDay], tmp_path: Path, one_rank: None
) -> None:
    at_two = pair[1]
    original = tensors(at_two.path, tmp_path / "a.pt")
    assert any("momentum" in name for name in original), "row-wise Adagrad's state"
    assert any("exp_avg_sq" in name for name in original), "Adam's state"

    resave(assignment_from(at_two, home), tmp_path / "one")
    again = tmp_path / "one"
    for name, ranks, placement in (("two", 2, "planned"), ("four", 4, "row_wise")):
        job = tmp_path / f"job-{name}"
        job.mkdir()
        write_assignment(assignment_from(replace(at_two, path=again), home), job / "assignment.json")
        again = tmp_path / name
        arguments = [str(job / "assignment.json"), str(again), placement]
        run_ranks("tests.trainer.resave:main", arguments, ranks=ranks, directory=job)
    resave(assignment_from(replace(at_two, path=again), home), tmp_path / "one-again")

    for again in (tmp_path / name for name in ("one", "two", "four", "one-again")):
        copy = tensors(again, tmp_path / f"{again.name}.pt")
        assert copy.keys() == original.keys()
        different = [name for name in original if not torch.equal(copy[name], original[name])]
        assert not different


def test_the_user_tower_loads_without_a_process_group(
    home: Settings, pair: tuple[TrainedDay, TrainedDay], tmp_path: Path
) -> None:
    tower = load_user_tower(planted_recipe(), pair[1])
    assert not tower.training
    saved = tensors(pair[1].path, tmp_path / "a.pt")
    for name, tensor in tower.state_dict().items():
        assert torch.equal(tensor, saved[f"/model/user_tower.{name}"]), name


def test_a_tower_of_another_shape_is_refused(pair: tuple[TrainedDay, TrainedDay]) -> None:
    with pytest.raises(DamagedCheckpointError, match="does not hold the user tower of recipe tiny"):
        load_user_tower(planted_recipe(user_tower=tiny_user_tower(dim=32)), pair[1])


@pytest.fixture
def copied(pair: tuple[TrainedDay, TrainedDay], tmp_path: Path) -> TrainedDay:
    shutil.copytree(pair[1].path, tmp_path / pair[1].path.name)
    return TrainedDay(**{**vars(pair[1]), "path": tmp_path / pair[1].path.name})


def test_a_damaged_parent_is_never_trained_on(copied: TrainedDay, one_rank: None) -> None:
    shard = max(copied.path.rglob("*.distcp"), key=lambda path: path.stat().st_size)
    content = bytearray(shard.read_bytes())
    content[len(content) // 2] ^= 1
    shard.write_bytes(content)
    sharded = sharding.build(TrainingConfig.of(planted_recipe()), local_world_size=1)
    with pytest.raises(DamagedCheckpointError, match=shard.name):
        warm_start(sharded, copied, config=TrainingConfig.of(planted_recipe()))


@pytest.mark.parametrize(
    "damage",
    [
        pytest.param(lambda path: (path / MANIFEST).unlink(), id="no-manifest"),
        pytest.param(lambda path: (path / MANIFEST).write_text("{"), id="torn-manifest"),
        pytest.param(lambda path: (path / MANIFEST).write_text(json.dumps({"files": 3})), id="odd-manifest"),
        pytest.param(lambda path: (path / STATE / ".metadata").unlink(), id="missing-file"),
        pytest.param(lambda path: (path / "trained.json").write_text(""), id="truncated-file"),
    ],
)
def test_an_incomplete_directory_is_no_trained_day(copied: TrainedDay, damage: object) -> None:
    assert read_trained(copied.path) is not None
    damage(copied.path)  # type: ignore[operator]
    assert read_trained(copied.path) is None


def test_what_is_sealed_is_not_written_again(copied: TrainedDay, tmp_path: Path) -> None:
    partial = tmp_path / "partial"
    partial.mkdir()
    assert is_complete(copied.path)
    with pytest.raises(FileExistsError, match="is sealed"):
        seal(partial, copied.path, documents={"trained.json": "{}"})
    verify(copied.path)
