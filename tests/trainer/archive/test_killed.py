"""An upload that is killed at any moment never leaves a folder that can be read in part."""

from __future__ import annotations

import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np

from features.object_store import object_store
from infra.settings import REPOSITORY, child_environment
from tests.trainer.archive.world import contents, sealed
from trainer.archive.archive import Archive
from trainer.archive.download import bring
from trainer.archive.objects import Objects
from trainer.archive.upload import push

PIECE_BYTES = 1000
NUM_PIECES = 60
KILLED_AT = (*range(4, NUM_PIECES + 1, 4), NUM_PIECES + 1)
"""Numbers of pieces, and the manifest's."""


def test_a_killed_upload_is_never_readable_in_part(bucket: str, tmp_path: Path) -> None:
    archive = Archive(home=tmp_path / "here", objects=Objects(bucket, object_store), piece_bytes=PIECE_BYTES)
    folder = sealed(archive.home, files={f"state/__{i}_0.distcp": 10 * PIECE_BYTES for i in range(NUM_PIECES // 10)})
    command = [sys.executable, "-m", "tests.trainer.archive.killed", str(archive.home), bucket, str(folder), "1000"]
    rng = np.random.default_rng(0)
    with subprocess.Popen(
        command, cwd=REPOSITORY, env=child_environment(), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        for number in KILLED_AT:
            print(f"{number} {rng.uniform(0.0, 0.02):.4f}", file=process.stdin, flush=True)
            assert process.stdout.readline().strip() == "killed"
            assert archive.names(folder.parent) == []
            elsewhere = Archive(home=tmp_path / f"at-{number}", objects=archive.objects)
            assert not bring(elsewhere, elsewhere.home / folder.relative_to(archive.home))
        process.stdin.close()
    assert archive.leftovers(folder.parent, before=datetime.now(UTC) + timedelta(days=1))
    push(archive, folder)
    there = Archive(home=tmp_path / "there", objects=archive.objects)
    assert bring(there, there.home / folder.relative_to(archive.home))
    assert contents(there.home / folder.relative_to(archive.home)) == contents(folder)
    assert archive.leftovers(folder.parent, before=datetime.now(UTC) + timedelta(days=1)) == []
