"""A worker whose tower's tables lie with shards: the same vectors, and nothing lost while a shard is gone."""

from __future__ import annotations

import numpy as np

from serving.compute.champions import Load
from serving.shards.partition import Share
from serving.shards.server import ShardServer
from serving.shards.sharded_snapshot import embedders
from serving.store import Store
from tests.serving.compute.world import NOW_MS, World, expected, request, stored, wait_until, working
from tests.serving.shards.world import addresses, serving

FIRST, LATER = list(range(1, 30)), list(range(50, 60))


def waits(store: Store) -> int:
    """Entries that are not done."""
    found: int = store.redis.xlen(store.keys.requests("tiny", 0))  # type: ignore[assignment]
    return found


def test_what_a_shard_is_missing_for_waits_until_it_is_back(world: World, store: Store) -> None:
    with serving(world.settings, 2) as servers:
        load: Load = embedders({"tiny": addresses(servers)})
        store.enqueue([request(user) for user in FIRST])
        with working(world, store, load=load) as worker:
            wait_until(lambda: waits(store) == 0)
            for user, vectors in zip(FIRST, expected(world.versions[0], FIRST), strict=True):
                (record,) = store.read(user, ("tiny",))
                assert record is not None
                np.testing.assert_array_equal(record.entries["vectors"][0], vectors)
            port = servers[1].port
            servers[1].shutdown()
            store.enqueue([request(user) for user in LATER])
            wait_until(lambda: worker.statistics.snapshot().get("store_errors", {}).get("", 0) > 0)
            assert waits(store) == len(LATER)
            assert stored(store, LATER) == [[]] * len(LATER)
            servers[1] = ShardServer(world.settings.artifacts / "tiny", Share(index=1, of=2), port=port)
            wait_until(lambda: waits(store) == 0)
        assert stored(store, LATER) == [[(1, NOW_MS)]] * len(LATER)
