"""One batch: the users' newest features and the items' features to the foundation model, its representations packed."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from serving.compute.statistics import Statistics
from serving.features import FeatureCodec
from serving.solaris.interfaces import Catalogue, Foundation
from serving.solaris.queue import Leased
from serving.solaris.store import Represented

if TYPE_CHECKING:
    import pyarrow as pa

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Batch:
    """features: by user, feature time in ms and payload (`PairQueue.features`)."""

    pairs: Sequence[Leased]
    features: Mapping[int, tuple[int, bytes]]
    taken: float = field(default_factory=time.monotonic)


@dataclass(frozen=True, kw_only=True)
class Computed:
    """done: pairs that need not be tried again, represented or refused."""

    batch: Batch
    done: list[Leased]
    represented: Represented | None


class Precompute:
    """A batch's representations. codec: of the features of the model's source."""

    def __init__(
        self, foundation: Foundation, catalogue: Catalogue, codec: FeatureCodec, statistics: Statistics
    ) -> None:
        self._foundation, self._catalogue, self._codec, self._statistics = foundation, catalogue, codec, statistics

    def __call__(self, batch: Batch) -> Computed:
        """OSError: the foundation model asks others, and got no answer; the same batch may be computed later."""
        pairs, rows = self._readable(batch)
        if rows is None:
            return Computed(batch=batch, done=list(batch.pairs), represented=None)
        began = time.perf_counter()
        vectors, at = self._represented(*rows)
        self._statistics.count("busy_seconds", time.perf_counter() - began)
        failed = set(range(len(pairs))) - set(at.tolist())
        self._statistics.count("computed", len(at))
        self._statistics.count("failed", len(failed))
        with np.errstate(over="ignore", invalid="ignore"):
            exact = vectors.astype(np.float16)
        finite = np.isfinite(exact).all(axis=1)
        self._refuse("not_finite", int((~finite).sum()))
        kept = [pairs[place] for place in at[finite].tolist()]
        left = {(pairs[place].user, pairs[place].item) for place in failed}
        return Computed(
            batch=batch,
            done=[one for one in batch.pairs if (one.user, one.item) not in left],
            represented=Represented.of(
                [one.pair for one in kept],
                exact[finite],
                version=self._foundation.version,
                feature_ms=np.array([batch.features[one.user][0] for one in kept], np.int64),
            ),
        )

    def _readable(self, batch: Batch) -> tuple[list[Leased], tuple[pa.RecordBatch, pa.RecordBatch] | None]:
        """Pairs whose user and item have features, sorted by user, and these, a row for each; None where none has."""
        users = sorted({one.user for one in batch.pairs} & batch.features.keys())
        payloads = [batch.features[user][1] for user in users]
        sound = dict(zip(users, self._codec.sound(payloads).tolist(), strict=True)) if users else {}
        known = self._catalogue.known(np.array([one.item for one in batch.pairs], np.int64)).tolist()
        readable = []
        for one, has_item in zip(batch.pairs, known, strict=True):
            if one.user not in sound:
                self._refuse("no_features")
            elif not sound[one.user]:
                self._refuse("unreadable")
            elif not has_item:
                self._refuse("no_item")
            else:
                readable.append(one)
        if not readable:
            return [], None
        readable.sort(key=lambda one: one.user)
        users = sorted({one.user for one in readable})
        rows = self._codec.decode(users, [batch.features[user][1] for user in users])
        places = np.searchsorted(users, [one.user for one in readable])
        items = self._catalogue.rows(np.array([one.item for one in readable], np.int64))
        return readable, (rows.take(places), items)

    def _represented(
        self, users: pa.RecordBatch, items: pa.RecordBatch, begin: int = 0
    ) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """[n, E], and [n] which rows they are of: without those that the model fails at, found by halving."""
        try:
            vectors = self._foundation.represent(users, items)
            if vectors.shape != (users.num_rows, self._foundation.width):
                raise ValueError(f"{vectors.shape} for {users.num_rows} pairs; a row of {self._foundation.width} each")
            return vectors, np.arange(begin, begin + users.num_rows)
        except OSError:
            raise
        except Exception as error:
            log.warning("the foundation model failed at %d pairs: %r", users.num_rows, error)
        if users.num_rows == 1:
            return np.empty((0, self._foundation.width), np.float32), np.empty(0, np.int64)
        half = users.num_rows // 2
        parts = [
            self._represented(users.slice(0, half), items.slice(0, half), begin),
            self._represented(users.slice(half), items.slice(half), begin + half),
        ]
        return np.concatenate([one[0] for one in parts]), np.concatenate([one[1] for one in parts])

    def _refuse(self, reason: str, number: int = 1) -> None:
        if number:
            self._statistics.count("refused", number, reason=reason)
