"""What the store has of one user, as the user's page shows it, and what a request would get now. Computes nothing."""

from __future__ import annotations

from collections.abc import Mapping
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
    now_ms: int
    """By the store's clock."""


async def kept_of(store: AsyncStore, models: Mapping[str, Model], user: int) -> list[Kept]:
    """Of every model. redis.RedisError, OSError."""
    served, now_ms = await store.served(), await _now_ms(store)
    async with store.redis.pipeline(transaction=False) as pipeline:
        for key in store.keys.records(tuple(models), user):
            await pipeline.get(key)
            await pipeline.pttl(key)
        found = await pipeline.execute()
    return [
        _kept(model, served.get(model.name), user, value, ttl_ms, now_ms)
        for model, value, ttl_ms in zip(models.values(), found[::2], found[1::2], strict=True)
    ]


def _kept(model: Model, served: Served | None, user: int, value: bytes | None, ttl_ms: int, now_ms: int) -> Kept:
    usable = policy.found(model, served, value, now_ms=now_ms)
    return Kept(
        model=model,
        served=served,
        record=_parsed(value),
        ttl_seconds=ttl_ms / 1_000 if ttl_ms >= 0 else None,
        answer=policy.answer(model, served, user, usable, computation="queued", now_ms=now_ms),
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
