"""A predictor's word on its way to the queue, without what is computed already and will live a while."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterable, Sequence

from serving.compute.queue import store_ms
from serving.record import RecordError
from serving.solaris.interfaces import Likely
from serving.solaris.record import PairRecord
from serving.solaris.store import PairStore, values_of

PAIRS_AT_ONCE = 4_096


def enqueue_likely(store: PairStore, pairs: Iterable[Likely]) -> Counter[str]:
    """Queue those of `pairs` that the store has no representation of, or one that is nearing the end of its time; what
    became of them (`PairStore.enqueue`), and how many were `fresh`. Pairs of a user should come together.
    """
    found, rest = Counter[str](), iter(pairs)
    while part := list(itertools.islice(rest, PAIRS_AT_ONCE)):
        due = _due(store, part)
        found += store.enqueue(due) + Counter(fresh=len(part) - len(due))
    return found


def _due(store: PairStore, pairs: Sequence[Likely]) -> list[Likely]:
    users = list({pair.user for pair in pairs})
    values = values_of(store.redis, [store.keys.user(user) for user in users])
    now_ms = store_ms(store.redis)
    fresh = {user: _fresh(store, value, now_ms) for user, value in zip(users, values, strict=True) if value is not None}
    return [pair for pair in pairs if pair.item not in fresh.get(pair.user, ())]


def _fresh(store: PairStore, value: bytes, now_ms: float) -> set[int]:
    """Items whose representations need not be computed again yet."""
    try:
        record = PairRecord.parse(value)
    except RecordError:
        return set()
    young = record.alive(now_ms=now_ms, ttl_seconds=store.model.fresh_seconds, width=store.model.width)
    return set(young["member"].tolist())
