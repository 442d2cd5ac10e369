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
        self.computed = tuple(plan for plan in self.plans if plan.computes)
        self.deadline_seconds = min(model.serving.deadline_ms for model in models) / 1000
        waiting = [model for model in models if model.serving.mode == "realtime"]
        self.window_seconds = min((model.serving.window_ms for model in waiting), default=0.0) / 1000
        """That a request waits for its own inference; 0: it does not."""
        if waiting and len(self.computed) > 1:
            raise ValueError(f"real-time models of several sources in one request: {self.names}; ask for one source's")


@dataclass(frozen=True, slots=True)
class Question:
    """A request, checked."""

    user: int
    partition: int
    group: Group
    keys: list[str]
    payload: bytes
    """The features; empty: the store knows them."""
    feature_ms: int

    @property
    def read(self) -> bytes:
        """Its command: one for all models."""
        command: bytes = hiredis.pack_command(("MGET", *self.keys))
        return command
