"""One share of the day's users: read, computed and written at the same time, by a thread each, a window at a time.

Memory holds a few windows, however many users there are, as long as the day's user features are in the order of user
ids (as this project's sources write them); else it also holds the cached vectors of the share's users.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Generator, Iterator
from contextlib import closing
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from features.ahead import ahead
from features.lake import Lake, Partition
from features.schema import EVENT_TIME, USER_ID
from features.table_files import TableFile, is_written
from features.windows import Windows, pieces_of
from snapshots.embedder import Embedder, one_thread, require_finite
from snapshots.embeddings import candidates_table_of, embeddings_schema, file_options, fp16_exact, to_lists
from snapshots.pooling import Cached, History
from snapshots.registry import Version

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from snapshots.embedder import Inputs
    from trainer.recipe import Recipe

log = logging.getLogger(__name__)

USERS_PER_WINDOW = 8_192
"""A window is a row group of the embeddings. Nothing overlaps the reading of the first and the writing of the last."""
_WAITING = 1
"""Windows between two threads."""
_SECONDS_PER_LOG_LINE = 10.0
_KEY_DIGITS = 15


@dataclass(frozen=True, kw_only=True)
class Work:
    """What a day's embeddings are made of. The same inputs have the same key."""

    recipe: Recipe
    version: Version
    users: Partition
    previous: tuple[Partition, ...]
    """The promoted days whose vectors are pooled with, newest first."""
    key: str

    @property
    def table(self) -> str:
        """Where they are written."""
        return candidates_table_of(self.recipe.name)

    @property
    def schema(self) -> pa.Schema:
        """Of that table, without `ds`."""
        tower = self.recipe.user_tower
        return embeddings_schema(num_embeddings=tower.num_embeddings, dim=tower.dim, model=self.recipe.name)

    @property
    def num_shards(self) -> int:
        """As the recipe says."""
        return self.recipe.inference.shards

    @property
    def files(self) -> list[str]:
        """One per shard. A finished shard of other inputs, or of another number of shards, is not of these."""
        return [f"{self.key[:_KEY_DIGITS]}-{shard:04}-of-{self.num_shards:04}.parquet" for shard in self.shards]

    @property
    def shards(self) -> range:
        """Their numbers."""
        return range(self.num_shards)

    def missing(self, lake: Lake) -> list[int]:
        """The shards that are not finished."""
        uri = lake.uri(self.table)
        return [shard for shard in self.shards if not is_written(uri, self.version.ds, self.files[shard])]


@dataclass(frozen=True, kw_only=True)
class _Window:
    """Users in a row: what the threads hand on."""

    ids: NDArray[np.int64]
    feature_times: pa.ChunkedArray
    inputs: list[Inputs]
    history: History


def write_shard(work: Work, shard: int, lake: Lake, embedder: Embedder) -> int:
    """Write the shard's file, which no reader of the table sees before the commit; the number of its users.

    The first error of any of the threads is raised, and then nothing is written.
    """
    embedder.require_columns(lake, work.users)
    rows = _Rows(work, shard, lake, embedder)
    began = said = time.monotonic()
    num_users = 0
    with (
        one_thread(),
        TableFile(
            lake.uri(work.table),
            work.version.ds,
            work.files[shard],
            schema=work.schema,
            options=file_options(work.schema),
        ) as file,
    ):
        read = ahead(rows.windows(), waiting=_WAITING, name="embed-read")
        with closing(ahead(_computed(read, embedder), waiting=_WAITING, name="embed-compute")) as computed:
            for window, vectors in computed:
                file.write(_arrow(work, window, vectors))
                num_users += len(window.ids)
                if (now := time.monotonic()) - said > _SECONDS_PER_LOG_LINE:
                    said, rate = now, num_users / (now - began)
                    _log(work, shard, f"users={num_users} of {rows.num_rows} users/s={rate:.0f}")
    _log(work, shard, f"written users={num_users} users/s={num_users / (time.monotonic() - began):.0f}")
    return num_users


def _log(work: Work, shard: int, what: str) -> None:
    log.info("embedding model=%s ds=%s shard=%d %s", work.version.model, work.version.ds, shard, what)


class _Rows:
    """The shard's rows: an equal share of the day's, in their order."""

    def __init__(self, work: Work, shard: int, lake: Lake, embedder: Embedder) -> None:
        self._work, self._lake, self._embedder = work, lake, embedder
        self._pieces = pieces_of(lake.dataset(work.users))
        total = sum(piece.num_rows for piece in self._pieces)
        self._start, self._stop = (total * at // work.num_shards for at in (shard, shard + 1))

    @property
    def num_rows(self) -> int:
        """Of the shard."""
        return self._stop - self._start

    def windows(self) -> Iterator[_Window]:
        """Read and encoded. ValueError for a user listed twice."""
        columns = [USER_ID, EVENT_TIME, *self._embedder.columns]
        windows = Windows(self._pieces, columns)
        for begin in range(self._start, self._stop, USERS_PER_WINDOW):
            rows = windows.read(begin, min(begin + USERS_PER_WINDOW, self._stop))
            ids = rows.column(USER_ID).to_numpy()
            yield _Window(
                ids=ids,
                feature_times=rows.column(EVENT_TIME),
                inputs=self._embedder.encode(rows),
                history=self._history(ids),
            )

    @cached_property
    def _cached(self) -> Cached:
        work, tower = self._work, self._work.recipe.user_tower
        return Cached(
            self._lake, work.previous, num_embeddings=tower.num_embeddings, dim=tower.dim,
            versions=work.recipe.pooling_versions,
        )  # fmt: skip

    def _history(self, ids: NDArray[np.int64]) -> History:
        return self._cached.of(ids) if self._of_all is None else self._of_all

    @cached_property
    def _of_all(self) -> History | None:
        """Where users are not in the order of their ids: what is cached for all of the shard, read once."""
        windows = Windows(self._pieces, [USER_ID])
        parts = [
            windows.read(begin, min(begin + USERS_PER_WINDOW, self._stop)).column(USER_ID).to_numpy()
            for begin in range(self._start, self._stop, USERS_PER_WINDOW)
        ]
        ids = np.concatenate([np.empty(0, dtype=np.int64), *parts])
        return None if bool((ids[1:] > ids[:-1]).all()) else self._cached.of(ids)


def _computed(windows: Generator[_Window], embedder: Embedder) -> Iterator[tuple[_Window, NDArray[np.float32]]]:
    """With their vectors, [N, K, D]."""
    with closing(windows):
        for window in windows:
            yield window, embedder.compute(window.inputs, num_rows=len(window.ids))


def _arrow(work: Work, window: _Window, computed: NDArray[np.float32]) -> pa.Table:
    """A row group of the embeddings. ValueError for a vector that is not finite."""
    exact = fp16_exact(computed)
    require_finite(exact, window.ids)
    pooled, num_pooled = window.history.pool(window.ids, exact)
    return pa.Table.from_arrays(
        [
            pa.array(window.ids),
            *(to_lists(vectors[:, k]) for vectors in (exact, pooled) for k in range(exact.shape[1])),
            pa.array(num_pooled),
            pa.repeat(pa.scalar(work.version.number, pa.int32()), len(window.ids)),
            window.feature_times,
        ],
        schema=work.schema,
    )
