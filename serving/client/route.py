"""Which server has a partition: always the same one, or a node of a cluster, asked for when it has changed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

import redis

from serving.client.outbox import LOAD
from serving.client.wire import BrokenError, Target
from serving.connection import connect, is_cluster
from serving.keys import SERVED, Keys

_DISCOVERY_SECONDS = 2.0


class HasTarget(Protocol):
    """Connections to a server."""

    target: Target


P = TypeVar("P", bound=HasTarget)


@dataclass(frozen=True, kw_only=True)
class Route:
    """partitions: the server of each. served: the one that knows what is served."""

    partitions: tuple[Target, ...]
    served: Target

    @staticmethod
    def find(url: str, keys: Keys) -> Route:
        """Asks a cluster; not to be called where a request waits. BrokenError: no node of it answers."""
        target = Target.of(url)
        if not is_cluster(url):
            return Route(partitions=(target,) * keys.partitions, served=target)
        try:
            with connect(url, timeout_seconds=_DISCOVERY_SECONDS) as cluster:
                assert isinstance(cluster, redis.RedisCluster)
                nodes = [
                    cluster.get_node_from_key(key)  # type: ignore[no-untyped-call]
                    for key in [SERVED, *(keys.requests("", partition) for partition in range(keys.partitions))]
                ]
        except (redis.RedisError, redis.exceptions.RedisClusterException) as error:
            raise BrokenError(f"no node of the cluster at {target!r} answers: {error}") from error
        targets = [target.at(node.host, node.port) for node in nodes if node is not None]
        if len(targets) < len(nodes):
            raise BrokenError(f"the cluster at {target!r} has slots without a node")
        return Route(partitions=tuple(targets[1:]), served=targets[0])


@dataclass(frozen=True, kw_only=True)
class Servers(Generic[P]):
    """Connections. reads, sends: of each partition, those that read and those that enqueue. served: who tells."""

    reads: tuple[P, ...]
    sends: tuple[P, ...]
    served: P

    @staticmethod
    def of(route: Route, make: Callable[[Target], P], earlier: Servers[P] | None) -> Servers[P]:
        """Of every server of `route`; those that `earlier` had are kept."""
        known = {} if earlier is None else {pool.target: pool for pool in earlier.all}
        senders = [target.then(LOAD) for target in route.partitions]
        for target in {*route.partitions, *senders, route.served} - set(known):
            known[target] = make(target)
        return Servers(
            reads=tuple(known[target] for target in route.partitions),
            sends=tuple(known[target] for target in senders),
            served=known[route.served],
        )

    def left_by(self, later: Servers[P]) -> set[P]:
        """Those that `later` has no more."""
        return self.all - later.all

    @property
    def all(self) -> set[P]:
        """Each once."""
        return {*self.reads, *self.sends, self.served}
