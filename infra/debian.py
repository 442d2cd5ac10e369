"""Debian's packages, downloaded and unpacked in a folder, which needs no root."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory


class NoPackagesError(RuntimeError):
    """They cannot be had here: why."""


def unpack(packages: Sequence[str], folder: Path, *, alone: bool = False) -> None:
    """Make `folder`, whole, of the packages and, unless they come `alone`, of what they need and this machine lacks.

    NoPackagesError: there is no apt, or it cannot reach its archive.
    """
    if lacking := [tool for tool in ("apt-get", "dpkg-deb") if shutil.which(tool) is None]:
        raise NoPackagesError(f"there is no {lacking[0]} to fetch packages with")
    folder.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix=".packages-", dir=folder.parent) as scratch:
        _download(packages, Path(scratch), alone=alone)
        for package in sorted(Path(scratch).glob("*.deb")):
            _run(["dpkg-deb", "--extract", str(package), f"{scratch}/root"])
        Path(scratch, "root").rename(folder)


def _download(packages: Sequence[str], folder: Path, *, alone: bool) -> None:
    """With lists of its own where apt's are not there."""
    (folder / "lists" / "partial").mkdir(parents=True)
    (folder / "archives" / "partial").mkdir(parents=True)
    own = ["-o", f"Dir::State::Lists={folder}/lists", "-o", f"Dir::Cache={folder}", "-o", "APT::Sandbox::User="]
    try:
        _run(["apt-get", "download", *(packages if alone else _needed(packages, []))], cwd=folder)
    except NoPackagesError:
        _run(["apt-get", *own, "update"])
        _run(["apt-get", *own, "download", *(packages if alone else _needed(packages, own))], cwd=folder)


def _needed(packages: Sequence[str], options: list[str]) -> list[str]:
    planned = _run(["apt-get", *options, "--simulate", "--no-install-recommends", "install", *packages])
    return re.findall(r"^Inst (\S+)", planned, re.MULTILINE)


def _run(command: list[str], *, cwd: Path | None = None) -> str:
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)
    if done.returncode:
        words = " ".join(done.stderr.split()) or done.stdout
        raise NoPackagesError(f"{' '.join(command[:2])} failed ({words[-400:]})")
    return done.stdout
