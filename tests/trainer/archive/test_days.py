"""Trained days in object storage: machines without a common folder go on from each other's."""

from __future__ import annotations

import logging
import shutil
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path

import pytest
import torch

from features.storage_errors import StorageError
from infra.settings import Settings
from tests.object_store import Fault, ObjectServer
from tests.trainer.archive.world import sealed
from tests.trainer.launch import slurm_here
from tests.trainer.planted import DAY, planted_recipe
from tests.trainer.test_checkpoint import tensors
from trainer import waypoints
from trainer.archive.archive import Archive
from trainer.archive.following import following, forget, recall
from trainer.archive.keep import NotArchivedError
from trainer.archive.lease import leased
from trainer.job import train
from trainer.launch.record import JobRecord, read_record, write_record
from trainer.launch.remote import LeftRunningError
from trainer.locks import LockedError, check_token
from trainer.retention import prune
from trainer.trained import TrainedDay, checkpoint_path, find_trained, newest_before, on_disk, revisions

SECOND = DAY + timedelta(1)


@pytest.fixture
def shared(home: Settings, bucket: str) -> Settings:
    """Of an installation whose home is yet to be named; the lake stays where it is."""
    return home.model_copy(update={"storage_uri": bucket, "lake_uri": home.lake})


def machine(shared: Settings, home: Path, *days: TrainedDay) -> Settings:
    """A machine that has trained `days`."""
    settings = shared.model_copy(update={"home": home})
    for day in days:
        shutil.copytree(day.path, settings.checkpoints / "tiny" / day.path.name)
    return settings


def test_another_machine_goes_on_from_the_store_alone(
    shared: Settings, pair: tuple[TrainedDay, TrainedDay], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    first = machine(shared, tmp_path / "first", pair[0])
    assert train(planted_recipe(), DAY, settings=first).fingerprint == pair[0].fingerprint
    second = machine(shared, tmp_path / "second")
    found = newest_before(second, "tiny", SECOND)
    assert found is not None
    assert not found.path.exists(), "to be found costs a document"
    trained = train(planted_recipe(), SECOND, settings=second)
    assert trained.fingerprint == pair[1].fingerprint
    whole = tensors(pair[1].path, tmp_path / "whole.pt")
    apart = tensors(trained.path, tmp_path / "apart.pt")
    assert [name for name in whole if not torch.equal(whole[name], apart[name])] == []
    caplog.set_level("INFO")
    third = machine(shared, tmp_path / "third")
    again = train(planted_recipe(), SECOND, settings=third)
    assert "unchanged model=tiny ds=2026-01-02" in caplog.text
    assert (again.seconds, again.path.parent) == (trained.seconds, third.checkpoints.absolute() / "tiny")
    assert [day.ds for day in revisions(first, "tiny")] == [DAY, SECOND]


def test_a_day_is_one_machine_s_at_a_time(
    shared: Settings, pair: tuple[TrainedDay, TrainedDay], tmp_path: Path
) -> None:
    here, there = machine(shared, tmp_path / "here"), machine(shared, tmp_path / "there", pair[0])
    with (
        leased(Archive.of(here), here.checkpoints / "tiny" / f"ds={DAY}", token="first"),  # noqa: S106
        pytest.raises(LockedError, match=r"s3://.*/leases/checkpoints/tiny/ds=2026-01-01 is held by pid \d+ on "),
    ):
        train(planted_recipe(), DAY, settings=there)


def job_left_by(machine: Settings, fingerprint: str, cluster: Path) -> tuple[Path, JobRecord]:
    """The day's folder, and the job of an attempt that was killed: it ends when there is a file `end`."""
    destination = checkpoint_path(machine, "tiny", DAY, fingerprint)
    waypoints.folder(destination).mkdir(parents=True)
    script = f"while [ ! -e {cluster}/end ]; do sleep 0.05; done"
    left = JobRecord(
        model="tiny",
        ds=str(DAY),
        fingerprint=fingerprint,
        scheduler="slurm",
        token="of-the-job",  # noqa: S106
        directory=str(cluster),
        submitted=0,
        job=slurm_here.submit(script, cluster, token="of-the-job"),  # noqa: S106
    )
    write_record(left, waypoints.folder(destination))
    return destination, left


def test_a_job_that_is_joined_has_the_day_among_machines_and_its_waypoints_follow(
    shared: Settings, pair: tuple[TrainedDay, TrainedDay], cluster: Path
) -> None:
    here, there = machine(shared, cluster / "here"), machine(shared, cluster / "there")
    destination, _ = job_left_by(here, pair[0].fingerprint, cluster)
    folder, archive = waypoints.folder(destination), Archive.of(here)
    assert archive is not None
    sealed(here.home, f"checkpoints/tiny/{folder.name}/step=000000010")
    with ThreadPoolExecutor() as pool:
        joined = pool.submit(train, planted_recipe(), DAY, settings=here)
        try:
            _until(lambda: archive.names(folder) == ["step=000000010"])
            with pytest.raises(LockedError, match=r"leases/checkpoints/tiny/ds=2026-01-01 is held by pid \d+ on "):
                train(planted_recipe(), DAY, settings=there)
            shutil.copytree(pair[0].path, destination)
        finally:
            (cluster / "end").touch()
        assert joined.result().path == destination
    assert (archive.names(destination.parent), archive.names(folder)) == ([destination.name], [])
    assert train(planted_recipe(), DAY, settings=there).fingerprint == pair[0].fingerprint


def test_a_job_that_may_run_on_keeps_its_day_where_another_machine_has_the_lease(
    shared: Settings, pair: tuple[TrainedDay, TrainedDay], cluster: Path
) -> None:
    here, there = machine(shared, cluster / "here"), machine(shared, cluster / "there")
    destination, left = job_left_by(here, pair[0].fingerprint, cluster)
    with (
        leased(Archive.of(there), there.checkpoints / "tiny" / f"ds={DAY}", token="other"),  # noqa: S106
        pytest.raises(LeftRunningError, match=r"slurm job 1 may run on, and is not waited for: .* is held by pid"),
    ):
        train(planted_recipe(), DAY, settings=here)
    check_token(here.checkpoints / "tiny" / f"ds={DAY}.lock", token=left.token)
    assert read_record(waypoints.folder(destination)) == left


def test_a_day_that_cannot_be_archived_is_kept_and_archived_by_the_next_try(
    shared: Settings,
    object_storage: ObjectServer,
    pair: tuple[TrainedDay, TrainedDay],
    tmp_path: Path,
) -> None:
    here = machine(shared, tmp_path / "here", pair[0])
    try:
        of_days = "(?<!leases/)checkpoints/"
        object_storage.fail(Fault(method="PUT", path=of_days, times=1000, status=403, code="AccessDenied"))
        with pytest.raises(NotArchivedError, match=r"is whole and stays, but it is not archived .*Run the same step"):
            train(planted_recipe(), DAY, settings=here)
    finally:
        object_storage.fail()
    elsewhere = machine(shared, tmp_path / "there")
    assert find_trained(elsewhere, "tiny", DAY) is None
    train(planted_recipe(), DAY, settings=here)
    assert find_trained(elsewhere, "tiny", DAY) is not None


def test_a_wrong_key_is_named(
    shared: Settings, object_storage: ObjectServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    object_storage.use(monkeypatch, AWS_SECRET_ACCESS_KEY="of-somebody-else")  # noqa: S106
    with pytest.raises(StorageError, match="does not know the keys") as found:
        train(planted_recipe(), DAY, settings=machine(shared, tmp_path))
    assert "of-somebody-else" not in str(found.value)


def test_waypoints_follow_and_another_machine_goes_on_from_the_newest_whole_one(
    shared: Settings, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    here, there = machine(shared, tmp_path / "here"), machine(shared, tmp_path / "there")
    day = Path("checkpoints/tiny/ds=2026-01-01-00000000")
    archive, other = Archive.of(here), Archive.of(there)
    assert archive is not None
    assert other is not None
    folder = waypoints.folder(day)
    sealed(here.home, f"{folder}/ids", files={"ids/user.parquet": 10})
    with following(archive, here.home / day):
        for step in (10, 20, 30):
            sealed(here.home, f"{folder}/step={step:09}", seed=step)
            _until(lambda name=f"step={step:09}": archive.names(here.home / folder)[-1:] == [name])
    assert archive.names(here.home / folder) == ["ids", "step=000000020", "step=000000030"], "older ones go"
    damaged = archive.pieces(here.home / folder / "step=000000030")
    archive.objects.put(next(iter(damaged.values()))[0].key, b"another")
    (there.home / folder).mkdir(parents=True)
    recall(other, there.home / day)
    assert [path.name for path in waypoints.sealed(there.home / day)] == ["step=000000020"]
    assert (there.home / folder / "ids" / "manifest.json").is_file()
    assert "skipped an archived waypoint" in caplog.text
    forget(other, there.home / day)
    assert archive.names(here.home / folder) == []


def test_waypoints_that_cannot_be_archived_stop_nothing(
    shared: Settings,
    object_storage: ObjectServer,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    here = machine(shared, tmp_path)
    day = Path("checkpoints/tiny/ds=2026-01-01-00000000")
    sealed(here.home, f"{waypoints.folder(day)}/step=000000010")
    try:
        object_storage.fail(Fault(path="checkpoints/", times=1000, status=403, code="AccessDenied"))
        with following(Archive.of(here), here.home / day):
            _until(lambda: "is not archived" in caplog.text)
    finally:
        object_storage.fail()
    assert [thread for thread in threading.enumerate() if thread.name == "archive"] == []


def test_retention_prunes_there_what_it_prunes_here(
    shared: Settings, pair: tuple[TrainedDay, TrainedDay], tmp_path: Path
) -> None:
    here = machine(shared, tmp_path / "here", *pair)
    for ds in (DAY, SECOND):
        train(planted_recipe(), ds, settings=here)
    there = machine(shared, tmp_path / "there")
    assert [path.name for path in prune(there, "tiny", keep_days=1, dry_run=True)] == [pair[0].path.name]
    assert [day.ds for day in revisions(there, "tiny")] == [DAY, SECOND]
    prune(there, "tiny", keep_days=1)
    assert [day.ds for day in revisions(there, "tiny")] == [SECOND]
    assert on_disk(there, revisions(there, "tiny")[0]).path.is_dir(), "what stays is whole"


def _until(holds: object, *, seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    while not holds():  # type: ignore[operator]
        assert time.monotonic() < deadline
        time.sleep(0.05)
