"""Pairs in the feature store: merged atomically, read in one go, queued by priority."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import redis
from numpy.typing import NDArray

from serving.calls import Call, Script
from serving.connection import told
from serving.keys import ONE_SERVER, Keys
from serving.solaris.interfaces import Likely
from serving.solaris.keys import ANNOUNCED, PairKeys, packed
from serving.solaris.model import PairModel
from serving.solaris.record import PairRecord, entry_type, header
from serving.solaris.scripts import ENQUEUE_PAIRS, MERGE_PAIRS
from serving.store import milliseconds

_MERGE, _ENQUEUE = Script(MERGE_PAIRS), Script(ENQUEUE_PAIRS)
RECORDS_PER_CALL = 16
"""The store does nothing else while a call runs."""
PAIRS_PER_CALL = 128
MOST_PRIORITY = float(np.finfo(np.float32).max)
"""Records hold it in float32."""
_OUTCOMES = {1: "queued", 0: "coalesced", -1: "shed", -2: "no_features", -3: "outranked"}


@dataclass(frozen=True, kw_only=True)
class Represented:
    """Representations on their way to the store. users, items: [P] int64. entries: [P] of `record.entry_type`, their
    members and write times of no meaning yet."""

    users: NDArray[np.int64]
    items: NDArray[np.int64]
    entries: NDArray[Any]

    @staticmethod
    def of(
        pairs: Sequence[Likely], vectors: NDArray[np.float16], *, version: int, feature_ms: NDArray[np.int64]
    ) -> Represented:
        """vectors: [P, E]; feature_ms: [P], of the users' features."""
        entries = np.zeros(len(pairs), entry_type(vectors.shape[1]))
        entries["version"], entries["feature_ms"], entries["vector"] = version, feature_ms, vectors
        entries["priority"] = [one.priority for one in pairs]
        users, items = (np.array([one[at] for one in pairs], np.int64) for at in (0, 1))
        return Represented(users=users, items=items, entries=entries)


@dataclass(frozen=True, kw_only=True)
class Written:
    """Of a write, in the users' records: how many pairs are kept, how many had features from the future."""

    kept: int
    future: int


def announced(client: redis.Redis) -> dict[str, PairModel]:
    """What workers told, by name. ValueError for what no release of them tells."""
    found: Any = client.hgetall(ANNOUNCED)
    try:
        return {name.decode(): PairModel(**json.loads(text)) for name, text in found.items()}
    except (TypeError, ValueError) as error:
        raise ValueError(f"{ANNOUNCED} says of the pairs' models: {error}; start their workers again") from error


def values_of(client: redis.Redis, names: Sequence[str]) -> list[bytes | None]:
    """Of keys of any slot: one round trip for all. What is no string is as if it were not there."""
    pipeline: Any
    with client.pipeline(transaction=False) as pipeline:
        for name in names:
            pipeline.get(name)
        found = [told(one) if isinstance(one, Exception) else one for one in pipeline.execute(raise_on_error=False)]
    for one in found:
        if isinstance(one, Exception) and not str(one).startswith("WRONGTYPE"):
            raise one
    return [None if isinstance(one, Exception) else one for one in found]


class PairStore:
    """Of one foundation model. client: of redis-py, one server or a cluster, which hands out bytes."""

    def __init__(self, client: redis.Redis, model: PairModel, keys: Keys = ONE_SERVER) -> None:
        self.redis, self.model, self.keys = client, model, PairKeys(model=model.name, keys=keys)

    def read(self, user: int) -> PairRecord | None:
        """The user's pairs. RecordError for a value that is no record."""
        (value,) = values_of(self.redis, [self.keys.user(user)])
        return None if value is None else PairRecord.parse(value)

    def announce(self) -> None:
        """Tell everybody how the pairs of this model are kept."""
        self.redis.hset(ANNOUNCED, self.model.name, json.dumps(asdict(self.model)))

    def write(self, given: Represented) -> Written:
        """Merge them into the records of their users and of their items."""
        mine, others = given.entries.copy(), given.entries.copy()
        mine["member"], others["member"] = given.items, given.users
        calls = self._merges(given.users, mine, key_of=self.keys.user, most=self.model.most_pairs)
        num_own = len(calls)
        calls += self._merges(given.items, others, key_of=self.keys.item, most=self.model.most_neighbours)
        found = [number for one in _MERGE.run(self.redis, calls)[:num_own] for number in one]
        return Written(kept=sum(found[::2]), future=sum(found[1::2]))

    def _merges(
        self, owners: NDArray[np.int64], entries: NDArray[Any], *, key_of: Callable[[int], str], most: int
    ) -> list[Call]:
        """Calls of MERGE_PAIRS: an owner's entries together, some owners of one partition in a call."""
        order = np.argsort(owners, kind="stable")
        unique, begins = np.unique(owners[order], return_index=True)
        ends = [*begins[1:].tolist(), len(order)]
        partitions = self.keys.keys.partitions_of(unique)
        head = [
            milliseconds(self.model.future_seconds), milliseconds(self.model.ttl_seconds), header(self.model.width)
        ]  # fmt: skip
        calls: list[Call] = []
        for partition in np.unique(partitions).tolist():
            inside = np.flatnonzero(partitions == partition).tolist()
            for start in range(0, len(inside), RECORDS_PER_CALL):
                part = inside[start : start + RECORDS_PER_CALL]
                arguments: list[Any] = list(head)
                for at in part:
                    arguments += [most, entries[order[begins[at] : ends[at]]].tobytes()]
                calls.append(([key_of(int(unique[at])) for at in part], arguments))
        return calls

    def enqueue(self, pairs: Iterable[Likely]) -> Counter[str]:
        """Queue them for computation: how many were queued, coalesced (they wait already, or are worked on), shed, they
        or others of lower priority, of users without features, and outranked: the user's full record would not keep
        them. ValueError for a priority that is not a finite
        float32.
        """
        waiting: dict[int, list[Likely]] = {}
        for pair in pairs:
            if not abs(pair.priority) <= MOST_PRIORITY:
                raise ValueError(f"{pair}: the priority is a finite number that float32 holds")
            waiting.setdefault(self.keys.keys.partition(pair.user), []).append(pair)
        calls = [
            self._enqueues(partition, of_it[begin : begin + PAIRS_PER_CALL])
            for partition, of_it in waiting.items()
            for begin in range(0, len(of_it), PAIRS_PER_CALL)
        ]
        became = Counter(code for answer in _ENQUEUE.run(self.redis, calls) for code in answer)
        became[1], became[-1] = became[1] + became[2], became[-1] + became[2]
        return Counter({name: became[code] for code, name in _OUTCOMES.items() if became[code]})

    def _enqueues(self, partition: int, pairs: Sequence[Likely]) -> Call:
        """A call of ENQUEUE_PAIRS."""
        keys, places = self.keys, dict[int, int]()
        arguments: list[Any] = [
            max(self.model.longest_queue // keys.keys.partitions, 1), self.model.most_pairs,
            self.model.width, milliseconds(self.model.fresh_seconds),
        ]  # fmt: skip
        for user, item, priority in pairs:
            arguments += [packed(user, item), float(priority), places.setdefault(user, len(places) + 1)]
        features = keys.keys.features_of(self.model.source, list(places), partition)
        records = map(keys.user, places)
        return [keys.queue(partition), keys.leases(partition), keys.held(partition), *features, *records], arguments
