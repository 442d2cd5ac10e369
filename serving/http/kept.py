"""What the store has of one user, as the user's page shows it, and what a request would get now. Computes nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from serving.client import policy
from serving.record import Record, RecordError

if TYPE_CHECKING:
    from serving.client.answer import Answer
    from serving.client.model import Model
    from serving.served import Served
    from serving.store import AsyncStore


@dataclass(frozen=True, kw_only=True)
class Kept:
    """Of one model."""

    model: Model
    served: Served | None
    """What the compute center serves; None: nothing yet."""
    record: Record | None
    ttl_seconds: float | None
    """Until the record goes; None: there is none, or it stays."""
    answer: Answer
    """What a request would get now; a real-time one, without its own computation."""
    features_ms: int | None
    """Of the features that are known of the user; None: none are, and nothing can be computed until some come."""
    is_queued: bool
    """A request of the user waits to be computed."""
    now_ms: int
    """By the store's clock."""


async def kept_of(store: AsyncStore, models: Mapping[str, Model], user: int) -> list[Kept]:
    """Of every model. redis.RedisError, OSError."""
    served, now_ms = await store.served(), await _now_ms(store)
    async with store.redis.pipeline(transaction=False) as pipeline:
        for model in models.values():
            record = store.keys.record(model.name, user)
            await pipeline.get(record)
            await pipeline.pttl(record)
            await pipeline.getrange(store.keys.features(model.source, user), 0, 7)
            await pipeline.exists(store.keys.queued(model.source, user))
        found = await pipeline.execute()
    return [
        _kept(model, served.get(model.name), user, found[4 * place : 4 * place + 4], now_ms)
        for place, model in enumerate(models.values())
    ]


def _kept(model: Model, served: Served | None, user: int, found: Sequence[Any], now_ms: int) -> Kept:
    value, ttl_ms, features, queued = found
    usable = policy.found(model, served, value, now_ms=now_ms)
    return Kept(
        model=model,
        served=served,
        record=_parsed(value),
        ttl_seconds=ttl_ms / 1_000 if ttl_ms >= 0 else None,
        answer=policy.answer(model, served, user, usable, computation="queued", now_ms=now_ms),
        features_ms=int.from_bytes(features, "little", signed=True) if len(features) == 8 else None,
        is_queued=bool(queued),
        now_ms=now_ms,
    )


def _parsed(value: bytes | None) -> Record | None:
    try:
        return None if value is None else Record.parse(value)
    except RecordError:
        return None


async def _now_ms(store: AsyncStore) -> int:
    found: Any = await store.redis.time()
    seconds, microseconds = next(iter(found.values())) if isinstance(found, dict) else found
    return int(1_000 * seconds + microseconds // 1_000)
