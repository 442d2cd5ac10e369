"""TorchRec's planner, run without ranks or GPUs: a model on meta and a cluster -> where every shard goes."""

from __future__ import annotations

import copy
from typing import Any

from torch import nn
from torchrec.distributed.planner import EmbeddingShardingPlanner, ParameterConstraints, Topology
from torchrec.distributed.planner.enumerators import EmbeddingEnumerator
from torchrec.distributed.planner.shard_estimators import EmbeddingPerfEstimator, EmbeddingStorageEstimator
from torchrec.distributed.planner.types import (
    PlannerError,
    ShardingOption,
    Stats,
    Storage,
    StorageReservation,
)
from torchrec.distributed.types import ModuleSharder, PipelineType

from trainer.planning.cluster import Cluster
from trainer.planning.dense import DensePart
from trainer.planning.misfit import explain, require_room
from trainer.planning.planned import PlannedModel, planned_table
from trainer.planning.proposer import HalvingProposer
from trainer.planning.quiet import quiet
from trainer.planning.rules import SHARDING_TYPES, FusedTableSharder, constraints, tables_of

_MILLISECONDS = 1000


def plan_tables(
    model: nn.Module, cluster: Cluster, *, dense: DensePart, batch_size: int, ids_per_feature: float
) -> PlannedModel:
    """Plan the tables of every EmbeddingBagCollection in `model`, on any device, meta included.

    batch_size: examples per rank and step. ids_per_feature: mean length of an id list. Pure: the same arguments
    give the same plan in every process, whatever its hash seed, so each rank plans for itself and an error reaches
    all of them at once (on rank 0 alone, inside `collective_plan`, it would hang the others).

    DoesNotFitError says what does not fit, by how much, and what to do.
    """
    available = require_room(model, cluster, dense)
    rules = constraints(model, cluster, ids_per_feature=ids_per_feature)
    topology, storage = _topology(cluster), _storage(cluster, available)
    found = _BestPlan()
    enumerator = _enumerator(topology, rules, batch_size)
    planner = EmbeddingShardingPlanner(
        topology=topology,
        batch_size=batch_size,
        enumerator=enumerator,
        storage_reservation=_Reserved(storage),
        proposer=HalvingProposer(storage, world_size=cluster.world_size),
        stats=found,
        constraints=rules,
    )
    with quiet():
        try:
            sharding = planner.plan(model, [FusedTableSharder()])
        except PlannerError as error:
            options = enumerator.enumerate(model, [FusedTableSharder()])
            raise explain(options, error, cluster, available=available) from error
    chosen = {(option.path, option.name): option for option in found.options}
    return PlannedModel(
        cluster=cluster,
        batch_size=batch_size,
        ids_per_feature=ids_per_feature,
        dense=dense,
        tables=tuple(
            planned_table(chosen[path, table.name]) for path, tables in tables_of(model).items() for table in tables
        ),
        sharding=sharding,
    )


def _topology(cluster: Cluster) -> Topology:
    hardware = cluster.hardware
    with quiet():
        return Topology(
            world_size=cluster.world_size,
            local_world_size=cluster.ranks_per_host,
            compute_device=hardware.device,
            hbm_cap=hardware.hbm_bytes,
            ddr_cap=hardware.ddr_bytes // cluster.ranks_per_host,
            # TorchRec counts bytes per millisecond.
            hbm_mem_bw=hardware.memory_bandwidth / _MILLISECONDS,
            ddr_mem_bw=hardware.memory_bandwidth / _MILLISECONDS,
            intra_host_bw=hardware.intra_host_bandwidth / _MILLISECONDS,
            inter_host_bw=hardware.inter_host_bandwidth / _MILLISECONDS,
        )


def _storage(cluster: Cluster, available: int) -> Storage:
    on_gpu = cluster.hardware.device == "cuda"
    ddr = cluster.hardware.ddr_bytes // cluster.ranks_per_host
    return Storage(hbm=available if on_gpu else 0, ddr=ddr if on_gpu else available)


class _Reserved(StorageReservation):  # type: ignore[misc]
    """Leaves each rank `available`. TorchRec's own reservations know nothing of CPU ranks, Adam or activations."""

    _percentage = 0.0  # read for the planner's error message

    def __init__(self, available: Storage) -> None:
        self._available = available
        self._reserved: Topology | None = None

    def reserve(self, topology: Topology, *_: Any, **__: Any) -> Topology:
        """The topology with what is left on each rank."""
        self._reserved = copy.deepcopy(topology)
        for device in self._reserved.devices:
            device.storage = copy.deepcopy(self._available)
        return self._reserved

    @property
    def last_reserved_topology(self) -> Topology | None:
        """Of the last `reserve`."""
        return copy.deepcopy(self._reserved)


class _BestPlan(Stats):  # type: ignore[misc]
    """Keeps the options of the best plan, with the estimates per shard; TorchRec would log a page instead."""

    def __init__(self) -> None:
        self.options: list[ShardingOption] = []

    def log(self, *_: Any, best_plan: list[ShardingOption], **__: Any) -> None:
        """Called by the planner at its end."""
        self.options = best_plan


class _OrderedEnumerator(EmbeddingEnumerator):  # type: ignore[misc]
    """TorchRec lists a table's sharding types in the order of a set of strings: another one in every process."""

    def enumerate(self, module: nn.Module, sharders: list[ModuleSharder[nn.Module]]) -> list[ShardingOption]:
        """The search space, coarsest types first."""
        options: list[ShardingOption] = super().enumerate(module, sharders)
        first = {option.fqn: index for index, option in reversed(list(enumerate(options)))}
        return sorted(options, key=lambda o: (first[o.fqn], SHARDING_TYPES.index(o.sharding_type)))


def _enumerator(topology: Topology, rules: dict[str, ParameterConstraints], batch_size: int) -> EmbeddingEnumerator:
    return _OrderedEnumerator(
        topology=topology,
        batch_size=batch_size,
        constraints=rules,
        estimator=[
            EmbeddingPerfEstimator(topology=topology, constraints=rules),
            EmbeddingStorageEstimator(
                topology=topology,
                constraints=rules,
                pipeline_type=PipelineType.TRAIN_SPARSE_DIST,
                run_embedding_at_peak_memory=True,
            ),
        ],
    )
