"""A user tower in the space of another snapshot."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn

if TYPE_CHECKING:
    from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

    from trainer.model.user_tower import UserTower


class AlignedTower(nn.Module):
    """The tower, and after it `u -> u M` on its K embeddings of D side by side; alignment: M, [K D, K D]."""

    alignment: torch.Tensor

    def __init__(self, tower: UserTower, alignment: torch.Tensor) -> None:
        super().__init__()
        self.tower = tower
        self.register_buffer("alignment", alignment)

    def forward(self, user_sparse: KeyedJaggedTensor, user_dense: torch.Tensor) -> torch.Tensor:
        """[B, K, D]."""
        users: torch.Tensor = self.tower(user_sparse, user_dense)
        return (users.flatten(1) @ self.alignment).view_as(users)
