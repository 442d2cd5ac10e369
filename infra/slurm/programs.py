"""Slurm's and MUNGE's programs: this machine's own, or Debian's packages unpacked in a folder, which needs no root."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

CLIENTS = ("sbatch", "srun", "scancel", "scontrol", "squeue", "sinfo")
DAEMONS = ("munged", "slurmctld", "slurmd", "slurmstepd")
_PACKAGES = ("munge", "slurmctld", "slurmd", "slurm-client")
_SYSTEM = ("/usr/local/bin", "/usr/bin", "/usr/local/sbin", "/usr/sbin")
_REMEDY = "install Slurm and MUNGE (Debian: apt-get install slurm-wlm), then run this again"


class NoSlurmError(RuntimeError):
    """There is no Slurm on this machine, nor can it be fetched: what is missing and what would help."""


@dataclass(frozen=True, kw_only=True)
class Programs:
    """Where each program is."""

    paths: Mapping[str, Path]
    libraries: tuple[Path, ...] = ()
    """Folders of unpacked libraries; none for the machine's own Slurm."""

    @property
    def plugins(self) -> Path | None:
        """Slurm's plugins, where they are not at the place that it was built for."""
        return self.libraries[-1] if self.libraries else None

    def client(self, name: str) -> list[str]:
        """The command of a client. Its libraries are not left in the environment, which jobs inherit."""
        if not self.libraries:
            return [str(self.paths[name])]
        return [str(_loader()), "--argv0", name, "--library-path", self._library_path(), str(self.paths[name])]

    def daemon(self, name: str) -> list[str]:
        """The command of a daemon."""
        found = [f"LD_LIBRARY_PATH={self._library_path()}"] if self.libraries else []
        return ["env", *found, str(self.paths[name])]

    def _library_path(self) -> str:
        return ":".join(map(str, self.libraries))


def find_programs(folder: Path, *, say: Callable[[str], None]) -> Programs:
    """This machine's Slurm; else what `folder` holds; else Debian's packages, downloaded and unpacked there.

    NoSlurmError where there is neither Slurm nor apt, or apt cannot reach its archive.
    """
    installed = {name: shutil.which(name, path=":".join(_SYSTEM)) for name in (*CLIENTS, *DAEMONS)}
    if all(installed.values()):
        return Programs(paths={name: Path(path) for name, path in installed.items() if path is not None})
    if not folder.exists():
        missing = ", ".join(name for name, path in installed.items() if path is None)
        if lacking := [tool for tool in ("apt-get", "dpkg-deb") if shutil.which(tool) is None]:
            raise NoSlurmError(f"this machine has no {missing}, and no {lacking[0]} to fetch them with: {_REMEDY}")
        say(f"this machine has no {missing}: unpacking Debian's packages in {folder}")
        _unpack(folder)
    return _unpacked(folder)


def _unpack(folder: Path) -> None:
    """The folder appears by rename, whole."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix=".packages-", dir=folder.parent) as scratch:
        _download(Path(scratch))
        for package in sorted(Path(scratch).glob("*.deb")):
            _run(["dpkg-deb", "--extract", str(package), f"{scratch}/root"])
        Path(scratch, "root").rename(folder)


def _download(folder: Path) -> None:
    """The packages and those that they need and this machine lacks; with lists of its own where apt's are not there."""
    (folder / "lists" / "partial").mkdir(parents=True)
    (folder / "archives" / "partial").mkdir(parents=True)
    own = ["-o", f"Dir::State::Lists={folder}/lists", "-o", f"Dir::Cache={folder}", "-o", "APT::Sandbox::User="]
    try:
        _run(["apt-get", "download", *_needed([])], cwd=folder)
    except NoSlurmError:
        _run(["apt-get", *own, "update"])
        _run(["apt-get", *own, "download", *_needed(own)], cwd=folder)


def _needed(options: list[str]) -> list[str]:
    planned = _run(["apt-get", *options, "--simulate", "--no-install-recommends", "install", *_PACKAGES])
    return re.findall(r"^Inst (\S+)", planned, re.MULTILINE)


def _unpacked(folder: Path) -> Programs:
    """Debian's alternatives are no part of a package: `slurmd` is `slurmd-wlm` there."""
    paths = {}
    for name in (*CLIENTS, *DAEMONS):
        found = [path for path in folder.glob(f"usr/*bin/{name}*") if path.name in (name, f"{name}-wlm")]
        if not found:
            raise NoSlurmError(f"{folder} has no {name}; remove that folder, or {_REMEDY}")
        paths[name] = found[0]
    plugins = next(folder.glob("usr/lib/*/slurm-wlm"))
    return Programs(paths=paths, libraries=(plugins.parent, plugins))


def _loader() -> Path:
    """The dynamic linker of this architecture."""
    return next(path for folder in ("/lib64", "/lib") for path in Path(folder).glob("ld-linux*.so.*"))


def _run(command: list[str], *, cwd: Path | None = None) -> str:
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)
    if done.returncode:
        words = " ".join(done.stderr.split()) or done.stdout
        raise NoSlurmError(f"{' '.join(command[:2])} failed ({words[-400:]}): {_REMEDY}")
    return done.stdout
