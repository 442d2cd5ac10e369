"""Slurm's and MUNGE's programs: this machine's own, or Debian's packages unpacked in a folder, which needs no root."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from infra.debian import NoPackagesError, unpack

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
        say(f"this machine has no {missing}: unpacking Debian's packages in {folder}")
        try:
            unpack(_PACKAGES, folder)
        except NoPackagesError as error:
            raise NoSlurmError(f"this machine has no {missing}, and {error}: {_REMEDY}") from error
    return _unpacked(folder)


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
