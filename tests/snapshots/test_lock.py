"""One writer of a model at a time, among machines that share nothing but object storage."""

from __future__ import annotations

import json
import logging
import time
from pathlib import Path
from threading import Thread

import pytest

from infra.settings import Settings
from snapshots.lock import model_lock
from snapshots.publish import publish_tower
from snapshots.registry import Registry
from tests.snapshots.world import DAYS, make_tower, trained_day
from trainer.archive.archive import Archive
from trainer.locks import LockedError
from trainer.model.user_tower import UserTower
from trainer.recipe import Recipe


def test_another_machine_waits_for_its_turn(bucket: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    here, there = (Settings(home=tmp_path / name, storage_uri=bucket, _env_file=None) for name in ("here", "there"))
    turns = []

    def take_a_turn() -> None:
        with model_lock(there, "tiny"):
            turns.append("there")

    thread = Thread(target=take_a_turn)
    with model_lock(here, "tiny") as check:
        thread.start()
        while "waits: " not in caplog.text and thread.is_alive():
            time.sleep(0.02)
        check()
        turns.append("here")
        with model_lock(there, "other"):
            pass
    thread.join()
    assert turns == ["here", "there"]
    assert "/leases/snapshots/tiny is held by pid" in caplog.text


def test_who_lost_its_turn_publishes_nothing(recipe: Recipe, settings: Settings, bucket: str) -> None:
    """A process that was stopped for longer than its lease, while another machine went on."""
    shared = settings.model_copy(update={"storage_uri": bucket, "lake_uri": settings.lake})
    archive = Archive.of(shared)
    assert archive is not None

    def stopped() -> UserTower:
        held = archive.objects.get("leases/snapshots/tiny/000000001")
        assert held is not None
        of_another = json.loads(bytes(held)) | {"token": "another"}
        archive.objects.put("leases/snapshots/tiny/000000002", json.dumps(of_another).encode())
        return make_tower(recipe)

    with pytest.raises(LockedError, match="was taken by pid"):
        publish_tower(recipe, trained_day(DAYS[0], settings=shared), stopped, settings=shared)
    assert archive.names(shared.artifacts / "tiny") == []
    assert Registry(shared).find("tiny", DAYS[0]) is None
