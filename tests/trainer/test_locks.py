"""Who may take a lease, and who may still publish."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from infra.settings import REPOSITORY
from trainer.locks import KeptError, LockedError, check_token, exclusive, keep_renewed, release

# ruff: noqa: S106


def change(lease: Path, **values: object) -> None:
    lease.write_text(json.dumps({**json.loads(lease.read_text()), **values}))


def age(lease: Path, seconds: float) -> None:
    then = time.time() - seconds
    os.utime(lease, (then, then))


@pytest.mark.parametrize(
    ("happened", "is_free"),
    [
        pytest.param(lambda lease: change(lease, released=True), True, id="released"),
        pytest.param(lambda lease: None, True, id="its process of this machine died"),
        pytest.param(lambda lease: change(lease, kernel="other", host="far"), False, id="held on another machine"),
        pytest.param(
            lambda lease: (change(lease, kernel="other"), age(lease, 200)), True, id="not renewed on another machine"
        ),
        pytest.param(lambda lease: lease.write_text(""), False, id="unreadable"),
        pytest.param(lambda lease: (lease.write_text(""), age(lease, 200)), True, id="unreadable and old"),
        pytest.param(lambda lease: lease.unlink(), True, id="none"),
    ],
)
def test_who_may_take_it(tmp_path: Path, happened: Callable[[Path], object], is_free: bool) -> None:
    lock = tmp_path / "day.lock"
    with exclusive(lock, token="first"):
        pass
    lease = tmp_path / "day.lock.1"
    change(lease, released=False)
    happened(lease)
    if not is_free:
        with pytest.raises(LockedError, match="is held by pid"), exclusive(lock, token="second"):
            pass
        return
    with exclusive(lock, token="second"):
        check_token(lock, token="second")
        with pytest.raises(LockedError, match="taken by another attempt"):
            check_token(lock, token="first")


def test_who_has_the_token_succeeds_its_owner_at_once_also_from_another_machine(tmp_path: Path) -> None:
    lock = tmp_path / "day.lock"
    with pytest.raises(KeptError), exclusive(lock, token="job"):
        raise KeptError("it runs on")
    change(tmp_path / "day.lock.1", kernel="other", host="far")
    with pytest.raises(LockedError, match="on far"), exclusive(lock, token="another"):
        pass
    with exclusive(lock, token="job"), pytest.raises(LockedError), exclusive(lock, token="job"):
        pass


def test_a_job_keeps_its_lock_until_it_is_taken_from_it(tmp_path: Path) -> None:
    lock = tmp_path / "day.lock"
    with pytest.raises(KeptError), exclusive(lock, token="job", expiry_seconds=0.6):
        raise KeptError("it runs on")
    keep_renewed(lock, token="job", expiry_seconds=0.6)
    time.sleep(1.2)
    check_token(lock, token="job", expiry_seconds=0.6)
    release(lock, token="another")
    check_token(lock, token="job", expiry_seconds=0.6)
    release(lock, token="job")
    with pytest.raises(LockedError, match="does not run"):
        keep_renewed(lock, token="job")


def test_an_owner_that_nobody_renews_does_not_publish(tmp_path: Path) -> None:
    lock = tmp_path / "day.lock"
    with exclusive(lock, token="first"):
        age(tmp_path / "day.lock.1", 200)
        with pytest.raises(LockedError, match="was not renewed"):
            check_token(lock, token="first")
    with pytest.raises(LockedError, match="was released"):
        check_token(lock, token="first")


def test_it_is_renewed_while_it_is_held(tmp_path: Path) -> None:
    lock = tmp_path / "day.lock"
    with exclusive(lock, token="first", expiry_seconds=0.6):
        time.sleep(1.2)
        check_token(lock, token="first", expiry_seconds=0.6)


TAKE = """
import sys, time
from pathlib import Path
from trainer.locks import LockedError, exclusive
while time.time() < float(sys.argv[2]):
    pass
try:
    with exclusive(Path(sys.argv[1]), token=sys.argv[3]):
        print("took")
        time.sleep(3)
except LockedError:
    print("refused")
"""


def test_of_many_that_take_an_expired_one_at_once_one_has_it(tmp_path: Path) -> None:
    lock = tmp_path / "day.lock"
    with exclusive(lock, token="first"):
        age(tmp_path / "day.lock.1", 200)
        at = str(time.time() + 1.5)
        takers = [
            subprocess.Popen(
                [sys.executable, "-c", TAKE, str(lock), at, str(taker)],
                cwd=REPOSITORY,
                stdout=subprocess.PIPE,
                text=True,
            )
            for taker in range(6)
        ]
        said = sorted(taker.communicate()[0].strip() for taker in takers)
    assert said == ["refused"] * 5 + ["took"]
