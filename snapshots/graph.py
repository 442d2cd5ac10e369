"""The user tower as a graph of plain torch operators, without weights: what `user_tower.pt2` holds.

    forward(weights, rows, offsets, dense) -> [B, K, D] float32

weights: those of `user_tower.safetensors`, a list in the contract's order. rows: [n] int64, rows of the tables, all
lists of the first sparse feature, then of the next. offsets: [F * B + 1] int64, where each list begins, and n.
dense: [B, M] float32, transformed. B and n are free. Weights are inputs, so the graph depends on the tower's shape
alone, and nothing in it has to be unpickled.
"""

from __future__ import annotations

import io
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.func import functional_call

from features.schema import DenseFeature, Schema, SparseFeature, Table
from snapshots.tables import Precision, pooled, table_weights
from trainer import towers
from trainer.model.user_tower import UserTower

ALIGNMENT = "alignment"
"""[K * D, K * D] float32, the last step where there is one: u.reshape(B, K * D) @ alignment."""
_TABLE = ".embedding_bags."
_ORIGINS = ("stack_trace", "nn_module_stack", "source_fn_stack", "torch_fn", "from_node", "custom")
"""What torch notes at each node about the code that it was traced from."""
DYNAMIC = torch.export.Dim.DYNAMIC


class UserGraph(nn.Module):
    """The module that is traced. names: of `weights`, in order."""

    def __init__(self, tower: UserTower, names: list[str]) -> None:
        super().__init__()
        self._names = names
        # not as a submodule: its weights would become the graph's own
        self._after_tables = [_AfterTables(tower)]
        self._shape = (tower.sparse.num_embeddings, tower.dim)

    def forward(
        self, weights: list[torch.Tensor], rows: torch.Tensor, offsets: torch.Tensor, dense: torch.Tensor
    ) -> torch.Tensor:
        """[B, K, D]."""
        named = dict(zip(self._names, weights, strict=True))
        num_rows, (num_features, dim) = dense.shape[0], self._shape
        if num_features:
            sparse = pooled(named, rows, offsets).view(num_features, num_rows, dim).transpose(0, 1)
        else:
            sparse = dense.new_zeros(num_rows, 0, dim)
        own = {f"tower.{name}": weight for name, weight in named.items() if is_dense(name)}
        embeddings: torch.Tensor = functional_call(self._after_tables[0], own, (sparse, dense))
        if ALIGNMENT in named:
            embeddings = (embeddings.flatten(1) @ named[ALIGNMENT]).view(embeddings.shape)
        return embeddings


class _AfterTables(nn.Module):
    """The tower from the pooled rows on."""

    def __init__(self, tower: UserTower) -> None:
        super().__init__()
        self.tower = tower

    def forward(self, sparse: torch.Tensor, dense: torch.Tensor) -> torch.Tensor:
        """[B, F, D] and [B, M] -> [B, K, D]."""
        normed = self.tower.sparse.norm(sparse) if sparse.shape[1] else sparse
        return self.tower.compress(normed, self.tower.dense(dense))


def is_dense(name: str) -> bool:
    """Whether the weight is one of the tower's dense part."""
    return not name.startswith(("tables", ALIGNMENT))


def weights_of(
    tower: UserTower, precision: Precision, *, alignment: NDArray[np.float32] | None = None
) -> dict[str, torch.Tensor]:
    """The graph's weights, in its order: tables in `precision`, the dense part as it was trained."""
    state = {name: tensor.detach().cpu().contiguous() for name, tensor in tower.state_dict().items()}
    tables = [tensor for name, tensor in state.items() if _TABLE in name]  # in the order of the schema's tables
    found = table_weights(tables, precision, dim=tower.dim)
    found |= {name: tensor for name, tensor in state.items() if _TABLE not in name}
    return found if alignment is None else found | {ALIGNMENT: torch.from_numpy(alignment)}


@lru_cache(maxsize=16)
def graph_bytes(
    *, num_sparse: int, num_dense: int, tower: towers.UserTower, precision: Precision, aligned: bool
) -> bytes:
    """The `.pt2` file of a tower of this shape, whatever its weights: traced once per process."""
    with torch.random.fork_rng(devices=[]):
        small = UserTower(_some_schema(num_sparse, num_dense), tower).eval()
    size = tower.num_embeddings * tower.dim
    weights = weights_of(small, precision, alignment=np.eye(size, dtype=np.float32) if aligned else None)
    module = UserGraph(small, list(weights)).eval()
    num_rows, num_ids = 5, 17  # any but 0 and 1, and no two sizes the same: torch would take them for one
    offsets = torch.full((num_sparse * num_rows + 1,), num_ids)
    offsets[0] = 0
    inputs = (
        list(weights.values()),
        torch.zeros(num_ids, dtype=torch.int64),
        offsets,
        torch.zeros(num_rows, num_dense),
    )
    shapes = (
        [None if is_dense(name) or name == ALIGNMENT else {0: DYNAMIC} for name in weights],
        {0: DYNAMIC},
        {0: DYNAMIC} if num_sparse else None,
        {0: DYNAMIC},
    )
    with torch.no_grad():
        program = torch.export.export(module, inputs, dynamic_shapes=shapes)
    return _file_of(program)


def _some_schema(num_sparse: int, num_dense: int) -> Schema:
    """Of so many user-side features, all in one small table."""
    return Schema(
        tables=(Table(name="table", num_rows=11),),
        sparse=tuple(SparseFeature(name=f"sparse_{index}", table="table") for index in range(num_sparse)),
        dense=tuple(DenseFeature(name=f"dense_{index}") for index in range(num_dense)),
        tasks=("task",),
    )


def _file_of(program: torch.export.ExportedProgram) -> bytes:
    """Without what torch would pickle (the example inputs), run as code (guards), or tell of this machine."""
    assert not program.state_dict
    assert not program.constants
    program.example_inputs = None
    program._guards_code = []
    # that B is at least 2 is torch's assumption while it traces; the operators take any
    program._range_constraints = {}
    for node in list(program.graph.nodes):
        for origin in _ORIGINS:
            node.meta.pop(origin, None)
        if node.target is torch.ops.aten._assert_tensor_metadata.default:
            program.graph.erase_node(node)  # it would hold the graph to the device that it was traced on
    file = io.BytesIO()
    torch.export.save(program, file)
    return file.getvalue()
