"""What is answered, from what the store holds (Table 2's modes, ERCache's two caches): no I/O, no clock, no state."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from serving.client.answer import Answer, Computation, Origin, Reason
from serving.client.model import Model
from serving.record import Record, RecordError
from serving.served import Served


@dataclass(frozen=True, slots=True)
class Found:
    """What of a stored value may be served. entries: as `Record.entries`; None: nothing, for `reason`."""

    entries: NDArray[Any] | None
    reason: Reason = "found"
    is_direct: bool = False
    """Whether it is so young, and of the version that is served, that nothing need be computed. What a load has just
    written is of features that are not young."""


def found(model: Model, served: Served | None, value: bytes | None, *, now_ms: float) -> Found:
    """Of the store's bytes of a user, now by the store's clock."""
    if value is None:
        return _COLD
    try:
        record = Record.parse(value)
    except RecordError:
        return _DAMAGED
    entries = record.entries
    if entries.dtype["vectors"].shape != shape(model, served):
        return _RESHAPED
    if served is not None and served.withdrawn:
        kept = record.without(frozenset(served.withdrawn))
        if kept is None:
            return _WITHDRAWN
        entries = kept.entries
    if served is not None:
        entries = entries[: served.pooling_versions]
    newest = entries[0]
    serving = model.serving
    age_seconds = (now_ms - float(entries["write_ms"].max())) / 1000
    if age_seconds > serving.failover_seconds and serving.mode != "frozen":
        return _EXPIRED
    is_direct = (
        serving.direct_seconds > 0
        and served is not None
        and newest["version"] == served.version
        and (now_ms - float(min(newest["write_ms"], newest["feature_ms"]))) / 1000 <= serving.direct_seconds
    )
    return Found(entries, "found", bool(is_direct and serving.computes))


def nothing(reason: Reason) -> Found:
    """When the store was not heard."""
    return Found(None, reason)


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
    entries = what.entries
    if entries is None:
        zeros = np.zeros(shape(model, served), np.float16)
        return Answer(
            model=model.name, user=user, vectors=zeros, origin="default", reason=what.reason, computation=computation,
            served_version=version,
        )  # fmt: skip
    return Answer(
        model=model.name,
        user=user,
        vectors=Record(entries).pooled(),
        origin=origin(model, what, computation),
        computation=computation,
        versions=tuple(entries["version"].tolist()),
        feature_ms=tuple(entries["feature_ms"].tolist()),
        ages_seconds=tuple([max(now_ms - written, 0.0) / 1000 for written in entries["write_ms"].tolist()]),
        served_version=version,
    )
