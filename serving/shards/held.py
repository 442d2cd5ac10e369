"""The versions whose rows a shard holds: loaded when first asked for, let go when a newer one has taken over."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from serving.shards.partition import Share
from serving.shards.share import Rows, find_sealed, read_share

log = logging.getLogger(__name__)

KEEP_SECONDS = 60.0
MOST_VERSIONS = 3
"""At once: during a swap the old and the new one, and one more of a worker that lags behind."""


class NotHeldError(RuntimeError):
    """The shard does not have the version, or not yet."""


@dataclass(kw_only=True)
class _Version:
    rows: Future[Mapping[str, Rows]]
    asked: float = field(default_factory=time.monotonic)


class Held:
    """snapshots: the model's sealed folders. keep_seconds: how long an old version stays that nobody asks for.

    Whoever asks for a version that is not there has it loaded: a shard that was started again serves as before.
    """

    def __init__(self, snapshots: Path, share: Share, *, keep_seconds: float = KEEP_SECONDS) -> None:
        self.share = share
        self.keep_seconds = keep_seconds
        self._snapshots = snapshots
        self._versions: dict[str, _Version] = {}
        self._newest = ""
        self._lock = threading.Lock()
        self._loader = ThreadPoolExecutor(1, thread_name_prefix="shard-load")

    def load(self, manifest_sha256: str) -> bool:
        """Whether the version can be served; if not, it is being loaded. ValueError, DamagedError: it cannot be."""
        rows = self._asked(manifest_sha256)
        if rows.done():
            rows.result()
        return rows.done()

    def rows(self, manifest_sha256: str, places: NDArray[np.int64]) -> Mapping[str, Rows]:
        """The whole share of the version, by weight. NotHeldError while it is loaded; ValueError for a place that the
        share has not."""
        loaded = self._asked(manifest_sha256)
        if not loaded.done():
            raise NotHeldError(f"{self.share} is loading version {manifest_sha256[:12]}; ask again")
        share = loaded.result()
        num_rows = min((len(values) for values in share.values()), default=0)
        if places.size and (places.min() < 0 or places.max() >= num_rows):
            raise ValueError(
                f"{self.share} has rows 0 to {num_rows - 1} of version {manifest_sha256[:12]}; asked for were "
                f"{places.min()} to {places.max()}"
            )
        return share

    def num_bytes(self) -> dict[str, int | None]:
        """Of the tables' rows, by version; None for one that is being loaded or cannot be."""
        with self._lock:
            versions = dict(self._versions)
        return {name: _bytes(version) for name, version in versions.items()}

    def _asked(self, name: str) -> Future[Mapping[str, Rows]]:
        """The version's rows, which are being loaded if they were not yet."""
        # before the lock is taken: what nobody sealed takes no place, and those who ask for rows do not wait for it
        folder = None if name in self._versions else find_sealed(self._snapshots, name)
        with self._lock:
            if name not in self._versions:
                if folder is None:
                    raise NotHeldError(f"{self.share} has just let version {name[:12]} go; ask again")
                self._make_room()
                self._versions[name] = _Version(rows=self._loader.submit(self._read, folder, name))
            version = self._versions[name]
            version.asked = time.monotonic()
            if version.rows.done() and version.rows.exception() is not None:
                del self._versions[name]  # whoever asks again tries again
            self._let_go(but=name)
            return version.rows

    def _read(self, folder: Path, manifest_sha256: str) -> Mapping[str, Rows]:
        began = time.monotonic()
        rows = read_share(folder, self.share, manifest_sha256=manifest_sha256)
        num_bytes = sum(values.nbytes for values in rows.values())
        log.info("loaded %s path=%s bytes=%d seconds=%.1f", self.share, folder, num_bytes, time.monotonic() - began)
        with self._lock:
            self._newest = manifest_sha256
        return rows

    def _make_room(self) -> None:
        """Lock held. What was asked for longest ago goes; NotHeldError where everything is being loaded."""
        while len(self._versions) >= MOST_VERSIONS:
            done = [name for name, version in self._versions.items() if version.rows.done()]
            if not done:
                raise NotHeldError(f"{self.share} is loading {len(self._versions)} versions; ask again later")
            self._drop(min(done, key=lambda name: self._versions[name].asked))

    def _let_go(self, *, but: str) -> None:
        """Lock held. Old versions that nobody has asked for lately."""
        oldest = time.monotonic() - self.keep_seconds
        for name, version in list(self._versions.items()):
            if name not in (but, self._newest) and version.rows.done() and version.asked < oldest:
                self._drop(name)

    def _drop(self, name: str) -> None:
        del self._versions[name]
        log.info("let go %s version=%s", self.share, name)


def _bytes(version: _Version) -> int | None:
    if not version.rows.done() or version.rows.exception() is not None:
        return None
    return sum(values.nbytes for values in version.rows.result().values())
