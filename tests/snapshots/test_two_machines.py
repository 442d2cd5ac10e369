"""The whole day in object storage, by machines that take turns and share no folder: as on one machine, to the bit."""

from __future__ import annotations

from pathlib import Path

import pytest

from features.lake import Lake
from infra.settings import Settings
from serving.load import load
from serving.store import Store
from snapshots.registry import Registry
from tests.object_store import ObjectServer
from tests.serving.servers import redis_server
from tests.snapshots.trained import SMALL_DAYS, run_day
from trainer.recipe import Recipe


@pytest.mark.slow
def test_the_second_day_on_another_machine(
    small_days: tuple[Recipe, Settings],
    settings: Settings,
    bucket: str,
    object_storage: ObjectServer,
    tmp_path: Path,
) -> None:
    recipe, alone = small_days
    shared = settings.model_copy(update={"storage_uri": bucket, "ranks": 1})
    for ds in SMALL_DAYS[:2]:
        machine = shared.model_copy(update={"home": tmp_path / f"machine-of-{ds}"})
        run_day(recipe, ds, machine)
        if ds == SMALL_DAYS[0]:
            machine.home.rename(tmp_path / "lost")
    apart, together = Registry(machine), Registry(alone)
    for ds in SMALL_DAYS[:2]:
        found, expected = apart.get(recipe.name, ds), together.get(recipe.name, ds)
        assert found.fingerprint == expected.fingerprint
        assert found.decision == expected.decision == "promoted"
        assert found.visible is not None
        assert expected.visible is not None
        there, here = Lake(machine.lake).read(found.visible), Lake(alone.lake).read(expected.visible)
        columns = [name for name in here.column_names if name.startswith(("user_id", "embedding", "pooled"))]
        assert there.sort_by("user_id").select(columns).equals(here.sort_by("user_id").select(columns))
    assert apart.alias(recipe.name, "champion") == apart.get(recipe.name, SMALL_DAYS[1])
    with redis_server(tmp_path) as server, server.client() as client:
        loaded = load(recipe, None, store=Store(client), settings=machine)
    assert [day.ds for day in loaded.days] == [SMALL_DAYS[1], SMALL_DAYS[0]]
    secret = object_storage.environment["AWS_SECRET_ACCESS_KEY"].encode()
    told = [path for path in tmp_path.rglob("*") if path.is_file() and secret in path.read_bytes()]
    assert told == [], "no file holds the key: assignments, logs, caches, the registry"
