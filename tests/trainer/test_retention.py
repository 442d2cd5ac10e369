"""Old checkpoints go, what a kept one adds to stays."""

from __future__ import annotations

from datetime import date, timedelta
from pathlib import Path

import pytest

from features.lake import Partition
from infra.settings import Settings
from trainer import waypoints
from trainer.checkpoint import Base, is_complete, seal
from trainer.launch.record import JobRecord, remove_record, write_record
from trainer.launch.remote import LeftRunningError
from trainer.locks import check_token, exclusive
from trainer.retention import prune, removable
from trainer.trained import DOCUMENT, TrainedDay, checkpoint_path, revisions, to_json

START = date(2026, 1, 1)


def sealed(settings: Settings, day: int, *, base: TrainedDay | None = None, revision: int = 0) -> TrainedDay:
    ds = START + timedelta(day)
    path = checkpoint_path(settings, "tiny", ds, f"{day:04}{revision:04}")
    trained = TrainedDay(
        model="tiny",
        ds=ds,
        fingerprint=path.name,
        parent_fingerprint=None,
        parent_ds=None,
        examples=Partition(table="examples/tiny", ds=ds, fingerprint="0", version=0),
        num_examples=1,
        metrics={},
        seconds=1,
        ranks=1,
        revision=revision,
        path=path,
    )
    partial = path.with_name(f".partial-{path.name}")
    partial.mkdir(parents=True)
    base_of = None if base is None else Base.of(base.path)
    seal(partial, path, documents={DOCUMENT: to_json(trained)}, base=base_of)
    return trained


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """Days 0 to 2 on a full day 0, days 3 to 5 on a full day 3, which was trained twice."""
    settings = Settings(home=tmp_path, _env_file=None)
    first = sealed(settings, 0)
    sealed(settings, 1, base=first)
    sealed(settings, 2, base=first)
    second = sealed(settings, 3, revision=0)
    sealed(settings, 3, revision=1)
    sealed(settings, 4, base=second)
    sealed(settings, 5, base=second)
    return settings


@pytest.mark.parametrize(
    ("keep_days", "left"),
    [
        pytest.param(1, ["3r0", "5r0"], id="the-newest-and-its-base"),
        pytest.param(2, ["3r0", "4r0", "5r0"], id="two-of-one-base"),
        pytest.param(3, ["3r0", "3r1", "4r0", "5r0"], id="every-revision-of-a-kept-day"),
        pytest.param(4, ["0r0", "2r0", "3r0", "3r1", "4r0", "5r0"], id="bases-of-both"),
        pytest.param(9, ["0r0", "1r0", "2r0", "3r0", "3r1", "4r0", "5r0"], id="all"),
    ],
)
def test_what_is_left(settings: Settings, keep_days: int, left: list[str]) -> None:
    prune(settings, "tiny", keep_days=keep_days)
    found = revisions(settings, "tiny")
    assert [f"{(day.ds - START).days}r{day.revision}" for day in found] == left
    assert all(is_complete(day.path) for day in found)
    assert list((settings.checkpoints / "tiny").glob(".partial-*")) == []
    assert prune(settings, "tiny", keep_days=keep_days) == []


def test_a_base_goes_last(settings: Settings) -> None:
    gone = [day.path.name for day in removable(revisions(settings, "tiny"), keep_days=1)]
    assert gone == [
        "ds=2026-01-02-00010000",
        "ds=2026-01-03-00020000",
        "ds=2026-01-05-00040000",
        "ds=2026-01-01-00000000",
        "ds=2026-01-04-00030001",
    ]


def test_the_newest_day_always_stays(settings: Settings) -> None:
    with pytest.raises(ValueError, match="keep_days is 0"):
        prune(settings, "tiny", keep_days=0)


def left_by(folder: Path, day: TrainedDay) -> JobRecord:
    """The job of an attempt at the day from other inputs, which ended before it."""
    record = JobRecord(
        model="tiny",
        ds=str(day.ds),
        fingerprint="other000",
        scheduler="slurm",
        token="of-the-job",  # noqa: S106
        directory=str(folder),
        submitted=0,
        job="1",
    )
    folder.mkdir(parents=True)
    write_record(record, folder)
    return record


def test_a_day_whose_job_may_run_on_stays_and_its_lock_too(settings: Settings) -> None:
    """On the machine of who submitted it, whose lock nobody has any more."""
    again = revisions(settings, "tiny")[1]
    folder = waypoints.folder(again.path.with_name(f"ds={again.ds}-other000"))
    lock, left = again.path.with_name(f"ds={again.ds}.lock"), left_by(folder, again)
    with pytest.raises(LeftRunningError), exclusive(lock, token=left.token):
        raise LeftRunningError
    prune(settings, "tiny", keep_days=3)
    assert [(day.ds - START).days for day in revisions(settings, "tiny")] == [0, 1, 3, 3, 4, 5], "and what it adds to"
    check_token(lock, token=left.token)
    remove_record(folder)
    prune(settings, "tiny", keep_days=3)
    assert [(day.ds - START).days for day in revisions(settings, "tiny")] == [3, 3, 4, 5]
