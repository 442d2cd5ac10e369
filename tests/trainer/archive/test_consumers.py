"""Downstream models in object storage: a machine retrains from what another has learnt."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from infra.settings import Settings
from tests.trainer.downstream_world import CTR, UPSTREAM, World, day
from trainer.archive.archive import Archive
from trainer.checkpoint import DamagedCheckpointError
from trainer.downstream.checkpoint import Checkpoints
from trainer.downstream.day import DownstreamDay
from trainer.downstream.retrain import retrain_on


def test_another_machine_goes_on_and_what_is_damaged_is_refused(tmp_path: Path, bucket: str) -> None:
    world = World(settings=Settings(home=tmp_path / "alone", _env_file=None))
    promoted = [world.commit_embeddings(day(0)), world.commit_embeddings(day(1))]
    for index in (1, 2):
        world.commit_examples(day(index))

    def run(index: int, settings: Settings) -> DownstreamDay:
        return retrain_on(CTR, (UPSTREAM,), day(index), settings=settings, promoted={"tiny": promoted})

    alone = [run(index, world.settings) for index in (1, 2)]
    shared = {"storage_uri": bucket, "lake_uri": world.settings.lake}
    here, there = (world.settings.model_copy(update={"home": tmp_path / name} | shared) for name in ("here", "there"))
    first = run(1, here)
    assert Checkpoints(there, CTR.name).before(day(2)) == replace(
        first, path=Checkpoints(there, CTR.name).folder / first.path.name
    )
    second = run(2, there)
    assert second.fingerprint == alone[1].fingerprint
    expected = Checkpoints(world.settings, CTR.name).load(alone[1])
    found = Checkpoints(there, CTR.name).load(second)
    assert expected.keys() == found.keys()
    assert [name for name, value in expected.items() if not torch.equal(value, found[name])] == []
    assert run(1, there).seconds == first.seconds, "it is not learnt again"
    assert [one.ds for one in Checkpoints(here, CTR.name).days()] == [day(1), day(2)]

    archive = Archive.of(there)
    assert archive is not None
    pieces = archive.pieces(second.path)
    largest = max((piece for of_file in pieces.values() for piece in of_file.values()), key=lambda one: one.num_bytes)
    archive.objects.put(largest.key, b"0" * largest.num_bytes)
    shutil.rmtree(second.path)
    with pytest.raises(DamagedCheckpointError, match=r"s3://.*: state.safetensors .*has SHA-256"):
        Checkpoints(there, CTR.name).load(second)
    archive.objects.put(archive.manifest_key(second.path), b"no manifest")
    assert [one.ds for one in Checkpoints(there, CTR.name).days()] == [day(1)], "the others are read"
    with pytest.raises(DamagedCheckpointError, match="is no manifest"):
        Checkpoints(there, CTR.name).before(day(3))
    assert Checkpoints(there, CTR.name).before(day(2)) is not None
