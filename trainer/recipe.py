"""A recipe is the whole configuration of one user model; a consumer, of one downstream model.

Light to import: DAG files read recipes at parse time.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import date, timedelta
from typing import Literal

from features.schema import Schema, Table
from features.selection import Selection, check_selections
from features.source import Source
from trainer.gate import Gate
from trainer.serving import Serving
from trainer.stabilizers import Alignment, Regularizer, check_regularizers
from trainer.towers import MixTower, UserTower


@dataclass(frozen=True, kw_only=True)
class Task:
    """One supervision: a label column of the schema and its weight w_t in Eq. 8."""

    name: str
    weight: float = 1.0

    def __post_init__(self) -> None:
        if not self.weight > 0:
            raise ValueError(f"task {self.name}: weight is {self.weight}; weights are positive (Eq. 8)")


@dataclass(frozen=True, kw_only=True)
class Optimizer:
    """Adagrad inside backward for the tables, a fused optimizer for the dense part."""

    sparse_lr: float = 0.02
    dense_lr: float = 1e-3
    epsilon: float = 1e-8
    sparse: Literal["rowwise_adagrad", "adagrad"] = "rowwise_adagrad"
    """Row-wise keeps one number per row, and is twice as fast."""
    dense: Literal["adam", "adagrad"] = "adam"

    def __post_init__(self) -> None:
        for name in ("sparse_lr", "dense_lr", "epsilon"):
            if not getattr(self, name) > 0:
                raise ValueError(f"optimizer {name} is {getattr(self, name)}; it must be positive")


MAX_SHARDS = 1_000
"""Of a day's users: what Airflow maps one task to at most, as it is set up (core.max_map_length is 1024)."""

DeviceName = Literal["auto", "cpu", "cuda"]


@dataclass(frozen=True, kw_only=True)
class Compute:
    """What a GPU may round; the weights, and everything on a CPU, are float32."""

    matmul: Literal["fp32", "tf32", "bf16"] = "tf32"
    """The dense part: bf16 is autocast."""
    exchange: Literal["fp32", "fp16", "bf16"] = "fp32"
    """Pooled embeddings and their gradients between ranks."""


@dataclass(frozen=True, kw_only=True)
class Checkpoints:
    """How a day's state is stored: in full, or as an increment, the rows touched since it was last stored in full. What
    is loaded is the same to the bit."""

    full_every: int = 7
    """In full when that is so many days ago; 1: every day."""
    increment_max_share: float = 0.5
    """In full when an increment would take more than this share of the bytes."""

    def __post_init__(self) -> None:
        if self.full_every < 1:
            raise ValueError(f"checkpoints: full_every is {self.full_every} days; it is at least 1 (every day)")
        if not 0 <= self.increment_max_share <= 1:
            raise ValueError(f"checkpoints: increment_max_share is {self.increment_max_share}; it is in [0, 1]")


@dataclass(frozen=True, kw_only=True)
class Export:
    """How a snapshot holds the user tower; the dense part is float32."""

    tables: Literal["fp32", "fp16", "int8"] = "fp32"
    """int8: every row in 255 steps of its own, a quarter of the bytes, in memory too."""


@dataclass(frozen=True, kw_only=True)
class Inference:
    """How the day's users are embedded."""

    shards: int = 2
    """Parts of the day's users, embedded independently of each other, each by one process."""

    def __post_init__(self) -> None:
        if not 1 <= self.shards <= MAX_SHARDS:
            raise ValueError(f"inference: shards is {self.shards}; it is 1 to {MAX_SHARDS}")


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """When the day runs: `cron` in `timezone`, on the data of `start` to `end` (None: every day from then on)."""

    start: date
    end: date | None = None
    cron: str = "0 0 * * *"
    timezone: str = "UTC"
    promote_by: timedelta = timedelta(hours=12)
    """So long after its end a day is promoted, or the freshness alarm fires."""

    def __post_init__(self) -> None:
        if self.promote_by <= timedelta(0):
            raise ValueError(f"schedule: promote_by is {self.promote_by}; it is a time after the day's end")
        if self.end is not None and self.end < self.start:
            raise ValueError(f"schedule ends on {self.end}, before it starts on {self.start}")

    def first_days(self, count: int) -> tuple[date, ...]:
        """The first `count` days of data, or as many as there are."""
        days = (self.start + timedelta(days=offset) for offset in range(count))
        return tuple(day for day in days if self.end is None or day <= self.end)

    def check(self, days: Sequence[date]) -> None:
        """ValueError unless every day is one of this schedule's."""
        outside = [day for day in days if day < self.start or (self.end is not None and day > self.end)]
        if outside:
            raise ValueError(
                f"{', '.join(map(str, outside))}: outside the schedule, {self.start} to {self.end or 'today'}; "
                "choose days within it, or change the recipe's schedule"
            )


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """The whole config of one user model; `name` names its DAG, registry entry, tables and checkpoints."""

    name: str
    source: Source
    tasks: tuple[Task, ...]
    schedule: Schedule
    user_tower: UserTower
    mix_tower: MixTower
    examples: tuple[Selection, ...] = ()
    """What it learns from: of the source's examples those that every one of these selects. Every active user of the
    source is embedded all the same."""
    tables: tuple[Table, ...] = ()
    """In place of the source's tables of these names: other sizes, or managed ids."""
    optimizer: Optimizer = field(default_factory=Optimizer)
    compute: Compute = field(default_factory=Compute)
    checkpoints: Checkpoints = field(default_factory=Checkpoints)
    export: Export = field(default_factory=Export)
    inference: Inference = field(default_factory=Inference)
    gate: Gate = field(default_factory=Gate)
    batch_size: int = 512
    """Examples per rank and step."""
    seed: int = 0
    pooling_versions: int = 3
    """Section 5.2: the current and the most recent cached embeddings averaged; 1: none."""
    regularizers: tuple[Regularizer, ...] = ()
    """In training: what pulls the day's model towards its parent."""
    alignment: Alignment | None = None
    """When published: the map from the day's space to that of the promoted snapshot before it, so that consumers always
    read the space of the first one."""
    reject_max_share: float = 0.05
    """More rejected log rows than this fails the day."""
    keep_days: int = 30
    """Checkpoints, snapshots and candidate embeddings of older days go, unless something points to them."""
    serving: Serving = field(default_factory=Serving)
    slices: tuple[str, ...] = ()
    """Sparse features of the examples by whose most frequent ids users are told apart when shift is measured."""

    def __post_init__(self) -> None:
        known = self.source.schema.tasks
        for task in self.tasks:
            if task.name not in known:
                raise ValueError(f"recipe {self.name}: task {task.name!r} is no label of {self.source.name}: {known}")
        if not self.tasks:
            raise ValueError(f"recipe {self.name} has no task; name at least one of {known}")
        for name in ("batch_size", "pooling_versions", "keep_days"):
            if getattr(self, name) < 1:
                raise ValueError(f"recipe {self.name}: {name} is {getattr(self, name)}; it is at least 1")
        if not 0 <= self.reject_max_share <= 1:
            raise ValueError(f"recipe {self.name}: reject_max_share is {self.reject_max_share}; it is in [0, 1]")
        check_regularizers(self.name, self.regularizers)
        if unknown := sorted(set(self.slices) - {feature.name for feature in self.source.schema.sparse}):
            raise ValueError(f"recipe {self.name}: slices {unknown} are no sparse features of {self.source.name}")
        check_selections(self.examples, self.source.schema, of=f"recipe {self.name}")
        _ = self.schema  # names its unknown tables

    @property
    def schema(self) -> Schema:
        """The source's, with the tables of this model."""
        return self.source.schema.with_tables(self.tables)


@dataclass(frozen=True, kw_only=True)
class DownstreamRecipe:
    """A modest DLRM that consumes user models' embeddings, retrained with and without them."""

    name: str
    upstreams: tuple[str, ...]
    """The user models' recipes, all of one source."""
    task: str
    user_features: tuple[str, ...]
    """The user-side features it has of its own; item-side features come whole."""
    examples: tuple[Selection, ...] = ()
    """Its domain: of the source's examples those that every one of these selects."""
    embedding_dim: int = 16
    hidden: tuple[int, ...] = (128, 64)
    optimizer: Optimizer = field(default_factory=Optimizer)
    batch_size: int = 1024
    seed: int = 0
    lookback_days: int = 14
    """A user's newest embedding at most this many days old is joined."""

    def __post_init__(self) -> None:
        if not self.upstreams or len(set(self.upstreams)) < len(self.upstreams):
            raise ValueError(f"downstream model {self.name}: upstreams are {self.upstreams}; name each user model once")

    @property
    def only_upstream(self) -> str:
        """ValueError where it consumes several."""
        if len(self.upstreams) > 1:
            raise ValueError(
                f"downstream model {self.name} consumes {self.upstreams}; name one that consumes a single user model"
            )
        return self.upstreams[0]
