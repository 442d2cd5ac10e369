"""What is asked for together, and one request for it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import hiredis

from serving.client.model import Model, SourcePlan


class Group:
    """Models that are asked for together."""

    def __init__(self, models: Sequence[Model], plans: Mapping[str, SourcePlan]) -> None:
        self.models = tuple(models)
        self.names = tuple(model.name for model in models)
        sources = {model.source: plans[model.source] for model in models}
        self.plans = tuple(sources.values())
        self.computed: list[tuple[SourcePlan, list[int]]] = []
        """What a request computes: by source, the places of its models here."""
        for plan in self.plans:
            of_it = [place for place, model in enumerate(models) if model.source == plan.source]
            if places := [place for place in of_it if models[place].serving.computes]:
                self.computed.append((plan, places))
        self.deadline_seconds = min(model.serving.deadline_ms for model in models) / 1000
        waiting = [model for model in models if model.serving.mode == "realtime"]
        self.window_seconds = min((model.serving.window_ms for model in waiting), default=0.0) / 1000
        """That a request waits for its own inference; 0: it does not."""
        if waiting and len(self.computed) > 1:
            raise ValueError(f"real-time models of several sources in one request: {self.names}; ask for one source's")


@dataclass(frozen=True, slots=True)
class Question:
    """What of a request is known before the store is asked."""

    user: int
    partition: int
    group: Group
    keys: list[str]

    @property
    def read(self) -> bytes:
        """Its command: one for all models."""
        command: bytes = hiredis.pack_command(("MGET", *self.keys))
        return command


@dataclass(frozen=True, slots=True)
class Inference:
    """What a request brings for the compute center. payload: of `serving.features`; empty: the store knows them."""

    payload: bytes
    feature_ms: int
    commands: list[bytes]
    """To queue it, by `Group.computed`."""
