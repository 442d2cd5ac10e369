"""A sealed snapshot as a function from rows of user features to vectors."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from features.lake import Lake, Partition
from features.schema import USER_ID
from snapshots.embeddings import fp16_exact
from snapshots.export import Snapshot, load_snapshot, read_snapshot_maps
from snapshots.folder import on_disk
from snapshots.registry import Version

if TYPE_CHECKING:
    import torch
    from numpy.typing import NDArray

    Inputs = tuple[torch.Tensor, torch.Tensor, torch.Tensor]
    """Of the graph: rows, offsets, dense."""

ROWS_PER_BATCH = 4_096
"""What is read at a time by those who embed a sample."""
USERS_PER_FORWARD = 512
"""What a layer makes of so many users still lies in the caches when the next one reads it."""


class Embedder:
    """Reads nothing: rows in, vectors out. Checksums are verified when it is made, by `load`."""

    def __init__(
        self, folder: Path, *, manifest_sha256: str | None = None, load: Callable[..., Snapshot] = load_snapshot
    ) -> None:
        from features.batches import Encoder

        self._snapshot = load(folder, manifest_sha256=manifest_sha256)
        schema, maps = self._snapshot.contract.schema, read_snapshot_maps(folder)
        self._encoder = Encoder(schema, sides=("user",), maps=maps)

    @property
    def columns(self) -> list[str]:
        """The feature columns that it reads."""
        return self._encoder.columns

    def require_columns(self, lake: Lake, users: Partition) -> None:
        """ValueError where the day's files lack a feature that it reads."""
        from features.reader import require_columns

        require_columns(lake.dataset(users), users, self._encoder)

    def encode(self, rows: pa.RecordBatch | pa.Table) -> list[Inputs]:
        """The graph's inputs for `rows`, USERS_PER_FORWARD at a time; the last is padded. None for no rows."""
        if not rows.num_rows:
            return []
        size = min(USERS_PER_FORWARD, rows.num_rows)
        batches = self._encoder.batches(rows, order=np.arange(rows.num_rows), batch_size=size)
        return [self._snapshot.inputs(batch) for batch in batches]

    def compute(self, inputs: Sequence[Inputs], *, num_rows: int) -> NDArray[np.float32]:
        """[num_rows, K, D], as the graph gives them."""
        import torch

        tower = self._snapshot.contract.user_tower
        vectors = torch.empty(num_rows, tower.num_embeddings, tower.dim)
        begin = 0
        with torch.inference_mode():
            for one in inputs:
                part = vectors[begin : begin + len(one[2])]
                part.copy_(self._snapshot(*one)[: len(part)])
                begin += len(part)
        return vectors.numpy()

    def embed(self, rows: pa.RecordBatch | pa.Table) -> NDArray[np.float32]:
        """[B, K, D], fp16-exact. ValueError names a user whose vector is not finite."""
        vectors = fp16_exact(self.compute(self.encode(rows), num_rows=rows.num_rows))
        require_finite(vectors, rows.column(USER_ID))
        return vectors


def embedder_of(version: Version) -> Embedder:
    """The version's embedder, its checksums verified against the registry."""
    return Embedder(on_disk(version), manifest_sha256=version.tags["manifest_sha256"])


def require_finite(vectors: NDArray[np.float32], user_ids: Sequence[int] | pa.Array | NDArray[np.int64]) -> None:
    """ValueError names a user whose vector is not."""
    finite = np.isfinite(vectors).all(axis=(1, 2))
    if not finite.all():
        user = user_ids[int(np.argmin(finite))]
        raise ValueError(
            f"user {user} has a vector with NaN or inf ({int((~finite).sum())} such users in the batch); "
            "nothing is written: look at the training loss and at that user's features"
        )


@contextmanager
def one_thread() -> Iterator[None]:
    """Torch on one thread: one process per core, and sums in one order."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
