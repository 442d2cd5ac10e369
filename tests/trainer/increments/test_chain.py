"""A full checkpoint and what adds to it: as good as full ones, and refused when one of the two is not what it was."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest
import torch

from infra.settings import Settings
from tests.faults.attempts import Fault, failure
from tests.trainer.increments.conftest import Chain
from tests.trainer.increments.world import LARGE, large_recipe, parts_of
from tests.trainer.planted import DAY, PlantedSource, planted_recipe
from trainer import sharding
from trainer.checkpoint import (
    MANIFEST,
    ROWS,
    Base,
    BrokenChainError,
    DamagedCheckpointError,
    base_path,
    is_complete,
    seal,
    verify,
)
from trainer.config import TrainingConfig
from trainer.increments.rows import saved_rows
from trainer.job import train
from trainer.origin import warm_start
from trainer.recipe import Checkpoints
from trainer.trained import TrainedDay, find_base, load_user_tower, read_trained


def loaded(path: Path) -> dict[str, torch.Tensor]:
    """Everything that the checkpoint gives to a model on one rank."""
    sharded = sharding.build(TrainingConfig.of(large_recipe()), local_world_size=1)
    sharded.load(path)
    return parts_of(sharded)


def assert_same(found: Path, expected: Path) -> None:
    ours, theirs = loaded(found), loaded(expected)
    assert ours.keys() == theirs.keys()
    assert [name for name in theirs if not torch.equal(ours[name], theirs[name])] == []


def rows_of(day: TrainedDay) -> dict[str, set[int]]:
    found: dict[str, set[int]] = {}
    for table, rows in saved_rows(day.path):
        found.setdefault(table, set()).update(rows.tolist())
    return found


@pytest.fixture
def copied(chain: Chain, tmp_path: Path) -> Chain:
    """The three, in a folder of the test's own."""
    for day in chain:
        shutil.copytree(day.path, tmp_path / "tiny" / day.path.name)
    first, second, third = (replace(day, path=tmp_path / "tiny" / day.path.name) for day in chain)
    return first, second, third


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def test_days_add_to_the_last_full_one(chain: Chain) -> None:
    first, second, third = chain
    forms = [day.stored.sentence for day in chain if day.stored is not None]
    assert forms == ["full (nothing to add to)", f"increment of ds={DAY}", f"increment of ds={DAY}"]
    assert [base_path(day.path) for day in chain] == [None, first.path, first.path]
    assert find_base(third) == find_base(first)
    rows = rows_of(third)
    assert all(second_rows <= rows[table] for table, second_rows in rows_of(second).items())
    assert second.stored is not None
    assert third.stored is not None
    for table, share in third.stored.touched.items():
        (found,) = (len(rows) for name, rows in rows.items() if name.endswith(f".{table}.weight"))
        assert share == pytest.approx(found / 6007, abs=1e-6)
        assert share >= second.stored.touched[table]
    assert first.stored is not None
    assert third.stored.num_bytes < 0.5 * first.stored.num_bytes
    assert first.stored.num_bytes >= first.stored.full_bytes == third.stored.full_bytes


@pytest.mark.slow
def test_the_form_changes_no_bit(chain: Chain, large_home: Settings, tmp_path: Path, one_rank: None) -> None:
    settings = large_home.model_copy(update={"home": tmp_path, "lake_uri": large_home.lake})
    shutil.copytree(chain[0].path, settings.checkpoints / "tiny" / chain[0].path.name)
    full = train(large_recipe(checkpoints=Checkpoints(full_every=1)), DAY + timedelta(1), settings=settings)
    assert full.stored is not None
    assert full.stored.sentence == "full (the recipe asks for it every day)"
    assert (full.fingerprint, full.metrics) == (chain[1].fingerprint, chain[1].metrics)
    assert_same(chain[1].path, full.path)
    ours, theirs = (load_user_tower(large_recipe(), day).state_dict() for day in (chain[1], full))
    assert [name for name in theirs if not torch.equal(ours[name], theirs[name])] == []


def another(path: Path) -> None:
    """The same files, sealed at another time."""
    (path / "trained.json").write_text((path / "trained.json").read_text() + "\n")
    manifest = json.loads((path / MANIFEST).read_text())
    del manifest["files"]["trained.json"]
    (path / MANIFEST).write_text(json.dumps(manifest))


@pytest.mark.parametrize(
    ("harm", "message", "is_seen"),
    [
        pytest.param(shutil.rmtree, "which is missing or incomplete", True, id="missing"),
        pytest.param(lambda path: (path / MANIFEST).unlink(), "which is missing or incomplete", True, id="unsealed"),
        pytest.param(another, "which is another one now", True, id="another"),
        pytest.param(lambda path: flip(max(path.rglob("*.distcp"))), "which is damaged", False, id="flipped-bit"),
    ],
)
def test_a_base_that_is_not_what_it_was_is_never_used(
    copied: Chain, caplog: pytest.LogCaptureFixture, harm: Callable[[Path], None], message: str, is_seen: bool
) -> None:
    first, second, _ = copied
    verify(second.path)
    harm(first.path)
    for use in (lambda: verify(second.path), lambda: load_user_tower(large_recipe(), second)):
        with pytest.raises(BrokenChainError, match=f"{message}.*train again from that day on") as caught:
            use()
        assert str(first.path) in str(caught.value)
        assert str(second.path) in str(caught.value)
    # What is cheap to see makes it no trained day, so that it is trained again.
    assert (read_trained(second.path) is None) == is_seen
    assert ("not a trained day" in caplog.text) == is_seen
    if is_seen:
        partial = second.path.with_name("partial")
        partial.mkdir()
        seal(partial, second.path, documents={"trained.json": "{}"})
        verify(second.path)


def test_damaged_rows_are_refused_by_name(copied: Chain) -> None:
    for path in sorted((copied[2].path / ROWS).iterdir()):
        flip(path)
        with pytest.raises(DamagedCheckpointError, match=path.name):
            load_user_tower(large_recipe(), copied[2])
        flip(path)
    path.unlink()
    assert not is_complete(copied[2].path)


def test_nothing_is_sealed_on_a_base_that_is_gone(copied: Chain, tmp_path: Path) -> None:
    base = Base.of(copied[0].path)
    shutil.rmtree(copied[0].path)
    partial = tmp_path / "partial"
    partial.mkdir()
    with pytest.raises(BrokenChainError, match="missing or incomplete"):
        seal(partial, tmp_path / "tiny" / "ds=2026-01-09-0", documents={}, base=base)


def test_a_base_is_a_neighbour() -> None:
    with pytest.raises(ValueError, match="no name of a neighbouring directory"):
        Base(name="../elsewhere", manifest_sha256="0")


def test_rows_are_of_every_rank(chain: Chain) -> None:
    assert [path.name for path in sorted((chain[1].path / ROWS).iterdir())] == [
        "rank=00000.safetensors",
        "rank=00001.safetensors",
    ]
    assert all(np.array_equal(rows, np.unique(rows)) for _, rows in saved_rows(chain[1].path))


@pytest.mark.slow
def test_a_day_killed_while_its_increment_is_written_holds_all_that_it_touched(
    chain: Chain, large_home: Settings, tmp_path: Path, one_rank: None
) -> None:
    settings = large_home.model_copy(update={"home": tmp_path, "lake_uri": large_home.lake})
    shutil.copytree(chain[0].path, settings.checkpoints / "tiny" / chain[0].path.name)
    for fault in (Fault(moment="learning", step=14), Fault(moment="storing"), Fault(moment="publishing")):
        assert "a rank was killed" in failure(settings, fault, recipe=large_recipe(), ds=DAY + timedelta(1))
    assert [path.name for path in (settings.checkpoints / "tiny").glob("ds=*") if path.is_dir()] == [chain[0].path.name]
    trained = train(large_recipe(), DAY + timedelta(1), settings=settings)
    assert trained.resumed == 1  # since the newest waypoint, whatever happened after it
    assert trained.stored is not None
    assert chain[1].stored is not None
    assert trained.stored.touched == chain[1].stored.touched
    assert rows_of(trained) == rows_of(chain[1])
    assert_same(trained.path, chain[1].path)


def test_a_changed_recipe_takes_over_the_rows_of_an_increment(chain: Chain, one_rank: None) -> None:
    tables = tuple(replace(table, num_rows=2 * table.num_rows) for table in LARGE.tables)
    source = PlantedSource(schema=replace(LARGE, tables=tables))
    grown = TrainingConfig.of(planted_recipe(source=source))
    sharded = sharding.build(grown, local_world_size=1)
    comparison = warm_start(sharded, chain[2], config=grown)
    assert not comparison.tables_unchanged
    before, after = loaded(chain[2].path), parts_of(sharded)
    of_tables = [name for name in before if ".embedding_bags." in name]
    assert len(of_tables) == 10
    for name in of_tables:
        assert torch.equal(after[name], torch.cat([before[name], before[name]])), name
    dense = [name for name in before if name.startswith("model.") and name not in of_tables]
    assert [name for name in dense if not torch.equal(after[name], before[name])] == []
