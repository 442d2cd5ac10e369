"""Sealed folders of a home, and an archive in a folder: obstore's own, whose puts are as atomic and as conditional."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from features.object_store import object_store
from trainer.archive.archive import Archive
from trainer.archive.objects import Objects
from trainer.checkpoint import Base, seal

PIECE_BYTES = 1000
FILES = {"state/__0_0.distcp": 3500, "state/__1_0.distcp": 1000, "state/.metadata": 0, "trained.json": 40}


def archive_of(home: Path, bucket: Path, *, piece_bytes: int = PIECE_BYTES) -> Archive:
    """Of one machine; machines with the same bucket share what is archived."""
    home.mkdir(parents=True, exist_ok=True)
    return Archive(home=home, objects=Objects(str(bucket), object_store), piece_bytes=piece_bytes)


def sealed(
    home: Path,
    name: str = "checkpoints/tiny/ds=2026-01-01-00000000",
    *,
    files: Mapping[str, int] = FILES,
    seed: int = 0,
    base: Path | None = None,
) -> Path:
    """A sealed folder of files of so many random bytes."""
    rng, folder = np.random.default_rng(seed), home / name
    partial = folder.with_name(f".partial-{folder.name}-{seed}")
    for file, num_bytes in files.items():
        (partial / file).parent.mkdir(parents=True, exist_ok=True)
        (partial / file).write_bytes(rng.bytes(num_bytes))
    documents = {"day.json": f'{{"fingerprint": "{seed}"}}'}
    seal(partial, folder, documents=documents, base=None if base is None else Base.of(base))
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    """Every file's bytes, by name."""
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
