"""A sealed snapshot whose tables lie with shards: the same graph, the same operators in the same order, the same bits.

The graph takes its tables as inputs, of any number of rows. Of each batch the rows that occur are fetched, once each,
as they are stored, into small tables; the batch's row numbers are replaced by theirs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from serving.secured.tls import Tls
from serving.shards.client import LOAD_SECONDS, Shards
from serving.shards.partition import needed
from serving.shards.share import OF_TABLES, row_layout
from snapshots.contract import GRAPH, WEIGHTS, Contract, described
from snapshots.embedder import Embedder
from snapshots.export import Snapshot, load_snapshot, read_contract
from snapshots.seal import DamagedError, verify
from snapshots.tables import TABLES

if TYPE_CHECKING:
    import torch

    from snapshots.graph_file import Graph


class ShardedSnapshot(Snapshot):
    """As a `Snapshot`, on the CPU; `weights` are those of the dense part."""

    def __init__(
        self,
        contract: Contract,
        graph: Graph,
        weights: dict[str, torch.Tensor],
        *,
        shards: Shards,
        manifest_sha256: str,
    ) -> None:
        super().__init__(contract, graph, weights)
        self._shards, self._manifest_sha256 = shards, manifest_sha256
        self._tables = {weight.name: row_layout(weight) for weight in contract.weights if weight.name in OF_TABLES}

    def to(self, device: torch.device) -> Snapshot:
        """Itself. ValueError for another device than the CPU."""
        if device.type != "cpu":
            raise ValueError(f"tables that lie with shards are looked up on the CPU, not on {device}")
        return self

    def __call__(self, rows: torch.Tensor, offsets: torch.Tensor, dense: torch.Tensor) -> torch.Tensor:
        """[B, K, D] float32. ShardError: a shard is gone, late, or has not the version."""
        if not self._tables:
            return super().__call__(rows, offsets, dense)
        tables, rows = self._small(rows)
        weights = self.weights | tables
        return self._graph([weights[weight.name] for weight in self.contract.weights], rows, offsets, dense)

    def _small(self, rows: torch.Tensor) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
        """Tables of the rows that occur, and where each of `rows` lies in them."""
        import torch

        num_rows, _, _ = self._tables[TABLES]
        wanted = needed(rows.numpy(), of=len(self._shards.addresses), num_rows=num_rows)
        size = max(wanted.num_rows, 1)  # the operators want a table with a row, even where all lists are empty
        small = {name: np.empty((size, *row), dtype) for name, (_, dtype, row) in self._tables.items()}
        self._shards.fetch(self._manifest_sha256, wanted, small)
        return {name: torch.from_numpy(values) for name, values in small.items()}, torch.from_numpy(wanted.rows)


def load_sharded(
    folder: Path, *, manifest_sha256: str | None = None, shards: Shards, load_seconds: float = LOAD_SECONDS
) -> ShardedSnapshot:
    """What was sealed, as `snapshots.export.load_snapshot`, but for the tables, which `shards` have then loaded.

    DamagedError as there; ShardError where a shard is gone, or does not load the version within load_seconds.
    """
    manifest_sha256 = verify(folder, manifest_sha256=manifest_sha256)
    contract = read_contract(folder)
    from safetensors import SafetensorError, safe_open

    from snapshots.graph_file import load_graph

    try:
        with safe_open(folder / WEIGHTS, framework="pt") as file:
            dense = [weight for weight in contract.weights if weight.name not in OF_TABLES]
            weights = {one.name: file.get_tensor(one.name) for one in dense}
    except SafetensorError as error:
        raise DamagedError(f"{folder / WEIGHTS} is no safetensors file ({error}); it is not loaded") from error
    if described(weights) != dense:
        raise DamagedError(f"{folder / WEIGHTS} does not hold the weights that its contract describes")
    graph = load_graph(folder / GRAPH)
    shards.load(manifest_sha256, deadline_seconds=load_seconds)
    return ShardedSnapshot(contract, graph, weights, shards=shards, manifest_sha256=manifest_sha256)


def embedders(addresses: Mapping[str, Sequence[str]], *, tls: Tls | None = None) -> Callable[[Path, str], Embedder]:
    """Makes the embedder of a sealed folder with that manifest's SHA-256. addresses: by model, of the shards where its
    tables lie (`infra.settings.Settings.shards`); of other models they are held here. tls: with the shards."""
    shards = {model: Shards(given, tls=tls) for model, given in addresses.items()}

    def embedder(folder: Path, manifest_sha256: str) -> Embedder:
        found = shards.get(read_contract(folder).model)
        load = load_snapshot if found is None else partial(load_sharded, shards=found)
        return Embedder(folder, manifest_sha256=manifest_sha256, load=load)

    return embedder
