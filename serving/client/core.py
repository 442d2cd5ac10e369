"""What both clients do between the wires: questions out of requests, answers out of replies."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, cast

from serving.client import policy, realtime
from serving.client.answer import Answer, Computation, Reason
from serving.client.breaker import Breaker
from serving.client.clock import StoreClock
from serving.client.model import Model, SourcePlan
from serving.client.options import Options
from serving.client.outbox import Outbox, Waiting, command
from serving.client.question import Group, Inference, Question
from serving.client.wire import LateError
from serving.keys import Keys
from serving.served import Served
from serving.statistics import Statistics
from serving.store import Request

logger = logging.getLogger(__name__)

_MOST_GROUPS = 1_000
"""Kept."""
_NO_FALLBACK = ("computed", "skipped")
"""What became of the inference of a real-time request that needed nothing else."""


class Core:
    """Of one client. Thread-safe."""

    def __init__(self, models: Sequence[Model], options: Options) -> None:
        if not models:
            raise ValueError("a client of no models; give the recipes' (`Model.of`)")
        self.options, self.keys = options, Keys(options.partitions)
        self.models = {model.name: model for model in models}
        if len(self.models) < len(models):
            raise ValueError(f"two models of one name: {sorted(model.name for model in models)}")
        sources = {model.source: [one for one in models if one.source == model.source] for model in models}
        self._plans = {source: SourcePlan(of, partitions=options.partitions) for source, of in sources.items()}
        self._groups: dict[tuple[str, ...], Group] = {}
        self.served: Mapping[str, Served] = {}
        """Replaced as a whole, in the background."""
        self.is_lost = False
        """Whether to find out anew which server has what."""
        self._is_deaf = False
        self.clock = StoreClock()
        self._breakers: list[Breaker] = []
        self.statistics = Statistics(self.models)
        self.outbox = Outbox(self.statistics, capacity=options.buffer)

    def question(self, user: int, models: Sequence[str] | None) -> Question:
        """ValueError names what is wrong with a request."""
        if not isinstance(user, int) or isinstance(user, bool) or not -(2**63) <= user < 2**63:
            raise ValueError(f"user {str(user)[:40]!r} is no user id; it is a whole number of 64 bits")
        group = self._group(tuple(self.models if models is None else models))
        return Question(user, self.keys.partition(user), group, self.keys.records(group.names, user))

    def inference(
        self, question: Question, features: Mapping[str, Any] | None, feature_time: datetime | None
    ) -> Inference:
        """What the compute center would be asked. ValueError names what is wrong with the features."""
        payload, feature_ms, group = b"", 0, question.group
        if features is not None:
            if len(group.plans) > 1:
                raise ValueError(f"features for models of several sources: {group.names}; ask for one source's")
            payload, feature_ms = group.plans[0].codec.encode(features), self._feature_ms(feature_time)
        made = Inference(payload, feature_ms, [])
        for plan, _ in group.computed:
            made.commands.append(command(self.request(question, made, plan), self.keys))
        return made

    def _group(self, names: tuple[str, ...]) -> Group:
        group = self._groups.get(names)
        if group is None:
            if not names or len(set(names)) < len(names) or (unknown := set(names) - set(self.models)):
                raise ValueError(f"models {list(names)[:5]}; they are different ones of {sorted(self.models)}")
            assert not unknown
            if len(self._groups) >= _MOST_GROUPS:  # whoever asks chooses the order
                self._groups.clear()
            group = self._groups[names] = Group([self.models[name] for name in names], self._plans)
        return group

    def _feature_ms(self, given: datetime | None) -> int:
        if given is None:
            return int(self.clock.now_ms())
        if given.tzinfo is None:
            raise ValueError(f"feature time {given} has no time zone; give one")
        return int(1000 * given.timestamp())

    def found(self, question: Question, values: Sequence[Any] | Reason) -> list[policy.Found]:
        """What may be served of each model; values: the store's reply, or why there is none."""
        if isinstance(values, str):
            return [policy.nothing(cast(Reason, values))] * len(question.group.models)
        now_ms = self.clock.now_ms()
        return [
            policy.found(model, self.served.get(model.name), value, now_ms=now_ms)
            for model, value in zip(question.group.models, values, strict=True)
        ]

    def waits(self, question: Question, found: Sequence[policy.Found]) -> bool:
        """Whether a real-time model is asked for that nothing young enough is there of."""
        return question.group.window_seconds > 0 and any(
            model.serving.mode == "realtime" and not one.is_direct
            for model, one in zip(question.group.models, found, strict=True)
        )

    def answers(
        self,
        question: Question,
        inference: Inference,
        found: Sequence[policy.Found],
        *,
        waited: Computation | None = None,
    ) -> dict[str, Answer]:
        """By model, counted; and the inference is handed to the sender. waited: what became of it where it was waited
        for, and is not handed on."""
        handed = {} if waited else self._hand_on(question, inference, found)
        now_ms = self.clock.now_ms()
        answers = {
            model.name: policy.answer(
                model,
                self.served.get(model.name),
                question.user,
                one,
                computation=waited or handed.get(model.name, "queued"),
                now_ms=now_ms,
            )
            for model, one in zip(question.group.models, found, strict=True)
        }
        self.statistics.answered(answers.values(), now_ms)
        waiting = [model.name for model in question.group.models if model.serving.mode == "realtime"]
        if waiting:
            self.statistics.fell_back(name for name in waiting if answers[name].computation not in _NO_FALLBACK)
        return answers

    def _hand_on(
        self, question: Question, inference: Inference, found: Sequence[policy.Found]
    ) -> dict[str, Computation]:
        outcomes: dict[str, Computation] = {}
        models = question.group.names
        for (_, places), packed in zip(question.group.computed, inference.commands, strict=True):
            names = tuple([models[place] for place in places if not found[place].is_direct])
            if names and not self.outbox.offer(Waiting(names, question.partition, packed)):
                outcomes.update(dict.fromkeys(names, "dropped"))
        return outcomes

    def new_breaker(self) -> Breaker:
        """Of one server: the others of a cluster are read although it is down."""
        self._breakers.append(Breaker(failures=self.options.failures, pause_seconds=self.options.pause_seconds))
        return self._breakers[-1]

    def forget(self, breaker: Breaker) -> None:
        """Of a server that has no partition any more."""
        self._breakers.remove(breaker)

    @property
    def probe_seconds(self) -> float:
        """In which a server that is tried again has to answer: as fast as the most urgent read wants it."""
        return min(model.serving.deadline_ms for model in self.models.values()) / 1000

    def read_failed(self, error: Exception) -> Reason:
        """Count a read without an answer."""
        is_late = isinstance(error, LateError)
        self.is_lost |= not is_late
        self.statistics.event("reads_late" if is_late else "reads_broken")
        return "late" if is_late else "unavailable"

    def not_tried(self) -> Reason:
        """Count a read that the breaker turned away."""
        self.statistics.event("reads_not_tried")
        return "unavailable"

    def refresh_failed(self, error: Exception) -> None:
        """Count it; the first of a row is logged."""
        self.statistics.event("refreshes_failed")
        if not self._is_deaf:
            logger.warning("the store does not say what is served: %s", error)
        self._is_deaf = self.is_lost = True

    def refreshed(self) -> None:
        """The store has said what is served."""
        self._is_deaf = False

    def wait_commands(self, question: Question, inference: Inference, reply: str) -> bytes:
        """Of a real-time request: queue it, wait, read."""
        ((plan, _),) = question.group.computed
        return realtime.commands(
            self.request(question, inference, plan, reply=reply), self.keys,
            records=question.keys, window_seconds=question.group.window_seconds,
        )  # fmt: skip

    def snapshot(self) -> dict[str, Any]:
        """Everything that is counted, and how things are."""
        return {
            **self.statistics.snapshot(),
            "buffered": len(self.outbox),
            "breaker_open": any(breaker.is_open for breaker in self._breakers),
            "breaker_opened": sum(breaker.opened for breaker in self._breakers),
            "clock_uncertainty_ms": self.clock.uncertainty_ms,
        }

    def request(self, question: Question, inference: Inference, plan: SourcePlan, *, reply: str = "") -> Request:
        """What the store's script is given."""
        return Request(
            source=plan.source,
            user=question.user,
            feature_ms=inference.feature_ms,
            payload=inference.payload,
            ttl_seconds=plan.ttl_seconds,
            longest=self.options.longest_stream,
            future_seconds=plan.future_seconds,
            max_per_second=plan.per_second,
            reply=reply,
        )


class Draft:
    """A request's inference, made once: while the store is being read, if it is."""

    __slots__ = ("_arguments", "_made")

    def __init__(self, core: Core, *arguments: Any) -> None:
        """arguments: of `Core.inference`."""
        self._made: Inference | None = None
        self._arguments = (core, *arguments)

    def __call__(self) -> Inference:
        """ValueError names what is wrong with the features."""
        if self._made is None:
            core, *arguments = self._arguments
            self._made = core.inference(*arguments)
        return self._made
