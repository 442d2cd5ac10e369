"""Bytes that each rank sends per step: B examples on each of W ranks, tables of F features and dimension D.

| | ids | pooled output, and its gradient the other way |
|---|---|---|
| table-wise | to the owner | all-to-all: the owner sends B x F x D to each other rank |
| row-wise | each id to the owner of its row | reduce-scatter: each sends partial sums of B x F x D to each other |
| table-row-wise | each id to the owner, all on one host | reduce-scatter on that host, then all-to-all between hosts |

What a rank keeps for itself is no traffic. Ids are int64, lengths int32, vectors and gradients float32.
"""

from __future__ import annotations

from dataclasses import dataclass

from trainer.planning.planned import PlannedModel, PlannedTable
from trainer.planning.rules import ROW_WISE, TABLE_WISE

_ID, _LENGTH, _FLOAT = 8, 4, 4


@dataclass(frozen=True, kw_only=True)
class Traffic:
    """What one rank sends per step, in bytes."""

    input_all_to_all: float = 0.0
    """Ids and lengths."""
    output: float = 0.0
    """Pooled embeddings: all-to-all and reduce-scatter."""
    gradient: float = 0.0
    """Of the pooled embeddings: all-to-all and all-gather."""
    dense_all_reduce: float = 0.0
    """Of the dense part's gradients, as a ring."""

    @property
    def total(self) -> float:
        """All four."""
        return self.input_all_to_all + self.output + self.gradient + self.dense_all_reduce

    def __add__(self, other: Traffic) -> Traffic:
        return Traffic(
            input_all_to_all=self.input_all_to_all + other.input_all_to_all,
            output=self.output + other.output,
            gradient=self.gradient + other.gradient,
            dense_all_reduce=self.dense_all_reduce + other.dense_all_reduce,
        )


def traffic(planned: PlannedModel) -> tuple[Traffic, ...]:
    """Per rank."""
    world_size = planned.cluster.world_size
    dense = Traffic(dense_all_reduce=2 * (world_size - 1) / world_size * planned.dense.parameter_bytes)
    ranks = [dense] * world_size
    for table in planned.tables:
        for rank in range(world_size):
            ranks[rank] += _of_table(table, rank, planned)
    return tuple(ranks)


def _of_table(table: PlannedTable, rank: int, planned: PlannedModel) -> Traffic:
    world_size, per_host = planned.cluster.world_size, planned.cluster.ranks_per_host
    lists = planned.batch_size * table.num_features
    ids, lengths, vectors = lists * planned.ids_per_feature * _ID, lists * _LENGTH, lists * table.dim * _FLOAT
    owners = {shard.rank for shard in table.shards if shard.num_rows}
    others = owners - {rank}
    # Each owner gets its share of the ids, and every list's length.
    sent_ids = len(others) / len(owners) * ids + len(others) * lengths
    if table.sharding_type in (TABLE_WISE, ROW_WISE):
        output = (world_size - 1) * vectors if rank in owners else 0.0
        return Traffic(input_all_to_all=sent_ids, output=output, gradient=len(others) * vectors)
    hosts = planned.cluster.hosts
    on_owning_host = rank // per_host == min(owners) // per_host
    # On the owning host each rank ends with the sums of `hosts` ranks' batches: its own and its counterparts'.
    scattered = (per_host - 1) * hosts * vectors if on_owning_host else 0.0
    between_hosts = (hosts - 1) * vectors if on_owning_host else 0.0
    gradient = scattered if on_owning_host else vectors
    return Traffic(input_all_to_all=sent_ids, output=scattered + between_hosts, gradient=gradient)
