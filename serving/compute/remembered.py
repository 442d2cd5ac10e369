"""The last champion that served, on disk: what a worker starts with while MLflow is down."""

from __future__ import annotations

import json
import logging
import os
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from infra.settings import Settings

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Reference:
    """A registered version, as far as serving needs it. The checksums are verified whoever names it."""

    model: str
    version: int
    ds: str
    path: Path
    manifest_sha256: str
    withdrawn: tuple[int, ...]
    """Versions that were promoted once and are rejected now."""
    uri: str = ""
    """Where the folder is for every machine, if it is in the archive."""

    def same_version(self, other: Reference) -> bool:
        """Whether the weights are the same."""
        return replace(self, withdrawn=()) == replace(other, withdrawn=())


def remember(settings: Settings, reference: Reference) -> None:
    """Keep it: at once, so that a reader sees the old or the new one."""
    path = _file(settings, reference.model)
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    with draft.open("w", encoding="utf-8") as file:
        json.dump({**asdict(reference), "path": str(reference.path)}, file, indent=2)
        file.flush()
        os.fsync(file.fileno())
    draft.replace(path)


def recall(settings: Settings, model: str) -> Reference | None:
    """What was kept; None where nothing is, or it cannot be read."""
    path = _file(settings, model)
    try:
        fields = json.loads(path.read_text(encoding="utf-8"))
        return Reference(**{**fields, "path": Path(fields["path"]), "withdrawn": tuple(fields["withdrawn"])})
    except FileNotFoundError:
        return None
    except (ValueError, TypeError, KeyError) as error:
        log.warning("%s is not what was kept (%s); it is not used", path, error)
        return None


def _file(settings: Settings, model: str) -> Path:
    return settings.home / "serving" / f"{model}.json"
