"""Where a version's sealed folder lies: in this home, or in the archive until somebody here needs it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from infra.settings import Settings
from snapshots.seal import DamagedError, freeze
from trainer.archive.archive import Archive
from trainer.archive.download import bring
from trainer.archive.objects import Objects
from trainer.checkpoint import DamagedCheckpointError

if TYPE_CHECKING:
    from snapshots.registry import Version


def reference_to(folder: Path, settings: Settings) -> str:
    """What the registry keeps, which any machine understands: a URI of the archive, or a path where there is none."""
    archive = Archive.of(settings)
    return str(folder.resolve()) if archive is None else archive.uri_of(folder)


def path_of(reference: str, model: str, settings: Settings) -> Path:
    """Where the folder lies, or would, on this machine."""
    return settings.artifacts / model / reference.rpartition("/")[2] if "://" in reference else Path(reference)


def on_disk(version: Version) -> Path:
    """The version's folder, brought from the archive where it is not here. `verify` reads its bytes.

    DamagedError: what the archive has is not what was sealed. StorageError: it does not answer.
    """
    return brought(version.path, version.reference)


def brought(folder: Path, reference: str) -> Path:
    """`folder`, brought from `reference` where that is a URI and the folder is not here."""
    from features.object_store import object_store

    if "://" in reference and not folder.exists():
        home, uri = folder.absolute().parents[2], reference.rsplit("/", 3)[0]  # snapshots/<model>/<name> of both
        try:
            if bring(Archive(home=home, objects=Objects(uri, object_store)), folder):
                freeze(folder)
        except DamagedCheckpointError as error:
            raise DamagedError(str(error)) from error
    return folder
