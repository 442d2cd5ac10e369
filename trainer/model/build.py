"""The model that a config describes."""

from __future__ import annotations

import torch

from trainer.config import Dlrm, Sum, TrainingConfig
from trainer.model.dlrm import DlrmModel
from trainer.model.multi_task import MultiTaskModel
from trainer.model.sum_model import SumModel


def build_model(config: TrainingConfig, *, device: torch.device | None = None) -> MultiTaskModel:
    """`device`: where the tables are built; `meta` when they are sharded or loaded afterwards."""
    match config.model:
        case Sum():
            return SumModel(config, config.model, device=device)
        case Dlrm():
            return DlrmModel(config, config.model, device=device)
