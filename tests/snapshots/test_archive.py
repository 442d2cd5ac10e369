"""Published versions mean the same on every machine: a URI of the archive and the digest of the seal."""

from __future__ import annotations

import shutil
from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest

from features.lake import Lake
from infra.settings import Settings
from snapshots.embedder import embedder_of
from snapshots.folder import on_disk
from snapshots.registry import Registry, Version
from snapshots.retention import prune
from snapshots.seal import DamagedError, verify
from tests.object_store import Fault, ObjectServer
from tests.snapshots.world import DAYS, commit_users, make_tower, newest, publish_day
from trainer.archive.archive import Archive
from trainer.archive.keep import NotArchivedError
from trainer.recipe import Recipe


@pytest.fixture
def shared(settings: Settings, bucket: str) -> Settings:
    """The home of the machine that publishes; the lake stays in it."""
    return settings.model_copy(update={"storage_uri": bucket, "lake_uri": settings.lake})


def elsewhere(shared: Settings, tmp_path: Path) -> Settings:
    """Another machine of the same registry, lake and archive."""
    return shared.model_copy(update={"home": tmp_path / "elsewhere"})


def archive_of(settings: Settings) -> Archive:
    archive = Archive.of(settings)
    assert archive is not None
    return archive


def vectors(version: Version, lake: Lake) -> np.ndarray:
    """Of some users, by the version."""
    rows = lake.read(lake.get("user_features/tiny", DAYS[0])).to_batches()[0]
    return embedder_of(version).embed(rows)


def test_another_machine_embeds_by_the_reference_alone(recipe: Recipe, shared: Settings, tmp_path: Path) -> None:
    lake = Lake(shared.lake)
    commit_users(lake, DAYS[0], range(20))
    made = publish_day(recipe, DAYS[0], make_tower(recipe), settings=shared)
    assert made.tags["path"] == f"{shared.storage_uri}/snapshots/tiny/{made.path.name}"
    found = newest(elsewhere(shared, tmp_path), DAYS[0])
    assert found.path == tmp_path / "elsewhere" / "snapshots" / "tiny" / made.path.name
    assert not found.path.exists()
    np.testing.assert_array_equal(vectors(found, lake), vectors(made, lake))
    assert verify(found.path, manifest_sha256=made.tags["manifest_sha256"])
    assert not (found.path / "contract.json").stat().st_mode & 0o222, "nobody writes there by mistake here either"


def test_a_version_from_before_there_was_an_archive_is_where_it_was(
    recipe: Recipe, settings: Settings, shared: Settings, lake: Lake
) -> None:
    commit_users(lake, DAYS[0], range(20))
    made = publish_day(recipe, DAYS[0], make_tower(recipe), settings=settings)
    found = newest(shared, DAYS[0])
    assert found.path == Path(made.tags["path"]) == made.path
    np.testing.assert_array_equal(vectors(found, lake), vectors(made, lake))


def test_what_the_archive_damaged_is_refused_by_name(recipe: Recipe, shared: Settings, tmp_path: Path) -> None:
    made = publish_day(recipe, DAYS[0], make_tower(recipe), settings=shared)
    archive, away = archive_of(shared), newest(elsewhere(shared, tmp_path), DAYS[0])
    manifest = archive.manifest(made.path)
    assert manifest is not None
    weights = next(file for file in manifest.files if file.name == "user_tower.safetensors")
    archive.objects.put(archive.pieces(made.path)[weights.sha256][0].key, b"0" * weights.num_bytes)
    with pytest.raises(DamagedError, match=r"s3://.*: user_tower.safetensors .*has SHA-256"):
        on_disk(away)
    assert not away.path.exists()
    verify(on_disk(made))  # who has it serves on


def test_a_version_is_registered_when_it_is_archived(
    recipe: Recipe, shared: Settings, object_storage: ObjectServer
) -> None:
    try:
        object_storage.fail(Fault(method="PUT", path="manifest.json", times=1000, status=403, code="AccessDenied"))
        with pytest.raises(NotArchivedError, match=r"snapshots/tiny/ds=.* is whole and stays"):
            publish_day(recipe, DAYS[0], make_tower(recipe), settings=shared)
    finally:
        object_storage.fail()
    assert Registry(shared).find("tiny", DAYS[0]) is None
    made = publish_day(recipe, DAYS[0], make_tower(recipe, seed=1), settings=shared)
    assert archive_of(shared).names(made.path.parent) == [made.path.name]


def test_of_two_machines_that_publish_the_first_one_s_counts(recipe: Recipe, shared: Settings, tmp_path: Path) -> None:
    first = publish_day(recipe, DAYS[0], make_tower(recipe), settings=shared)
    second = publish_day(recipe, DAYS[0], make_tower(recipe, seed=1), settings=elsewhere(shared, tmp_path))
    assert (second.number, second.tags) == (first.number, first.tags)
    assert second.path != first.path
    verify(second.path, manifest_sha256=first.tags["manifest_sha256"])


def test_retention_leaves_what_serves_and_removes_the_rest(recipe: Recipe, shared: Settings) -> None:
    days, registry = [DAYS[0], DAYS[1], DAYS[0] + timedelta(days=40)], Registry(shared)
    made = [publish_day(recipe, ds, make_tower(recipe), settings=shared) for ds in days]
    for version in made[:2]:
        registry.decide(version, "rejected", by="alice", note="")
    registry.set_alias("tiny", "previous", made[1].number)
    archive, folder = archive_of(shared), made[0].path.parent
    prune(recipe, settings=shared, keep_days=14, dry_run=True)
    assert len(archive.names(folder)) == 3
    assert prune(recipe, settings=shared, keep_days=14).removed == (made[0].number,)
    assert archive.names(folder) == [version.path.name for version in made[1:]]
    made[1].path.chmod(0o755)
    shutil.rmtree(made[1].path)
    verify(on_disk(made[1]), manifest_sha256=made[1].tags["manifest_sha256"])
