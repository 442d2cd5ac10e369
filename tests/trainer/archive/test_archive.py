"""A sealed folder comes back whole and as it was, or not at all."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from threading import Event, Thread

import pytest

from features.storage_errors import StorageError
from tests.trainer.archive.world import archive_of, contents, sealed
from trainer.archive.archive import Archive, Manifest, OtherContentError
from trainer.archive.download import bring, read
from trainer.archive.keep import NotArchivedError, keep
from trainer.archive.objects import Objects
from trainer.archive.upload import push
from trainer.checkpoint import DamagedCheckpointError, is_complete, verify

DAY = "checkpoints/tiny/ds=2026-01-01-00000000"


@pytest.fixture
def folder_of_all(tmp_path: Path) -> Path:
    return tmp_path / "bucket"


@pytest.fixture
def here(tmp_path: Path, folder_of_all: Path) -> Archive:
    return archive_of(tmp_path / "here", folder_of_all)


@pytest.fixture
def there(tmp_path: Path, folder_of_all: Path) -> Archive:
    return archive_of(tmp_path / "there", folder_of_all)


def test_another_machine_has_it_as_it_was_sealed(here: Archive, there: Archive) -> None:
    folder = sealed(here.home)
    assert push(here, folder)
    assert not push(here, folder), "the second time nothing is put"
    assert there.names(there.home / "checkpoints" / "tiny") == [folder.name]
    assert read(there, there.home / DAY, "day.json") == b'{"fingerprint": "0"}'
    assert read(there, there.home / DAY, "none.json") is None
    assert not (there.home / DAY).exists(), "a document is read without the rest"
    assert bring(there, there.home / DAY)
    verify(there.home / DAY)
    assert contents(there.home / DAY) == contents(folder)
    assert not bring(there, there.home / "checkpoints" / "tiny" / "ds=2026-01-02-00000000")


def test_an_increment_comes_with_what_it_adds_to(here: Archive, there: Archive) -> None:
    base = sealed(here.home)
    day = sealed(here.home, "checkpoints/tiny/ds=2026-01-02-00000001", seed=1, base=base)
    push(here, day)
    assert bring(there, there.home / day.relative_to(here.home))
    verify(there.home / day.relative_to(here.home))
    shutil.rmtree(there.home / DAY)
    assert not is_complete(there.home / day.relative_to(here.home))
    assert bring(there, there.home / day.relative_to(here.home)), "and again, where the base went"


@pytest.mark.parametrize(
    ("harm", "told"),
    [
        pytest.param(lambda piece: piece.write_bytes(b"x" + piece.read_bytes()[1:]), "has SHA-256", id="flipped-byte"),
        pytest.param(
            lambda piece: piece.write_bytes(piece.read_bytes()[:-1]), "has 3499 bytes of 3500", id="truncated"
        ),
        pytest.param(lambda piece: piece.unlink(), "has 2500 bytes of", id="gone"),
    ],
)
def test_what_is_not_what_was_sealed_is_refused_by_name(
    here: Archive, there: Archive, folder_of_all: Path, harm: Callable[[Path], object], told: str
) -> None:
    folder = sealed(here.home)
    push(here, folder)
    sha256 = hashlib.sha256((folder / "state/__0_0.distcp").read_bytes()).hexdigest()
    (piece,) = (folder_of_all / DAY / sha256).glob("000001-*")
    harm(piece)
    with pytest.raises(DamagedCheckpointError, match=rf"{DAY}: state/__0_0.distcp .*{told}"):
        bring(there, there.home / DAY)
    assert list((there.home / "checkpoints" / "tiny").iterdir()) == [], "nothing of it is left"


@pytest.mark.parametrize("name", ["../../outside", "/etc/outside", "state/../../x"])
def test_a_manifest_that_names_a_file_outside_is_refused(name: str) -> None:
    content = json.dumps({"files": {name: {"sha256": "0" * 64, "bytes": 1}}}).encode()
    with pytest.raises(DamagedCheckpointError, match="lies outside the folder"):
        Manifest.parse(content, where="s3://bucket/x.manifest.json")


def test_a_file_that_rotted_here_is_not_archived(here: Archive, there: Archive) -> None:
    """Nor are its pieces gone on with: the day that is trained again has a file of the same SHA-256."""
    folder = sealed(here.home)
    (folder / "state/__0_0.distcp").write_bytes(b"y" * 3500)
    with pytest.raises(DamagedCheckpointError, match=r"state/__0_0.distcp has SHA-256 .*it is not archived"):
        push(here, folder)
    assert here.manifest(folder) is None
    shutil.rmtree(folder)
    assert push(here, sealed(here.home))
    assert bring(there, there.home / DAY)
    assert contents(there.home / DAY) == contents(folder)


def test_the_second_of_two_takes_the_first_one_s(here: Archive, there: Archive) -> None:
    """Both have trained the same inputs; seconds in a document differ."""
    first, second = sealed(here.home), sealed(there.home)
    (second / "day.json").write_text('{"fingerprint": "0", "seconds": 2}')
    _reseal(second)
    assert keep(here, first, document="day.json")
    assert not keep(there, second, document="day.json")
    assert contents(second) == contents(first)


def test_another_fingerprint_under_the_name_is_an_error(here: Archive, there: Archive) -> None:
    keep(here, sealed(here.home, seed=0), document="day.json")
    second = sealed(there.home, seed=1)
    before = contents(second)
    with pytest.raises(OtherContentError, match="somebody else's was archived first"):
        keep(there, second, document="day.json")
    assert contents(second) == before


def test_of_two_at_once_one_is_committed(here: Archive, there: Archive) -> None:
    """Both find nothing there and put their pieces; the manifest is put once."""
    folders = {here: sealed(here.home, seed=0), there: sealed(there.home, seed=1)}
    ready, go, lost = Event(), Event(), []

    def last_moment() -> None:
        ready.set()
        go.wait(10)

    def second() -> None:
        try:
            push(there, folders[there], may_commit=last_moment)
        except OtherContentError as error:
            lost.append(error)

    thread = Thread(target=second)
    thread.start()
    ready.wait(10)
    assert push(here, folders[here])
    go.set()
    thread.join()
    assert len(lost) == 1
    third = archive_of(here.home.with_name("third"), Path(here.objects.uri))
    bring(third, third.home / DAY)
    assert contents(third.home / DAY) == contents(folders[here])


def test_what_a_killed_upload_left_is_used_and_can_be_found(here: Archive, folder_of_all: Path) -> None:
    folder = sealed(here.home)

    with pytest.raises(KeyboardInterrupt):
        push(here, folder, may_commit=_killed)
    assert here.names(folder.parent) == []
    assert here.leftovers(folder.parent) == [], "an upload may be under way"
    later = datetime.now(UTC) + timedelta(seconds=1)
    assert len(here.leftovers(folder.parent, before=later)) == 7
    stamps = {path: path.stat().st_mtime_ns for path in folder_of_all.rglob("0*") if path.is_file()}
    assert push(here, folder)
    assert {path: path.stat().st_mtime_ns for path in stamps} == stamps, "nothing is put twice"
    assert here.leftovers(folder.parent, before=later) == []
    extra = folder_of_all / DAY / ("0" * 64) / "000000"
    extra.parent.mkdir()
    extra.write_bytes(b"of one that lost the race")
    os.utime(extra, (0, 0))
    assert [piece.key for piece in here.leftovers(folder.parent)] == [f"{DAY}/{'0' * 64}/000000"]
    here.objects.put(here.manifest_key(folder), b"no manifest")
    assert here.leftovers(folder.parent, before=later) == [], "what it names is not known"


@pytest.mark.parametrize(
    ("listed", "deleted"),
    [
        pytest.param("before", "before", id="before the upload"),
        pytest.param("before", "at commit", id="listed before, deleted before the manifest"),
        pytest.param("before", "after", id="listed before, deleted after it"),
        pytest.param("at commit", "at commit", id="while the upload slept"),
        pytest.param("at commit", "after", id="listed while it slept, deleted after the manifest"),
    ],
)
def test_who_clears_takes_nothing_from_an_upload(
    here: Archive, there: Archive, folder_of_all: Path, listed: str, deleted: str
) -> None:
    """Whenever it looks, and however long it, or the upload, is stopped in between."""
    folder, left = sealed(here.home), list[str]()
    with pytest.raises(KeyboardInterrupt):
        push(here, folder, may_commit=_killed)

    def it_is(moment: str) -> None:
        if listed == moment:
            for piece in (path for path in folder_of_all.rglob("*") if path.is_file()):
                os.utime(piece, (0, 0))
            left.extend(piece.key for piece in there.leftovers(there.home / "checkpoints"))
        if deleted == moment:
            there.objects.delete(left)

    it_is("before")
    assert push(here, folder, may_commit=lambda: it_is("at commit"))
    it_is("after")
    assert len(left) >= 7
    assert bring(there, there.home / DAY)
    assert contents(there.home / DAY) == contents(folder)


def test_what_went_there_is_put_back(here: Archive, there: Archive) -> None:
    """As what an upload lost that was killed after its manifest was put."""
    folder = sealed(here.home)
    push(here, folder)
    here.objects.delete([piece.key for piece in here.objects.under(DAY)[::2]])
    assert not push(here, folder)
    assert bring(there, there.home / DAY)
    assert contents(there.home / DAY) == contents(folder)


def test_what_is_removed_is_no_whole_folder_at_any_moment(here: Archive, there: Archive) -> None:
    folder = sealed(here.home)
    push(here, folder)
    here.remove(folder)
    assert not bring(there, there.home / DAY)
    assert here.objects.under("checkpoints") == []


def test_what_is_discarded_while_it_is_looked_at_is_not_whole(here: Archive, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = sealed(here.home)
    (folder / "trained.json").unlink()
    monkeypatch.setattr(Path, "is_file", lambda path: True)  # a moment ago
    assert not is_complete(folder)


def test_storage_that_does_not_answer_leaves_the_folder(tmp_path: Path) -> None:
    from obstore.store import S3Store

    def closed(uri: str) -> S3Store:
        return S3Store.from_url(
            uri,
            config={"endpoint": "http://127.0.0.1:1", "region": "x", "access_key_id": "a", "secret_access_key": "b"},
            client_options={"allow_http": True},
            retry_config={"max_retries": 0, "retry_timeout": timedelta(seconds=1)},
        )

    archive = Archive(home=tmp_path, objects=Objects("s3://bucket/prefix", closed))
    folder = sealed(tmp_path)
    with pytest.raises(
        NotArchivedError, match=r"is whole and stays.*s3://bucket/prefix/checkpoints/.*: it does not answer"
    ):
        keep(archive, folder)
    assert is_complete(folder)
    with pytest.raises(StorageError, match="s3://bucket/prefix/checkpoints/tiny: it does not answer"):
        archive.names(folder.parent)


def _killed() -> None:
    raise KeyboardInterrupt


def _reseal(folder: Path) -> None:
    """With a manifest of what the files are now."""
    document = json.loads((folder / "manifest.json").read_text())
    for name in document["files"]:
        content = (folder / name).read_bytes()
        document["files"][name] = {"sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)}
    (folder / "manifest.json").write_text(json.dumps(document))
