"""The archive: what is sealed under `home`, under the same names in object storage.

A sealed folder `checkpoints/tiny/ds=2026-01-01-0a1b2c3d` of the home is there

- `checkpoints/tiny/ds=2026-01-01-0a1b2c3d.manifest.json`: its manifest, byte for byte, put last and only where there is
  none: who lists these sees whole folders alone
- `checkpoints/tiny/ds=2026-01-01-0a1b2c3d/<SHA-256 of a file>/<number>-<attempt>`: the pieces of the files, each an
  object of PIECE_BYTES or what is left

A key is put by one attempt only: what somebody decided to delete is never what another put there since. A killed upload
leaves pieces without a manifest, which the next attempt uses and `leftovers` finds. There is no multipart upload to be
left half-done: a piece is there or is not. Light to import.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path, PurePosixPath
from typing import Any

from infra.settings import Settings
from trainer.archive.objects import Objects, Stored
from trainer.checkpoint import DamagedCheckpointError

log = logging.getLogger(__name__)

PIECE_BYTES = 16 << 20
"""Of an object; a file's last piece may be shorter. Readers take pieces of any size."""
IN_FLIGHT = 4
"""Pieces that are on their way at a time: what an upload or a download holds in memory."""
GRACE = timedelta(days=1)
"""Pieces without a manifest belong to an upload that is under way while they are younger."""
_SUFFIX = ".manifest.json"


class OtherContentError(RuntimeError):
    """The archive holds another folder under the name: somebody else's was committed first."""


@dataclass(frozen=True, kw_only=True)
class File:
    """A file of a sealed folder."""

    name: str
    sha256: str
    num_bytes: int


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """As it was sealed."""

    content: bytes
    files: tuple[File, ...]
    base: str | None
    """The neighbour that this one adds to."""

    @classmethod
    def parse(cls, content: bytes, *, where: str) -> Manifest:
        """DamagedCheckpointError for what is no manifest, or names a file outside its folder."""
        try:
            found = json.loads(content)
            files = tuple(_file(name, entry) for name, entry in sorted(found["files"].items()))
            base = (found.get("base") or {}).get("name")
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise DamagedCheckpointError(f"{where} is no manifest ({error}); nothing of it is used") from error
        if base is not None and PurePosixPath(base).name != base:
            raise DamagedCheckpointError(f"{where} names the base {base!r}, no neighbour; nothing of it is used")
        return cls(content=content, files=files, base=base)


def _number(piece: Stored) -> int:
    return int(piece.key.rpartition("/")[2].partition("-")[0])


def _file(name: str, entry: dict[str, Any]) -> File:
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or not path.parts:
        raise ValueError(f"{name!r} lies outside the folder")
    sha256 = str(entry["sha256"])
    if len(sha256) != 64 or not set(sha256) <= set("0123456789abcdef"):
        raise ValueError(f"{sha256!r} is no SHA-256")
    return File(name=name, sha256=sha256, num_bytes=int(entry["bytes"]))


@dataclass(frozen=True, kw_only=True)
class Archive:
    """The sealed folders of every machine that shares it. Folders are named by where they lie, or would, in `home`."""

    home: Path
    objects: Objects
    piece_bytes: int = PIECE_BYTES

    @classmethod
    def of(cls, settings: Settings) -> Archive | None:
        """None where nothing lies in object storage: folders are all there is."""
        from features.object_store import object_store

        uri = settings.object_storage
        return None if uri is None else cls(home=settings.home.absolute(), objects=Objects(uri, object_store))

    def key_of(self, folder: Path) -> str:
        """Of the folder's pieces."""
        return folder.absolute().relative_to(self.home).as_posix()

    def uri_of(self, folder: Path) -> str:
        """What a registry refers to, together with the SHA-256 of the manifest."""
        return self.objects.uri_of(self.key_of(folder))

    def names(self, parent: Path) -> list[str]:
        """Of the whole folders in `parent`, sorted."""
        objects, _ = self.objects.children(self.key_of(parent))
        names = (PurePosixPath(one.key).name for one in objects)
        return sorted(name.removesuffix(_SUFFIX) for name in names if name.endswith(_SUFFIX))

    def manifest(self, folder: Path) -> Manifest | None:
        """None where the archive has no whole folder of that name."""
        key = self.manifest_key(folder)
        content = self.objects.get(key)
        return None if content is None else Manifest.parse(bytes(content), where=self.objects.uri_of(key))

    def manifest_key(self, folder: Path) -> str:
        """Of the object that makes the folder whole."""
        return f"{self.key_of(folder)}{_SUFFIX}"

    def piece_key(self, folder: Path, file: File, number: int, *, attempt: str) -> str:
        """The address of a piece: by the content of its file, and by who puts it."""
        return f"{self.key_of(folder)}/{file.sha256}/{number:06}-{attempt}"

    def pieces(self, folder: Path, *, of: File | None = None) -> dict[str, dict[int, Stored]]:
        """By SHA-256, the pieces of its files that are there, in order, by number: of each the one that was put last.
        Of all files or of one."""
        key = self.key_of(folder)
        found: dict[str, dict[int, Stored]] = {}
        pieces = self.objects.under(key if of is None else f"{key}/{of.sha256}")
        for piece in sorted(pieces, key=lambda one: (_number(one), one.modified)):
            found.setdefault(piece.key.rsplit("/", 2)[1], {})[_number(piece)] = piece
        return found

    def remove(self, folder: Path) -> None:
        """The manifest first: killed half-way, what is left is no whole folder."""
        self.objects.delete([self.manifest_key(folder)])
        self.objects.delete([piece.key for piece in self.objects.under(self.key_of(folder))])

    def empty(self, parent: Path) -> None:
        """Remove every folder in `parent`, and what uploads that were killed left of others."""
        keys = [one.key for one in self.objects.under(self.key_of(parent))]
        self.objects.delete([key for key in keys if key.endswith(_SUFFIX)])
        self.objects.delete([key for key in keys if not key.endswith(_SUFFIX)])

    def leftovers(self, parent: Path, *, before: datetime | None = None) -> list[Stored]:
        """Pieces in `parent`, at any depth, that no manifest names and that were put before `before` (default: GRACE
        ago): of uploads that were killed, or lost a race."""
        # Said before it is listed: a manifest that is put after the listing looks at pieces again that are older.
        limit = datetime.now(UTC) - GRACE if before is None else before
        found = self.objects.under(self.key_of(parent))
        manifests = [one.key for one in found if one.key.endswith(_SUFFIX)]
        pieces = [one for one in found if not one.key.endswith(_SUFFIX)]
        named = set(self._named(manifests, among={one.key.rpartition("/")[0] for one in pieces}))
        return [one for one in pieces if one.modified < limit and one.key.rpartition("/")[0] not in named]

    def clear_leftovers(self, parent: Path) -> None:
        """Delete them. An upload that is about to commit them now, even one that slept since, puts them again: it
        trusts no old ones, and looks once more when its manifest is there (`trainer.archive.upload`)."""
        left = self.leftovers(parent)
        self.objects.delete([piece.key for piece in left])
        if left:
            num_bytes = sum(piece.num_bytes for piece in left)
            log.info("removed %d pieces, %d bytes, of uploads to %s that were killed", len(left), num_bytes, parent)

    def _named(self, manifests: Iterable[str], *, among: Collection[str]) -> Iterable[str]:
        """Those of the folders of pieces that manifests name. One that cannot be read names all that it might."""
        for key in manifests:
            content = self.objects.get(key)
            if content is None:
                continue
            folder = key.removesuffix(_SUFFIX)
            try:
                files = Manifest.parse(bytes(content), where=self.objects.uri_of(key)).files
                yield from (f"{folder}/{file.sha256}" for file in files)
            except DamagedCheckpointError as error:
                log.error("its pieces stay: %s", error)
                yield from (one for one in among if one.rpartition("/")[0] == folder)
