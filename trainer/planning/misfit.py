"""Why a model does not fit a cluster: which part, which table, how many bytes over, and what helps."""

from __future__ import annotations

import re
from collections.abc import Sequence

import torch
from torch import nn
from torchrec.distributed.planner.types import PlannerError, ShardingOption

from trainer.planning.cluster import GB, Cluster
from trainer.planning.dense import DensePart
from trainer.planning.rules import TABLE_WISE, table_bytes, tables_of

MARGIN = 0.10
"""Of a rank's memory, for what no estimate counts: the CUDA context, NCCL's buffers, the allocator's holes; on CPU
the process itself and the reader."""


class DoesNotFitError(ValueError):
    """The cluster is too small for the model. `more_hosts_help`: or its ranks are, however many there are."""

    def __init__(self, message: str, *, more_hosts_help: bool = True) -> None:
        super().__init__(message)
        self.more_hosts_help = more_hosts_help


def reserved_bytes(cluster: Cluster, dense: DensePart) -> int:
    """What a rank needs before its first table: dense part, activations, batches in flight, margin."""
    return dense.state_bytes + dense.activation_bytes + dense.pipeline_bytes + margin_bytes(cluster)


def margin_bytes(cluster: Cluster) -> int:
    """The margin of one rank."""
    return int(MARGIN * cluster.rank_bytes)


def require_room(model: nn.Module, cluster: Cluster, dense: DensePart) -> int:
    """What each rank has left for tables. DoesNotFitError when that is not enough whatever the plan."""
    reserved = reserved_bytes(cluster, dense)
    available = cluster.rank_bytes - reserved
    if available < 0:
        raise DoesNotFitError(
            f"does not fit {cluster}: the dense part alone needs {_gb(reserved)} on every rank (weights and Adam's "
            f"state {_gb(dense.state_bytes)}, activations {_gb(dense.activation_bytes)}, batches "
            f"{_gb(dense.pipeline_bytes)}, margin {_gb(margin_bytes(cluster))}), {_gb(-available)} over; use ranks "
            "with more memory or a smaller batch size",
            more_hosts_help=False,
        )
    needed = sum(
        table_bytes(table) + table.num_embeddings * torch.float32.itemsize
        for tables in tables_of(model).values()
        for table in tables
    )
    total = available * cluster.world_size
    if needed > total:
        raise DoesNotFitError(
            f"does not fit {cluster}: the tables and their optimizer need {_gb(needed)}, the ranks have {_gb(total)} "
            f"left for them ({_gb(available)} each, {_gb(reserved)} reserved for the dense part), "
            f"{_gb(needed - total)} over; use more ranks or ranks with more memory"
        )
    return available


def explain(
    options: Sequence[ShardingOption], error: PlannerError, cluster: Cluster, *, available: int
) -> DoesNotFitError:
    """The planner's refusal in one sentence."""
    smallest: dict[str, tuple[int, ShardingOption]] = {}
    for option in options:
        shard = max(s.storage.hbm + s.storage.ddr for s in option.shards)
        if option.name not in smallest or shard < smallest[option.name][0]:
            smallest[option.name] = (shard, option)
    shard, option = max(smallest.values(), key=lambda found: found[0])
    if shard > available:
        whole = option.sharding_type == TABLE_WISE
        return DoesNotFitError(
            f"does not fit {cluster}: table {option.name} ({_gb(_weight_bytes(option))}) needs {_gb(shard)} on one "
            f"rank even {option.sharding_type}, an empty rank has {_gb(available)}, {_gb(shard - available)} over; "
            f"use {'' if whole else 'more ranks, '}ranks with more memory, fewer rows or a smaller batch size",
            more_hosts_help=not whole,
        )
    needed = sum(
        min(sum(s.storage.hbm + s.storage.ddr for s in o.shards) for o in options if o.name == name)
        for name in smallest
    )
    total = available * cluster.world_size
    if needed > total:
        return DoesNotFitError(
            f"does not fit {cluster}: the tables with optimizer, ids and pooled output need {_gb(needed)}, the ranks "
            f"have {_gb(total)} left for them ({_gb(available)} each), {_gb(needed - total)} over; use more ranks, "
            "ranks with more memory or a smaller batch size"
        )
    named = re.search(r"table ([^\s,]+)", str(error))
    left = f"no rank has room left for table {named[1]}" if named else "the last tables find no rank with room"
    return DoesNotFitError(
        f"does not fit {cluster}: {left}; the tables need {_gb(needed)} of {_gb(total)}, but not in these pieces; "
        "use more ranks or ranks with more memory"
    )


def _weight_bytes(option: ShardingOption) -> int:
    return int(option.tensor.numel() * option.tensor.element_size())


def _gb(num_bytes: float) -> str:
    return f"{num_bytes / GB:.3g} GB" if num_bytes < 100 * GB else f"{num_bytes / GB:,.0f} GB"
