"""The smallest cluster that holds a model."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

from trainer.planning.cluster import Cluster
from trainer.planning.misfit import DoesNotFitError
from trainer.planning.planned import PlannedModel

_MOST_HOSTS = 256


def candidates(cluster: Cluster) -> Iterator[Cluster]:
    """1, 2, 4 … ranks in one host of this kind, then 2, 3, 4 … full hosts."""
    ranks = 1
    while ranks < cluster.ranks_per_host:
        yield replace(cluster, hosts=1, ranks_per_host=ranks)
        ranks *= 2
    for hosts in range(1, _MOST_HOSTS + 1):
        yield replace(cluster, hosts=hosts)


def smallest_cluster(cluster: Cluster, plan: Callable[[Cluster], PlannedModel]) -> Cluster | None:
    """The first candidate that `plan` finds a plan for; None when 256 hosts are too few, or no number of
    hosts is enough, as for a dense part that is too large for one rank. Most refusals are a sum, without a search."""
    for candidate in candidates(cluster):
        try:
            plan(candidate)
        except DoesNotFitError as error:
            if not error.more_hosts_help and candidate.ranks_per_host == cluster.ranks_per_host:
                return None
            continue
        return candidate
    return None
