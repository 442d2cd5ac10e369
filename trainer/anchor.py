"""What a day's pass keeps of the model that it began from, and how that model pulls it (section 5.2, option 2).

Distillation works through the loss, so that its gradients are averaged over ranks with the others. L2-to-previous adds
its gradient, `2 weight (p - p')`, to the averaged one right before the dense optimizer's step: every rank adds the
same, and Adam scales the sum as it scales any gradient.

The rows of tables are left to their optimizer, which runs inside backward, where a pull would have to be a part of
the gradient of every lookup. A row moves on the days when it is looked up, by steps that row-wise Adagrad makes
shorter with each, and a pull of all rows would touch the whole table every step. Distillation holds what rows and
dense weights give together; it is the one to choose where rows move embeddings.

A resumed day takes the anchor from its parent again, so that it is the same to the bit. Where the recipe was changed
since, what has no counterpart in the parent is not pulled, and a tower that does not compute the parent's function is
no teacher: the log says so.
"""

from __future__ import annotations

import logging
from typing import Any

import torch
import torch.distributed as dist
from torch.utils.hooks import RemovableHandle

from features.batches import Batch
from trainer.carryover.compare import Comparison, TensorChange
from trainer.config import TrainingConfig
from trainer.model.sum_model import SumModel
from trainer.sharding import ShardedModel
from trainer.stabilizers import Distillation, L2ToPrevious
from trainer.teacher import Teacher

log = logging.getLogger(__name__)

_TOWER = "user_tower."
_SAME_FUNCTION = ("carried", "repeated")
"""A table with a multiple of its rows looks up what it did."""


class Anchor:
    """The regularizers of `config` on `sharded`, which has the weights that the day begins from. A collective.

    carried: what of them is the parent's; None for a cold start, which has no parent and is left alone.
    """

    def __init__(self, sharded: ShardedModel, config: TrainingConfig, carried: Comparison | None) -> None:
        self._sharded = sharded
        self._teacher: Teacher | None = None
        self._hook: RemovableHandle | None = None
        if not config.is_anchored:
            return
        if carried is None:
            _tell("no regularizer on %s: a cold start has no parent", config.name)
            return
        for regularizer in config.regularizers:
            match regularizer:
                case L2ToPrevious(weight=weight) if weight > 0:
                    self._hook = _pull(sharded, carried, weight=weight)
                case Distillation(weight=weight) if weight > 0:
                    self._teacher = _teach(sharded, config, carried, by=regularizer)

    @property
    def num_bytes(self) -> int:
        """What the teacher takes on this rank."""
        return 0 if self._teacher is None else self._teacher.num_bytes

    def teach(self, batch: Batch) -> Batch:
        """The batch, with the teacher's embeddings where there is one. A collective then."""
        return batch if self._teacher is None else self._teacher(batch)

    def release(self) -> None:
        """Leave the model as if there had never been an anchor."""
        if self._hook is not None:
            self._hook.remove()
        if self._teacher is not None:
            _core(self._sharded).distillation = None
        self._teacher = self._hook = None


def _core(sharded: ShardedModel) -> SumModel:
    core = sharded.core
    assert isinstance(core, SumModel), "only a model with a user tower has regularizers"
    return core


def _tell(message: str, *values: object) -> None:
    if dist.get_rank() == 0:
        log.info(message, *values)


def _teach(sharded: ShardedModel, config: TrainingConfig, carried: Comparison, *, by: Distillation) -> Teacher | None:
    if changed := [change for change in _of_tower(carried) if change.outcome not in _SAME_FUNCTION]:
        _tell("no distillation today: the user tower is not the parent's: %s", _shown(changed))
        return None
    teacher = Teacher(sharded, config)
    _core(sharded).distillation = by
    _tell("distillation weight=%g distance=%s teacher_bytes=%d", by.weight, by.distance, teacher.num_bytes)
    return teacher


def _pull(sharded: ShardedModel, carried: Comparison, *, weight: float) -> RemovableHandle:
    """The gradient of L2-to-previous on the dense weights of the user tower, added before every step."""
    whole = {change.name for change in carried.tensors if change.outcome == "carried" and not change.is_table}
    own = {name: p for name, p in _core(sharded).named_parameters() if name.startswith(_TOWER)}
    pulled = [parameter for name, parameter in own.items() if name in whole]
    anchors = [parameter.detach().clone() for parameter in pulled]
    if left := [c for c in _of_tower(carried) if not c.is_table and c.outcome not in ("carried", "dropped")]:
        _tell("no L2 to the parent's weights for %s", _shown(left))
    _tell("L2 to the parent's weights weight=%g tensors=%d", weight, len(pulled))

    @torch.no_grad()
    def pull(_optimizer: torch.optim.Optimizer, _args: Any, _kwargs: Any) -> None:
        for parameter, anchor in zip(pulled, anchors, strict=True):
            if parameter.grad is not None:
                parameter.grad.add_(parameter - anchor, alpha=2 * weight)

    inner: torch.optim.Optimizer = sharded.dense._optimizer
    return inner.register_step_pre_hook(pull)


def _of_tower(carried: Comparison) -> list[TensorChange]:
    return [change for change in carried.tensors if change.name.startswith(_TOWER)]


def _shown(changes: list[TensorChange]) -> str:
    named = ", ".join(f"{change.name} ({change.outcome}: {change.why})" for change in changes[:3])
    return named + (f" and {len(changes) - 3} more" if len(changes) > 3 else "")
