"""Hosts by tier: what each has to do in a second, over what a host does, and which of its parts is full first."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from infra.capacity import rates
from infra.capacity.model import Model, Trained
from infra.capacity.workload import Device, Host, Workload
from serving.record import ENTRY, HEADER

GB = 1e9
HOUR = 3_600.0
FLOAT16_BYTES = 2
BACKWARD = 3
"""FLOPs of forward and backward over those of forward."""


@dataclass(frozen=True, kw_only=True)
class Tier:
    """Hosts of one kind of work. `full`: by part of a host, how many hosts it alone asks for."""

    name: str
    full: Mapping[str, float]
    gpu: bool = False
    note: str = ""

    @property
    def hosts(self) -> int:
        """Whole hosts: the fullest part decides."""
        return math.ceil(max(self.full.values()) - 1e-9)

    @property
    def bound(self) -> str:
        """The part that decides."""
        return max(self.full, key=lambda part: self.full[part])


@dataclass(frozen=True, kw_only=True)
class Fleet:
    """tiers: those that have hosts. bytes_per_day: what is written or sent, by what it is. facts: seconds and such."""

    tiers: tuple[Tier, ...]
    bytes_per_day: Mapping[str, float]
    facts: Mapping[str, float]
    user_seconds: float
    """Of a core, for one user's vectors; with GPUs what is left to the cores."""

    @property
    def hosts(self) -> int:
        """Of all tiers, with GPUs or without."""
        return sum(tier.hosts for tier in self.tiers)

    def hosts_of(self, name: str) -> int:
        """Of one tier."""
        return next(tier.hosts for tier in self.tiers if tier.name == name)


def size(workload: Workload, model: Model, host: Host, *, device: Device, trained: Trained | None) -> Fleet:
    """The fleet. trained: what a plan on GPUs learns per second; None on CPUs, where a core's measured rate decides."""
    sizing = _Sizing(workload, model, host, device)
    tiers = (sizing.training(trained), sizing.inference(), sizing.compute(), sizing.store())
    return Fleet(
        tiers=tiers, bytes_per_day=sizing.bytes_per_day(), facts=sizing.facts(), user_seconds=sizing.user()["cores"]
    )


@dataclass(frozen=True)
class _Sizing:
    workload: Workload
    model: Model
    host: Host
    device: Device

    @property
    def cores(self) -> float:
        return self.host.cores * self.workload.utilisation

    @property
    def network(self) -> float:
        """Bytes per second of a card."""
        return self.host.network_gbit * 1e9 / 8 * self.workload.utilisation

    @property
    def memory(self) -> float:
        return self.host.memory_gb * GB * self.workload.utilisation

    @property
    def record_bytes(self) -> float:
        numbers = FLOAT16_BYTES * self.model.num_embeddings * self.model.dim
        return rates.RECORD_BYTES.value + HEADER.size + self.workload.kept * (ENTRY.size + numbers)

    @property
    def features_bytes(self) -> float:
        """Of one user in a request: 4-byte lengths and dense values, 8-byte ids (`serving/features.py`)."""
        lists, dense = self.model.num_lists, self.model.num_dense
        return 4 * (1 + lists + dense) + 8 * lists * self.workload.ids_per_feature

    @property
    def computed_per_second(self) -> float:
        return self.workload.busiest * self.workload.models * self.workload.computed_share

    def training(self, trained: Trained | None) -> Tier:
        load, model = self.workload, self.model
        if trained is None:
            wanted = load.models * load.examples_per_second
            seconds = BACKWARD * model.example_flops / rates.TRAIN_FLOPS.value
            return Tier(
                name="training",
                full={"cores": wanted * seconds / self.cores},
                note="as many ranks as cores, each as fast as two were: larger groups lose more in the exchange",
            )
        return Tier(
            name="training",
            full={"GPUs": load.models * trained.hosts},
            gpu=True,
            note=f"{trained.examples_per_second:,.0f} examples/s by the plan, nothing overlapped",
        )

    def user(self) -> dict[str, float]:
        """Seconds of a core, and of a GPU where there is one, for one user's vectors."""
        beside = rates.USER_SECONDS.value + self.model.num_lists * rates.LIST_SECONDS.value
        if self.device == "cuda":
            return {"cores": beside, "GPUs": self.model.tower_flops / rates.GPU_FORWARD_FLOPS.value}
        return {"cores": beside + self.model.tower_flops / rates.FORWARD_FLOPS.value}

    def _computing(self, name: str, users_per_second: float, *, sent: float) -> Tier:
        """Hosts that hold the whole tower and compute; sent: bytes a user that cross the network."""
        many = {"cores": self.cores, "GPUs": self.host.gpus * self.workload.utilisation}
        full = {part: users_per_second * seconds / many[part] for part, seconds in self.user().items()}
        full["network"] = users_per_second * sent / self.network
        note = f"{1e3 * sum(self.user().values()):.3g} ms of work a user"
        if self.model.tower_bytes > self.memory and self.device == "cpu":
            shards = math.ceil(self.model.tower_bytes / self.memory)
            note += f"; the tower is larger than a host: its tables lie with {shards} shards (not sized)"
        return Tier(name=name, full=full, gpu=self.device == "cuda", note=note)

    def inference(self) -> Tier:
        load = self.workload
        users = load.users * load.active_share * load.models / (load.infer_hours * HOUR)
        values = self.model.user_values(load.ids_per_feature)
        return self._computing("batch inference", users, sent=rates.VALUE_BYTES.value * values)

    def compute(self) -> Tier:
        return self._computing("compute center", self.computed_per_second, sent=self.features_bytes)

    def store(self) -> Tier:
        load = self.workload
        held = load.users * load.models * self.record_bytes * load.replicas
        reads, writes = load.busiest * load.models, self.computed_per_second * load.replicas
        # A request's features wait in the store's stream until a worker takes them: in and out.
        sent = (
            reads * self.record_bytes + writes * self.record_bytes + 2 * self.computed_per_second * self.features_bytes
        )
        return Tier(
            name="feature store",
            full={
                "memory": held / self.memory,
                "cores": (reads * rates.READ_SECONDS.value + writes * rates.MERGE_SECONDS.value) / self.cores,
                "network": sent / self.network,
            },
            note=f"{held / 1e12:.3g} TB with {load.replicas:g} copies, {self.record_bytes:,.0f} bytes a user and model",
        )

    def bytes_per_day(self) -> dict[str, float]:
        """Once each; copies of an object store are its own."""
        load, model = self.workload, self.model
        user = rates.VALUE_BYTES.value * model.user_values(load.ids_per_feature)
        item = rates.VALUE_BYTES.value * model.item_values
        active = load.users * load.active_share
        vectors = 2 * model.num_embeddings * model.dim * rates.EMBEDDING_BYTES.value
        return {
            "examples": load.examples_per_day * (user + item),
            "user features": active * user,
            "embeddings, computed and pooled": active * vectors * load.models,
            "checkpoints: the user tower's tables, in full": model.tower_bytes * load.models,
            "features of requests, sent": load.requests_per_day
            * load.computed_share
            * load.models
            * self.features_bytes,
            "embeddings of requests, sent": load.requests_per_day * load.models * self.record_bytes,
        }

    def facts(self) -> dict[str, float]:
        load = self.workload
        sizes = self.bytes_per_day()
        inside = load.busiest * self.model.tower_flops / rates.FORWARD_FLOPS.value
        return {
            "requests/s at peak": load.busiest,
            "inferences/s at peak": self.computed_per_second,
            "lake and checkpoints, PB": sum(size for name, size in sizes.items() if not name.endswith("sent"))
            * load.keep_days
            / 1e15,
            "tower in the request on one core, ms": 1e3 * self.model.tower_flops / rates.FORWARD_FLOPS.value,
            "cores of callers that read": load.busiest * load.models * rates.CLIENT_SECONDS.value,
            "cores of one downstream model that runs the tower itself": inside,
            "bytes of a request's features": self.features_bytes,
            "tower, GB": self.model.tower_bytes / GB,
        }
