"""One machine per day: a lease is taken once, lost when it is not renewed, and tells who has it."""

from __future__ import annotations

import os
import re
import shutil
import socket
import time
from pathlib import Path

import pytest

from tests.trainer.archive.world import archive_of
from trainer.archive.lease import leased
from trainer.locks import KeptError, LockedError

DAY = "checkpoints/tiny/ds=2026-01-01"


def test_another_machine_is_told_who_and_since_when(tmp_path: Path) -> None:
    here, there = (archive_of(tmp_path / name, tmp_path / "bucket") for name in ("here", "there"))
    with leased(here, here.home / DAY, token="first") as lease:  # noqa: S106
        assert lease is not None
        lease.check()
        who = rf"held by pid {os.getpid()} on {re.escape(socket.gethostname())} since \d{{4}}-.* \(renewed 0 s ago\)"
        with pytest.raises(LockedError, match=who), leased(there, there.home / DAY, token="second"):  # noqa: S106
            pass
        with leased(there, there.home / "checkpoints/tiny/ds=2026-01-02", token="third"):  # noqa: S106
            pass
    with leased(there, there.home / DAY, token="fourth"):  # noqa: S106  given back: no wait
        pass


def test_who_is_gone_is_succeeded_and_commits_nothing(tmp_path: Path) -> None:
    """A holder of the same home at once, for the lock of the home is free; one of another when its lease is over."""
    here, there = (archive_of(tmp_path / name, tmp_path / "bucket") for name in ("here", "there"))
    gone = leased(here, here.home / DAY, token="gone", expiry_seconds=1e6)  # noqa: S106
    first = gone.__enter__()
    again = leased(here, here.home / DAY, token="again", expiry_seconds=1e6)  # noqa: S106
    second = again.__enter__()
    assert first is not None
    assert second is not None
    with pytest.raises(LockedError, match=r"was taken by pid .*nothing is archived"):
        first.check()
    second.check()
    with pytest.raises(LockedError), leased(there, there.home / DAY, token="early", expiry_seconds=1e6):  # noqa: S106
        pass
    time.sleep(0.3)
    with leased(there, there.home / DAY, token="late", expiry_seconds=0.2) as third:  # noqa: S106
        assert third is not None
        third.check()
        with pytest.raises(LockedError, match=r"was taken by pid"):
            second.check()


def test_a_copy_of_a_home_is_another_home(tmp_path: Path) -> None:
    """Of a machine that was set up from another one's folder: its lock says nothing of who holds the original's."""
    here = archive_of(tmp_path / "here", tmp_path / "bucket")
    with leased(here, here.home / DAY, token="first"):  # noqa: S106
        shutil.copytree(here.home, tmp_path / "copy")
        copy = archive_of(tmp_path / "copy", tmp_path / "bucket")
        with pytest.raises(LockedError), leased(copy, copy.home / DAY, token="second"):  # noqa: S106
            pass


def test_a_lease_that_is_renewed_is_kept(tmp_path: Path) -> None:
    here, there = (archive_of(tmp_path / name, tmp_path / "bucket") for name in ("here", "there"))
    with leased(here, here.home / DAY, token="first", expiry_seconds=2):  # noqa: S106
        time.sleep(2.5)
        with pytest.raises(LockedError), leased(there, there.home / DAY, token="second", expiry_seconds=2):  # noqa: S106
            pass


def test_an_error_that_nobody_expected_ends_no_renewal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    here, there = (archive_of(tmp_path / name, tmp_path / "bucket") for name in ("here", "there"))
    with leased(here, here.home / DAY, token="first", expiry_seconds=1):  # noqa: S106
        with monkeypatch.context() as broken:
            broken.delattr(here.objects, "_store")
            time.sleep(0.4)
        time.sleep(0.8)
        with pytest.raises(LockedError), leased(there, there.home / DAY, token="second", expiry_seconds=1):  # noqa: S106
            pass


def test_what_runs_on_keeps_it_from_other_machines_until_it_is_over(tmp_path: Path) -> None:
    here, there = (archive_of(tmp_path / name, tmp_path / "bucket") for name in ("here", "there"))
    with pytest.raises(KeptError), leased(here, here.home / DAY, token="job"):  # noqa: S106
        raise KeptError("the job runs on")
    with pytest.raises(LockedError), leased(there, there.home / DAY, token="other"):  # noqa: S106
        pass
    with leased(here, here.home / DAY, token="job"):  # noqa: S106  the next attempt, which joins it
        pass


def test_without_an_archive_nothing_is_held(tmp_path: Path) -> None:
    with leased(None, tmp_path, token="t") as lease:  # noqa: S106
        assert lease is None
