from __future__ import annotations

import os
import shutil
from multiprocessing.synchronize import Barrier
from pathlib import Path

import pytest

from features.file_cache import FileCache
from tests.forked import FORK_SERVER


def fill(folder: Path, names: list[str], *, most_bytes: int, barrier: Barrier | None = None) -> None:
    """Fetch files of 100 bytes, one folder each, then make room."""
    cache = FileCache(folder, most_bytes=most_bytes)
    for name in names:
        target = cache.path("s3://bucket/table", f"ds={name}/a.parquet", "tag")
        cache.fetch(target, lambda descriptor: os.write(descriptor, b"x" * 100))
    if barrier is not None:
        barrier.wait(60)  # for the other to look around
        barrier.wait(60)
    cache.make_room()


def present(folder: Path) -> list[str]:
    return sorted(path.parent.name.removeprefix("ds=") for path in folder.rglob("*.parquet"))


def test_what_is_in_use_stays_and_the_oldest_goes(tmp_path: Path) -> None:
    barrier = FORK_SERVER.Barrier(2)
    for names in (["old"], ["newer"]):  # processes that have ended
        worker = FORK_SERVER.Process(target=fill, args=(tmp_path, names), kwargs={"most_bytes": 1000})
        worker.start()
        worker.join(60)
    using = FORK_SERVER.Process(target=fill, args=(tmp_path, ["old"]), kwargs={"most_bytes": 1000, "barrier": barrier})
    using.start()
    barrier.wait(60)
    os.utime(next(tmp_path.rglob("ds=old")), (0, 0))
    FileCache(tmp_path, most_bytes=150).make_room()
    assert present(tmp_path) == ["old"], "the older one is in use"
    FileCache(tmp_path, most_bytes=50).make_room()
    assert present(tmp_path) == ["old"]
    barrier.wait(60)
    using.join(60)
    FileCache(tmp_path, most_bytes=50).make_room()
    assert present(tmp_path) == []


def test_a_fetch_that_was_killed_is_done_again_and_drafts_of_the_dead_go(tmp_path: Path) -> None:
    cache = FileCache(tmp_path, most_bytes=1000)
    target = cache.path("s3://bucket/table", "ds=day/a.parquet", "tag")
    target.parent.mkdir(parents=True)
    target.with_name(f"{target.name}.partial").write_bytes(b"a longer half of it")
    assert cache.fetch(target, lambda descriptor: os.write(descriptor, b"whole"))
    assert not cache.fetch(target, lambda descriptor: os.write(descriptor, b"again"))
    assert target.read_bytes() == b"whole"
    shutil.rmtree(tmp_path)
    assert cache.fetch(target, lambda descriptor: os.write(descriptor, b"whole")), "the cache may be emptied by hand"
    assert target != cache.path("s3://bucket/table", "ds=day/a.parquet", "another tag")
    dead = tmp_path / "drafts" / "0"
    dead.mkdir(parents=True)
    (dead / "left").write_bytes(b"")
    mine = cache.draft()
    mine.write_bytes(b"")
    cache.make_room()
    assert mine.exists()
    assert not dead.exists()


def test_room_is_made_while_others_fetch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that was there a moment ago has another name, or is gone, when its size is asked for."""
    cache = FileCache(tmp_path, most_bytes=1000)
    partial = tmp_path / "of" / "ds=day" / "a.parquet.partial"
    partial.parent.mkdir(parents=True)
    partial.touch()
    listed = Path.glob

    def glob(folder: Path, pattern: str) -> list[Path]:
        found = list(listed(folder, pattern))
        partial.unlink(missing_ok=True)
        return found

    monkeypatch.setattr(Path, "glob", glob)
    monkeypatch.setattr(Path, "is_file", lambda path: True)
    cache.make_room()
    assert not partial.exists()
