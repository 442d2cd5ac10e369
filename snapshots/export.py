"""The user tower alone, as a sealed folder that anybody can load: torch and safetensors, none of our code, no pickle.

- `user_tower.pt2`: the graph in plain torch operators, without weights (`snapshots.graph`)
- `user_tower.safetensors`: the weights, its first input; tables in the recipe's precision, the dense part float32;
  of an aligned snapshot `alignment` too, [K D, K D], its last step
- `alignment.json`: of a recipe with an alignment, which space the snapshot was mapped to, and how well
- `ids.<table>.parquet`: of each managed table, which id owns which row
- `contract.json`: inputs in order, tables and hash sizes, K, D, the tower's config, versions, and how to use it
- `manifest.json`: SHA-256 and size of each
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from features.id_map import IdMap
from infra.settings import Settings
from snapshots.contract import GRAPH, WEIGHTS, Contract, contract_of, described, map_file
from snapshots.seal import DamagedError, seal, verify

if TYPE_CHECKING:
    import torch
    from numpy.typing import NDArray

    from features.batches import Batch
    from features.selection import Selection
    from snapshots.aligned import Align
    from snapshots.graph_file import Graph
    from trainer.model.user_tower import UserTower
    from trainer.recipe import Recipe

log = logging.getLogger(__name__)

__all__ = ["CONTRACT", "GRAPH", "WEIGHTS"]

CONTRACT = "contract.json"


def snapshot_folder(settings: Settings, model: str, ds: date, *, fingerprint: str) -> Path:
    """Where the day's snapshot lives."""
    return settings.artifacts / model / f"ds={ds}-{fingerprint[:8]}"


def export_day(
    recipe: Recipe,
    ds: date,
    *,
    fingerprint: str,
    make_tower: Callable[[], UserTower],
    maps: Mapping[str, IdMap],
    settings: Settings,
    align: Align | None = None,
    examples: Sequence[Selection] = (),
) -> tuple[Path, str]:
    """Seal the day's user tower under `settings.artifacts`; its folder and its manifest's SHA-256.

    make_tower is called only when the day is not sealed yet. maps: of the managed tables, by name; more than the user
    side's do no harm. align: asked for the map of the tower's outputs when they are sealed, and never again.
    examples: what selected those that it learnt.
    SealedError where the folder was sealed with another fingerprint. ValueError: an alignment of another shape or with
    NaN, weights that the recipe's precision cannot hold.
    """
    folder = snapshot_folder(settings, recipe.name, ds, fingerprint=fingerprint)

    def write(aside: Path) -> None:
        from safetensors.torch import save_file

        from snapshots.graph import graph_bytes, weights_of

        tower, alignment = make_tower(), None
        if align is not None:
            document, alignment = align(tower)
            document.write(aside)
            _require_alignment(alignment, size=recipe.user_tower.num_embeddings * recipe.user_tower.dim)
        aligned = alignment is not None
        weights = weights_of(tower, recipe.export.tables, alignment=alignment)
        versions = {name: version(name) for name in ("torch", "torchrec", "safetensors")}
        contract = contract_of(
            recipe, ds, training=fingerprint, weights=weights, aligned=aligned, versions=versions, examples=examples
        )
        save_file(weights, aside / WEIGHTS)
        schema = contract.schema
        graph = graph_bytes(
            num_sparse=len(schema.sparse), num_dense=len(schema.dense), tower=recipe.user_tower,
            precision=recipe.export.tables, aligned=aligned,
        )  # fmt: skip
        (aside / GRAPH).write_bytes(graph)
        for table in schema.managed:
            maps[table.name].owning.write(aside / map_file(table.name))
        contract.write(aside / CONTRACT)

    manifest_sha256 = seal(folder, fingerprint=fingerprint, write=write)
    log.info("sealed model=%s ds=%s path=%s manifest=%s", recipe.name, ds, folder, manifest_sha256)
    return folder, manifest_sha256


def _require_alignment(alignment: NDArray[np.float32] | None, *, size: int) -> None:
    if alignment is None:
        return
    if alignment.shape != (size, size) or alignment.dtype != np.float32 or not np.isfinite(alignment).all():
        raise ValueError(
            f"the alignment is {alignment.dtype} {alignment.shape}; it is float32 [K * D, K * D], here "
            f"({size}, {size}), and finite"
        )


def read_contract(folder: Path) -> Contract:
    """The snapshot's contract."""
    return Contract.read(folder / CONTRACT)


def read_snapshot_maps(folder: Path) -> dict[str, IdMap]:
    """The id maps of a snapshot's managed tables; `load_snapshot` verifies their checksums."""
    return {table.name: IdMap.read(folder / map_file(table.name)) for table in read_contract(folder).schema.managed}


class Snapshot:
    """A sealed snapshot, loaded: its graph with its weights, on the CPU or wherever `to` puts them."""

    def __init__(self, contract: Contract, graph: Graph, weights: dict[str, torch.Tensor]) -> None:
        import torch

        self.contract = contract
        self.weights = weights
        """In the order of the graph."""
        self._graph = graph
        self._first_rows = torch.tensor(
            [contract.first_rows[feature.table] for feature in contract.schema.sparse], dtype=torch.int64
        )

    def to(self, device: torch.device) -> Snapshot:
        """The same on `device`."""
        return Snapshot(self.contract, self._graph, {name: one.to(device) for name, one in self.weights.items()})

    def inputs(self, batch: Batch) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """`rows`, `offsets` and `dense` of an encoded batch, as the contract describes them."""
        import torch

        ids = batch.user_sparse
        per_feature = torch.tensor(ids.length_per_key(), dtype=torch.int64)
        rows = ids.values() + torch.repeat_interleave(self._first_rows, per_feature)
        offsets = torch.zeros(len(ids.lengths()) + 1, dtype=torch.int64)
        torch.cumsum(ids.lengths(), 0, out=offsets[1:])
        return rows, offsets, batch.user_dense

    def __call__(self, rows: torch.Tensor, offsets: torch.Tensor, dense: torch.Tensor) -> torch.Tensor:
        """[B, K, D] float32."""
        return self._graph(list(self.weights.values()), rows, offsets, dense)

    def embed(self, batch: Batch) -> torch.Tensor:
        """[B, K, D] float32 of an encoded batch."""
        return self(*self.inputs(batch))


def load_snapshot(folder: Path, *, manifest_sha256: str | None = None) -> Snapshot:
    """What was sealed, after every checksum has been verified.

    DamagedError for a file that is not what was sealed, is no safetensors file, or a graph that holds more than a
    graph: nothing is ever unpickled.
    """
    verify(folder, manifest_sha256=manifest_sha256)
    contract = read_contract(folder)
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    from snapshots.graph_file import load_graph

    try:
        found = load_file(folder / WEIGHTS)
    except SafetensorError as error:
        raise DamagedError(f"{folder / WEIGHTS} is no safetensors file ({error}); it is not loaded") from error
    weights = {weight.name: found[weight.name] for weight in contract.weights if weight.name in found}
    if len(found) != len(weights) or described(weights) != list(contract.weights):
        raise DamagedError(f"{folder / WEIGHTS} does not hold the weights that {CONTRACT} describes")
    return Snapshot(contract, load_graph(folder / GRAPH), weights)
