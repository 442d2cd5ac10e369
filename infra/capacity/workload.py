"""What is asked of a fleet, and what its hosts are."""

from __future__ import annotations

from dataclasses import dataclass, field, fields, replace
from typing import Literal

SHARES = frozenset({"active_share", "computed_share", "utilisation"})


def asked(default: float, about: str) -> float:
    """A field whose metadata says what it means: the command line and the list of assumptions read it."""
    found: float = field(default=default, metadata={"about": about})
    return found


@dataclass(frozen=True, kw_only=True)
class Workload:
    """A day. Requests are those that read a user's embeddings; every user model is asked on each."""

    users: float = asked(3e9, "users that the feature store keeps")
    requests_per_day: float = asked(3e11, "requests that read a user's embeddings")
    examples_per_day: float = asked(6e9, "examples that each user model learns from")
    models: float = asked(1, "user models, all of this recipe, all asked on every request")
    active_share: float = asked(0.6, "of the users, how many a day's batch inference embeds")
    computed_share: float = asked(1.0, "of the requests, how many are computed; the rest a cache answers")
    peak: float = asked(2.0, "requests of the busiest second over the day's mean")
    utilisation: float = asked(0.6, "of a core, a GPU, memory or a network card, how much is used at peak")
    train_hours: float = asked(8, "hours in which a day's examples are learnt")
    infer_hours: float = asked(4, "hours in which the day's active users are embedded")
    replicas: float = asked(2, "copies of the feature store")
    keep_days: float = asked(30, "days that the lake keeps")
    ids_per_feature: float = asked(10, "mean length of an id list")
    kept: float = asked(3, "computed vectors per user that pooling reads")

    def __post_init__(self) -> None:
        for one in fields(self):
            value = getattr(self, one.name)
            if not value > 0:
                raise ValueError(f"{option(one.name)} {value:g}; it is above 0: {one.metadata['about']}")
            if one.name in SHARES and value > 1:
                raise ValueError(f"{option(one.name)} {value:g}; it is a share, at most 1: {one.metadata['about']}")
        if self.peak < 1:
            raise ValueError(f"--peak {self.peak:g}; the busiest second has at least the mean: 1 or more")
        if self.train_hours > 24 or self.infer_hours > 24:
            raise ValueError(
                "--train-hours and --infer-hours are at most 24: a day that takes longer is never caught up"
            )

    @property
    def examples_per_second(self) -> float:
        """Of one user model, for a day to be learnt in time."""
        return self.examples_per_day / (self.train_hours * 3_600)

    @property
    def busiest(self) -> float:
        """Requests per second at peak."""
        return self.requests_per_day / 86_400 * self.peak


def option(name: str) -> str:
    """Of the command line."""
    return f"--{name.replace('_', '-')}"


@dataclass(frozen=True, kw_only=True)
class Host:
    """One kind for everything; a host with GPUs has them besides."""

    cores: float = asked(64, "cores of a host")
    memory_gb: float = asked(512, "memory of a host, GB")
    network_gbit: float = asked(25, "network card of a host, Gbit/s; training on GPUs plans with its own")
    gpus: float = asked(8, "GPUs of a host that has them")

    def __post_init__(self) -> None:
        for one in fields(self):
            if not getattr(self, one.name) > 0:
                raise ValueError(f"{option('host_' + one.name)} {getattr(self, one.name):g}; it is above 0")


Device = Literal["cpu", "cuda"]


def knobs(workload: Workload) -> dict[str, Workload]:
    """One thing changed at a time."""
    return {
        "a cache that answers 42 % of the requests (ERCache, published)": replace(
            workload, computed_share=0.58 * workload.computed_share
        ),
        "a cache that answers 64 %": replace(workload, computed_share=0.36 * workload.computed_share),
        "id lists of half the length": replace(workload, ids_per_feature=workload.ids_per_feature / 2),
        "no pooling: one vector kept": replace(workload, kept=1),
        "one copy of the store less": replace(workload, replicas=max(1, workload.replicas - 1)),
        "half the users kept": replace(workload, users=workload.users / 2),
        "twice the hours to learn": replace(workload, train_hours=min(24, 2 * workload.train_hours)),
        "twice the hours to embed": replace(workload, infer_hours=min(24, 2 * workload.infer_hours)),
        "half as many users embedded by batch": replace(workload, active_share=workload.active_share / 2),
    }
