"""What a plan costs: memory and step per rank, balance, traffic."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from trainer.planning.cluster import Cluster
from trainer.planning.misfit import margin_bytes
from trainer.planning.planned import PlannedModel
from trainer.planning.traffic import Traffic, traffic

_BACKWARD = 3
"""FLOPs of forward and backward over those of forward."""
_MILLISECONDS = 1000


@dataclass(frozen=True, kw_only=True)
class RankForecast:
    """One rank. `limit_bytes` is its whole memory."""

    rank: int
    num_shards: int
    table_bytes: int
    optimizer_bytes: int
    io_bytes: int
    """Ids in flight and pooled output of its tables."""
    dense_bytes: int
    """Weights, gradients, buckets, Adam's state."""
    activation_bytes: int
    batch_bytes: int
    margin_bytes: int
    limit_bytes: int
    lookup_ms: float
    """Table kernels, forward and backward."""
    exchange_ms: float
    """Pooled output and gradient on the wire."""
    dense_ms: float
    """The dense part's FLOPs and the all-reduce of its gradients."""
    traffic: Traffic

    @property
    def used_bytes(self) -> int:
        """Everything but the margin."""
        return (
            self.table_bytes
            + self.optimizer_bytes
            + self.io_bytes
            + self.dense_bytes
            + self.activation_bytes
            + self.batch_bytes
        )

    @property
    def step_ms(self) -> float:
        """Nothing overlapped: an upper bound, good for comparing ranks and plans."""
        return self.lookup_ms + self.exchange_ms + self.dense_ms


@dataclass(frozen=True, kw_only=True)
class Forecast:
    """All ranks."""

    ranks: tuple[RankForecast, ...]

    @property
    def step_ms(self) -> float:
        """The slowest rank's: the others wait for it."""
        return max(rank.step_ms for rank in self.ranks)

    @property
    def memory_balance(self) -> float:
        """Largest over mean; 1 is perfect."""
        return _balance([rank.used_bytes for rank in self.ranks])

    @property
    def step_balance(self) -> float:
        """Of the tables' part of the step: largest over mean; 1 is perfect."""
        return _balance([rank.lookup_ms + rank.exchange_ms for rank in self.ranks])


def forecast(planned: PlannedModel) -> Forecast:
    """What the plan costs on each rank, by TorchRec's estimators and our own counts."""
    sent = traffic(planned)
    shards = [shard for table in planned.tables for shard in table.shards if shard.num_rows]
    dense, cluster = planned.dense, planned.cluster
    ranks = []
    for rank in range(cluster.world_size):
        own = [shard for shard in shards if shard.rank == rank]
        ranks.append(
            RankForecast(
                rank=rank,
                num_shards=len(own),
                table_bytes=sum(shard.weight_bytes for shard in own),
                optimizer_bytes=sum(shard.optimizer_bytes for shard in own),
                io_bytes=sum(shard.io_bytes for shard in own),
                dense_bytes=dense.state_bytes,
                activation_bytes=dense.activation_bytes,
                batch_bytes=dense.pipeline_bytes,
                margin_bytes=margin_bytes(cluster),
                limit_bytes=cluster.rank_bytes,
                lookup_ms=sum(shard.lookup_ms for shard in own),
                exchange_ms=sum(shard.exchange_ms for shard in own),
                dense_ms=_dense_ms(dense.forward_flops, sent[rank].dense_all_reduce, cluster),
                traffic=sent[rank],
            )
        )
    return Forecast(ranks=tuple(ranks))


def _dense_ms(forward_flops: int, all_reduce_bytes: float, cluster: Cluster) -> float:
    hardware = cluster.hardware
    bandwidth = hardware.intra_host_bandwidth
    if cluster.hosts > 1:
        # Rings run through all the network cards of a host at once.
        bandwidth = min(bandwidth, hardware.inter_host_bandwidth * cluster.ranks_per_host)
    return _MILLISECONDS * (_BACKWARD * forward_flops / hardware.dense_flops + all_reduce_bytes / bandwidth)


def _balance(values: Sequence[float]) -> float:
    mean = sum(values) / len(values)
    return max(values) / mean if mean else 1.0
