"""What is answered, from what the store holds (Table 2's modes, ERCache's two caches): no I/O, no clock, no state."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from serving.client.answer import Answer, Computation, Origin, Reason
from serving.client.model import Model
from serving.record import ENTRY, HEADER, Record, RecordError
from serving.served import Served

Head = tuple[int, int, int]
"""Of an entry: version, feature time and write time in milliseconds."""


@dataclass(frozen=True, slots=True)
class Found:
    """What of a stored value may be served: nothing, for `reason`, or entries, newest feature time first."""

    entries: NDArray[Any] | None
    """As `Record.entries`."""
    heads: tuple[Head, ...] = ()
    reason: Reason = "found"
    is_direct: bool = False
    """Whether it is so young, and of the version that is served, that nothing need be computed. What a load has just
    written is of features that are not young."""


def found(model: Model, served: Served | None, value: bytes | None, *, now_ms: float) -> Found:
    """Of the store's bytes of a user, now by the store's clock."""
    if value is None:
        return _COLD
    try:
        entries = Record.parse(value).entries
    except RecordError:
        return _DAMAGED
    _, _, num_embeddings, dim = HEADER.unpack_from(value)
    if (num_embeddings, dim) != shape(model, served):
        return _RESHAPED
    size = entries.itemsize
    heads = [ENTRY.unpack_from(value, begin) for begin in range(HEADER.size, len(value), size)]
    if served is not None and served.withdrawn:
        kept = [place for place, head in enumerate(heads) if head[0] not in served.withdrawn]
        if not kept:
            return _WITHDRAWN
        entries, heads = entries[kept], [heads[place] for place in kept]
    if served is not None and len(heads) > served.pooling_versions:
        entries, heads = entries[: served.pooling_versions], heads[: served.pooling_versions]
    serving = model.serving
    last_ms = max([written_ms for _, _, written_ms in heads])
    if now_ms - last_ms > 1000 * serving.failover_seconds:
        return _EXPIRED
    return Found(entries, tuple(heads), "found", _is_direct(model, served, heads[0], now_ms))


def _is_direct(model: Model, served: Served | None, newest: Head, now_ms: float) -> bool:
    serving = model.serving
    if not serving.direct_seconds or not serving.computes or served is None:
        return False
    version, feature_ms, written_ms = newest
    return version == served.version and now_ms - min(feature_ms, written_ms) <= 1000 * serving.direct_seconds


def nothing(reason: Reason) -> Found:
    """When the store was not heard."""
    return Found(None, (), reason)


_COLD, _DAMAGED, _RESHAPED = nothing("cold"), nothing("damaged"), nothing("reshaped")
_WITHDRAWN, _EXPIRED = nothing("withdrawn"), nothing("expired")


def shape(model: Model, served: Served | None) -> tuple[int, int]:
    """[K, D] of the answers: of what is served; until that is known, of the recipe."""
    return (model.num_embeddings, model.dim) if served is None else (served.num_embeddings, served.dim)


def origin(model: Model, what: Found, computation: Computation) -> Origin:
    """Where an answer comes from."""
    if what.entries is None:
        return "default"
    if what.is_direct:
        return "direct"
    mode = model.serving.mode
    if mode == "realtime":
        return "realtime" if computation == "computed" else "failover"
    return "store" if mode == "async" else mode


def answer(
    model: Model, served: Served | None, user: int, what: Found, *, computation: Computation, now_ms: float
) -> Answer:
    """computation: of the request's own inference, where the mode has one and no direct hit replaces it."""
    if not model.serving.computes:
        computation = "off"
    elif what.is_direct:
        computation = "skipped"
    version = None if served is None else served.version
    if what.entries is None:
        zeros = np.zeros(shape(model, served), np.float16)
        return Answer(
            model=model.name, user=user, vectors=zeros, origin="default", reason=what.reason, computation=computation,
            served_version=version,
        )  # fmt: skip
    versions, feature_ms, written_ms = zip(*what.heads, strict=True)
    return Answer(
        model=model.name,
        user=user,
        vectors=Record(what.entries).pooled(),
        origin=origin(model, what, computation),
        computation=computation,
        versions=versions,
        feature_ms=feature_ms,
        ages_seconds=tuple([max(now_ms - one, 0.0) / 1000 for one in written_ms]),
        served_version=version,
    )
