"""What an answer looks like: JSON, or MessagePack with the vectors as they are kept."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
import numpy as np
from msgspec import Meta

from serving.client.answer import Answer, Computation, Origin, Reason
from serving.times import moment

if TYPE_CHECKING:
    from starlette.types import Scope

JSON = "application/json"
MSGPACK = "application/msgpack"


class Pooled(msgspec.Struct, frozen=True):
    """One computed vector that is in the mean."""

    version: Annotated[int, Meta(description="Of the user model.", examples=[5])]
    feature_time: Annotated[
        datetime, Meta(description="When its features were so.", examples=["2026-01-05T12:00:00.250Z"])
    ]
    age_seconds: Annotated[float, Meta(description="Since it was computed, by the store's clock.", examples=[0.8])]


class Embeddings(msgspec.Struct, frozen=True):
    """A user's embeddings of one user model, and where they came from."""

    vectors: Annotated[
        list[list[float]],
        Meta(
            description="K rows of D numbers, the mean of `pooled`. In MessagePack: K * D little-endian float16 as "
            "binary, row after row."
        ),
    ]
    num_embeddings: Annotated[int, Meta(description="K", examples=[2])]
    dim: Annotated[int, Meta(description="D", examples=[96])]
    default: Annotated[bool, Meta(description="Nothing of the user could be served: the vectors are zeros.")]
    origin: Annotated[
        Origin,
        Meta(
            description="store: what earlier requests had computed. direct: the same, so young that nothing is "
            "computed now. realtime: this request's own. failover: that came too late or failed, so these are the "
            "earlier ones. frozen: as store, by a model that stays what it is. batch: loaded, not computed on "
            "request. default: zeros."
        ),
    ]
    reason: Annotated[
        Reason,
        Meta(
            description="found; else why the default. cold: nothing is kept of the user. withdrawn, expired, reshaped: "
            "what is kept is of versions taken back, too old, of another K or D. damaged: it is no record. late: the "
            "store did not answer in time. unavailable: it cannot be reached."
        ),
    ]
    computation: Annotated[
        Computation,
        Meta(description="Of this request's own inference, as known now; queued, and after that in the metrics."),
    ]
    served_version: Annotated[int | None, Meta(description="What computes now; null while not known.", examples=[5])]
    pooled: Annotated[list[Pooled], Meta(description="Newest features first, three at most; empty for a default.")]


class Answered(msgspec.Struct, frozen=True):
    """Everything that was asked for, by user model."""

    user_id: int
    embeddings: dict[str, Embeddings]


def encoded(scope: Scope, user: int, answers: Iterable[Answer]) -> tuple[str, bytes]:
    """Media type and body, MessagePack where the request accepts that and not JSON by name."""
    accepted = b",".join(value for name, value in scope["headers"] if name == b"accept")
    binary = b"msgpack" in accepted and b"json" not in accepted
    answered = Answered(user, {answer.model: _embeddings(answer, binary=binary) for answer in answers})
    return (MSGPACK, msgspec.msgpack.encode(answered)) if binary else (JSON, msgspec.json.encode(answered))


def _embeddings(answer: Answer, *, binary: bool) -> Embeddings:
    vectors: Any = np.ascontiguousarray(answer.vectors, "<f2").tobytes() if binary else answer.vectors.tolist()
    return Embeddings(
        vectors=vectors,
        num_embeddings=answer.vectors.shape[0],
        dim=answer.vectors.shape[1],
        default=answer.is_default,
        origin=answer.origin,
        reason=answer.reason,
        computation=answer.computation,
        served_version=answer.served_version,
        pooled=[
            Pooled(version, moment(feature_ms), round(age, 3))
            for version, feature_ms, age in zip(answer.versions, answer.feature_ms, answer.ages_seconds, strict=True)
        ],
    )
