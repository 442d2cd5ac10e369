"""`plan.json`: the sharding plan of a checkpoint, which the next day's job takes over while it still fits.

A plan decides where rows lie and in which order sums are added. Taken over, two days differ by their data alone.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import TypeAdapter, ValidationError
from torch.distributed._shard.metadata import ShardMetadata
from torch.distributed._shard.sharding_spec.api import EnumerableShardingSpec
from torch.distributed.remote_device import _remote_device
from torchrec.distributed.types import EmbeddingModuleShardingPlan, ParameterSharding, ShardingPlan
from torchrec.modules.embedding_configs import EmbeddingBagConfig

from trainer.planning.cluster import Cluster, Device

DOCUMENT = "plan.json"


@dataclass(frozen=True, kw_only=True)
class SavedShard:
    """A rectangle of a table, [rows, columns], and its place as torch writes it: `rank:1/cpu`."""

    offsets: tuple[int, int]
    sizes: tuple[int, int]
    placement: str


@dataclass(frozen=True, kw_only=True)
class SavedTable:
    """One table."""

    path: str
    """Of its EmbeddingBagCollection in the model."""
    name: str
    num_rows: int
    dim: int
    sharding_type: str
    compute_kernel: str
    ranks: tuple[int, ...]
    shards: tuple[SavedShard, ...]

    @property
    def shape(self) -> tuple[int, int]:
        """[rows, dim]."""
        return self.num_rows, self.dim


@dataclass(frozen=True, kw_only=True)
class SavedPlan:
    """A sharding plan, and what it was made for."""

    device: Device
    hosts: int
    ranks_per_host: int
    tables: tuple[SavedTable, ...]

    @classmethod
    def of(cls, plan: ShardingPlan, tables: Mapping[str, Sequence[EmbeddingBagConfig]], cluster: Cluster) -> SavedPlan:
        """The plan of the `tables` of every EmbeddingBagCollection, by its path."""
        saved = cls(
            device=cluster.hardware.device,
            hosts=cluster.hosts,
            ranks_per_host=cluster.ranks_per_host,
            tables=tuple(
                _saved_table(path, table, plan.plan[path][table.name])
                for path, configs in tables.items()
                for table in configs
            ),
        )
        assert saved.sharding_plan() == plan, "the document must hold all of a plan"
        return saved

    def sharding_plan(self) -> ShardingPlan:
        """As DistributedModelParallel takes it."""
        modules: dict[str, EmbeddingModuleShardingPlan] = {}
        for table in self.tables:
            modules.setdefault(table.path, EmbeddingModuleShardingPlan())[table.name] = ParameterSharding(
                sharding_type=table.sharding_type,
                compute_kernel=table.compute_kernel,
                ranks=list(table.ranks),
                sharding_spec=EnumerableShardingSpec(
                    [
                        ShardMetadata(
                            shard_offsets=list(shard.offsets),
                            shard_sizes=list(shard.sizes),
                            placement=_remote_device(shard.placement),
                        )
                        for shard in table.shards
                    ]
                ),
            )
        return ShardingPlan(modules)

    def to_json(self) -> str:
        """The document."""
        return _DOCUMENTS.dump_json(self, indent=1).decode()

    def summary(self) -> str:
        """In a line: `2 ranks on 1 host (cpu): 8 tables table_wise, 2 row_wise`."""
        ranks, hosts = self.hosts * self.ranks_per_host, self.hosts
        kinds = Counter(table.sharding_type for table in self.tables)
        tables = ", ".join(f"{count} {kind}" for kind, count in kinds.most_common())
        return f"{ranks} rank{'s' * (ranks > 1)} on {hosts} host{'s' * (hosts > 1)} ({self.device}), tables: {tables}"

    def to_csv(self) -> str:
        """A line per table."""
        lines = ["table,rows,dim,sharding,kernel,ranks"]
        for table in self.tables:
            ranks = " ".join(map(str, table.ranks))
            cells = (
                f"{table.path}/{table.name}",
                table.num_rows,
                table.dim,
                table.sharding_type,
                table.compute_kernel,
                ranks,
            )
            lines.append(",".join(map(str, cells)))
        return "\n".join(lines) + "\n"

    @classmethod
    def from_json(cls, text: str) -> SavedPlan:
        """What `to_json` wrote; ValueError for anything else."""
        try:
            return _DOCUMENTS.validate_json(text)
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(map(str, first["loc"]))
            raise ValueError(
                f"{DOCUMENT} is no sharding plan ({where}: {first['msg']}); train the day again"
            ) from error


_DOCUMENTS: TypeAdapter[SavedPlan] = TypeAdapter(SavedPlan)


def _saved_table(path: str, table: EmbeddingBagConfig, sharding: ParameterSharding) -> SavedTable:
    spec: Any = sharding.sharding_spec
    return SavedTable(
        path=path,
        name=table.name,
        num_rows=table.num_embeddings,
        dim=table.embedding_dim,
        sharding_type=sharding.sharding_type,
        compute_kernel=sharding.compute_kernel,
        ranks=tuple(sharding.ranks or ()),
        shards=tuple(
            SavedShard(
                offsets=tuple(shard.shard_offsets), sizes=tuple(shard.shard_sizes), placement=str(shard.placement)
            )
            for shard in spec.shards
        ),
    )


def why_not(saved: SavedPlan, tables: Mapping[str, Sequence[EmbeddingBagConfig]], cluster: Cluster) -> str | None:
    """What keeps `saved` from being taken over for these tables on this cluster; None when nothing does.

    The batch size does not: it moves costs, not rows.
    """
    if saved.device != cluster.hardware.device:
        return f"device {saved.device} -> {cluster.hardware.device}"
    if saved.hosts * saved.ranks_per_host != cluster.world_size:
        return f"world size {saved.hosts * saved.ranks_per_host} -> {cluster.world_size}"
    if saved.ranks_per_host != cluster.ranks_per_host:
        return f"ranks per host {saved.ranks_per_host} -> {cluster.ranks_per_host}"
    before = {(table.path, table.name): table.shape for table in saved.tables}
    now = {
        (path, table.name): (int(table.num_embeddings), int(table.embedding_dim))
        for path, configs in tables.items()
        for table in configs
    }
    changes = [
        _change(name, before.get((path, name)), now.get((path, name)))
        for path, name in dict.fromkeys([*before, *now])
        if before.get((path, name)) != now.get((path, name))
    ]
    return "; ".join(changes) or None


def _change(name: str, before: tuple[int, int] | None, now: tuple[int, int] | None) -> str:
    if before is None:
        return f"table {name} is new"
    if now is None:
        return f"table {name} is gone"
    if before[0] != now[0]:
        return f"table {name} rows {before[0]} -> {now[0]}"
    return f"table {name} dimension {before[1]} -> {now[1]}"
