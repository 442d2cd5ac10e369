"""Sealed checkpoints: a new directory each, a manifest with the SHA-256 of every file, one atomic rename.

A directory is complete when it has its final name and a manifest; anything else is a leftover. A manifest may name a
base: another sealed directory beside this one, which this one adds to and is nothing without.
Light to import: whoever only asks whether a day is trained does not wait for torch.
"""

from __future__ import annotations

import json
import os
import shutil
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from features.fingerprint import file_sha256
from trainer.index import UntrustedIndexError, require_plain

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup
    from torch.distributed.checkpoint.planner import LoadPlanner

MANIFEST = "manifest.json"
STATE = "state"
ROWS = "rows"
_PARTIAL = ".partial-"


class DamagedCheckpointError(RuntimeError):
    """A checkpoint is not what was written; it is never loaded."""


class BrokenChainError(DamagedCheckpointError):
    """A checkpoint adds to another one, which is missing or is not what it was."""


@dataclass(frozen=True, kw_only=True)
class Base:
    """The checkpoint that another one adds to."""

    name: str
    """Of its directory, in the same folder: both can be moved together."""
    manifest_sha256: str
    """Stands for every byte of it."""

    def __post_init__(self) -> None:
        if Path(self.name).name != self.name:
            raise ValueError(f"base {self.name!r} is no name of a neighbouring directory")

    @classmethod
    def of(cls, directory: Path) -> Base:
        """A sealed checkpoint, as the base of others."""
        return cls(name=directory.name, manifest_sha256=file_sha256(directory / MANIFEST))


@dataclass(frozen=True, kw_only=True)
class _Manifest:
    files: dict[str, dict[str, Any]]
    base: Base | None


def partial_path(final: Path, *, token: str) -> Path:
    """Where the checkpoint that becomes `final` is written; `token` keeps two attempts apart."""
    return final.parent / f"{_PARTIAL}{final.name}-{token}"


def save_state(directory: Path, state: Mapping[str, Any], *, group: ProcessGroup | None = None) -> None:
    """Write this rank's part of `state`. A collective of `group` (default: all ranks): each of its ranks calls it
    with the same directory."""
    from torch.distributed.checkpoint.state_dict_saver import save

    _checked(lambda: save(dict(state), checkpoint_id=directory / STATE, process_group=group), f"saving to {directory}")


def load_shards(
    directory: Path, state: dict[str, Any], *, no_dist: bool = False, planner: LoadPlanner | None = None
) -> None:
    """Fill the tensors of `state` in place from the directory's own shards, at any number of ranks.
    `trainer.increments.load` is for checkpoints that may have a base.

    A collective unless `no_dist`. planner: reads what it names instead. DamagedCheckpointError for an index that
    would run what it names.
    """
    from torch.distributed.checkpoint.state_dict_loader import load

    _require_plain(directory)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="torch.distributed is disabled", category=UserWarning)
        _checked(
            lambda: load(state, checkpoint_id=directory / STATE, planner=planner, no_dist=no_dist),
            f"loading {directory}",
        )


def saved_names(directory: Path) -> frozenset[str]:
    """What the directory's own shards hold. DamagedCheckpointError: as `load_shards`."""
    from torch.distributed.checkpoint.filesystem import FileSystemReader

    _require_plain(directory)
    return frozenset(FileSystemReader(directory / STATE).read_metadata().state_dict_metadata)


def _require_plain(directory: Path) -> None:
    try:
        require_plain(directory / STATE)
    except UntrustedIndexError as error:
        raise DamagedCheckpointError(str(error)) from error


def _checked(action: Callable[[], object], what: str) -> None:
    from torch.distributed.checkpoint.api import CheckpointException

    try:
        action()
    except CheckpointException as error:  # a BaseException: `except Exception` further up would miss it
        causes = "; ".join(f"rank {rank}: {cause}" for rank, (cause, _) in error.failures.items())
        raise RuntimeError(f"{what} failed: {causes}") from error


def hashed_part(partial: Path, *, rank: int) -> dict[str, dict[str, Any]]:
    """The manifest's entries of the files that `rank` wrote: each rank hashes its own, from its own cache."""
    paths = [*(partial / STATE).glob(f"__{rank}_*"), *(partial / ROWS).glob(rows_file(rank))]
    return {path.relative_to(partial).as_posix(): _entry(path) for path in paths}


def rows_file(rank: int) -> str:
    """The file in `ROWS` that `rank` writes."""
    return f"rank={rank:05}.safetensors"


def _entry(path: Path) -> dict[str, Any]:
    return {"sha256": file_sha256(path), "bytes": path.stat().st_size}


def seal(
    partial: Path,
    final: Path,
    *,
    documents: Mapping[str, str],
    hashed: Mapping[str, dict[str, Any]] | None = None,
    base: Base | None = None,
    may_publish: Callable[[], None] = lambda: None,
) -> None:
    """Complete a checkpoint: add `documents` (name to text) and the manifest, make it durable, rename.

    Called by one rank, after every rank has saved. hashed: what `hashed_part` said on the ranks; other files are
    hashed here. base: what it adds to; BrokenChainError where that is no longer there. may_publish: called right
    before the rename; what it raises prevents it.
    """
    for name, text in documents.items():
        (partial / name).write_text(text)
    known, files = hashed or {}, {}
    for path in sorted(path for path in partial.rglob("*") if path.is_file()):
        name = path.relative_to(partial).as_posix()
        files[name] = known[name] if name in known else _entry(path)
    manifest: dict[str, Any] = {"files": files}
    if base is not None:
        _check_base(final, base)
        manifest["base"] = vars(base)
    (partial / MANIFEST).write_text(json.dumps(manifest, indent=1, sort_keys=True))
    for path in [*partial.rglob("*"), partial]:
        fsync(path)
    if is_complete(final):
        raise FileExistsError(f"{final} is sealed; it is not written again")
    may_publish()
    if final.exists():
        shutil.rmtree(final)
    partial.rename(final)
    fsync(final.parent)


def fsync(path: Path) -> None:
    """Have a file, or the names in a folder, on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def is_complete(directory: Path) -> bool:
    """Whether the manifest is there and every file has the size it names, of the base too. Cheap: `verify` reads the
    bytes."""
    try:
        manifest = _manifest(directory)
        if manifest.base is not None:
            _check_base(directory, manifest.base)
        return all((directory / name).stat().st_size == file["bytes"] for name, file in manifest.files.items())
    except (FileNotFoundError, NotADirectoryError, DamagedCheckpointError):  # or somebody discards it now
        return False


def base_path(directory: Path) -> Path | None:
    """The checkpoint that a sealed one adds to; None for one that stands alone, or is not sealed yet."""
    try:
        base = _manifest(directory).base
    except FileNotFoundError:
        return None
    return None if base is None else directory.parent / base.name


def why_broken(directory: Path) -> str | None:
    """What is wrong with the base of a sealed checkpoint; None when nothing is, or when there is no manifest."""
    try:
        base = _manifest(directory).base
        if base is not None:
            _check_base(directory, base)
    except BrokenChainError as error:
        return str(error)
    except (FileNotFoundError, NotADirectoryError, DamagedCheckpointError):
        return None
    return None


def _check_base(directory: Path, base: Base) -> None:
    path = directory.parent / base.name
    if not is_complete(path):
        raise _broken(directory, path, "which is missing or incomplete")
    if (found := file_sha256(path / MANIFEST)) != base.manifest_sha256:
        expected = f"{base.manifest_sha256[:12]}…"
        raise _broken(directory, path, f"which is another one now ({MANIFEST} has {found[:12]}…, not {expected})")


def _broken(directory: Path, base: Path, why: str) -> BrokenChainError:
    return BrokenChainError(
        f"{directory} is an increment of {base}, {why}; it is not used. Put back the directory that it was made from, "
        "or delete what is there and train again from that day on"
    )


def verify(directory: Path, *, part: int = 0, parts: int = 1) -> None:
    """Read every file, of the base too, and compare its SHA-256; DamagedCheckpointError names the file that differs,
    BrokenChainError the base that does.

    With `parts` ranks, each takes its share of the files.
    """
    manifest = _manifest(directory)
    if manifest.base is not None:
        _check_base(directory, manifest.base)
        base = directory.parent / manifest.base.name
        try:
            verify(base, part=part, parts=parts)
        except DamagedCheckpointError as error:
            raise _broken(directory, base, f"which is damaged ({error})") from error
    for name, expected in sorted(manifest.files.items())[part::parts]:
        _verify_file(directory / name, expected)


def _verify_file(path: Path, expected: Mapping[str, Any]) -> None:
    remedy = "the checkpoint is not used; delete its directory and train that day again"
    if not path.is_file():
        raise DamagedCheckpointError(f"{path} is missing, but {MANIFEST} names it; {remedy}")
    found = file_sha256(path)
    if found != expected["sha256"]:
        raise DamagedCheckpointError(
            f"{path} has SHA-256 {found[:12]}…, {MANIFEST} says {expected['sha256'][:12]}…; {remedy}"
        )


def read_document(directory: Path, name: str) -> str | None:
    """The text of one of the documents of `seal`, verified; None when the checkpoint has none of that name."""
    return verified_file(directory, name).read_text() if name in _manifest(directory).files else None


def verified_file(directory: Path, name: str) -> Path:
    """A file of a sealed directory whose bytes are what was written."""
    expected = _manifest(directory).files.get(name)
    if expected is None:
        raise DamagedCheckpointError(f"{directory} holds no {name}; train that day again")
    _verify_file(directory / name, expected)
    return directory / name


def _manifest(directory: Path) -> _Manifest:
    path = directory / MANIFEST
    try:
        content = json.loads(path.read_text())
        files, base = content["files"], content.get("base")
        return _Manifest(
            files={str(name): {"sha256": str(e["sha256"]), "bytes": int(e["bytes"])} for name, e in files.items()},
            base=None if base is None else Base(name=str(base["name"]), manifest_sha256=str(base["manifest_sha256"])),
        )
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DamagedCheckpointError(f"{path} cannot be read ({error}); the checkpoint is not used") from error


def discard(path: Path) -> None:
    """Delete a sealed directory; killed half-way, nothing is left that looks like one."""
    gone = path.with_name(f"{_PARTIAL}removed-{path.name}")
    shutil.rmtree(gone, ignore_errors=True)
    path.rename(gone)
    shutil.rmtree(gone)


def remove_partial(parent: Path, *, final: Path) -> list[Path]:
    """Delete what earlier attempts at `final` left behind; the caller holds the lock on it."""
    leftovers = sorted(parent.glob(f"{_PARTIAL}{final.name}-*"))
    for path in leftovers:
        shutil.rmtree(path)
    return leftovers
