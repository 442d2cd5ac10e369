"""What a cache's staleness costs: a consumer's NE by how much older its embeddings are than without the cache."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydantic import TypeAdapter, ValidationError

Floats = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class NeByStaleness:
    """A consumer's NE with embeddings that are so many seconds older than they would be without a direct cache, as
    measured; 0: without one. Not by their age: an old embedding of a user who did nothing since has missed nothing.

    Called with added seconds it gives NE: the measured values made monotone (older is never better), a straight line in
    log(1 + added) between two of them, the last one beyond; `ne_without` for infinity, the default in place of an
    embedding. So what lies between is interpolated, and what lies beyond is a guess.
    """

    model: str
    added_seconds: tuple[float, ...]
    ne: tuple[float, ...]
    ne_without: float

    def __post_init__(self) -> None:
        added = np.array(self.added_seconds)
        if len(self.ne) != added.size or added.size < 2 or not (np.diff(added) > 0).all() or added[0] != 0:
            raise ValueError(
                f"{self.model}: NE {self.ne} by added seconds {self.added_seconds}; give an NE for each of two or more "
                "rising times, the first of them 0"
            )
        if not np.isfinite([*self.ne, self.ne_without]).all():
            raise ValueError(f"{self.model}: NE {self.ne}, without embeddings {self.ne_without}; each is finite")

    def __call__(self, added_seconds: Floats) -> Floats:
        """[N] NE."""
        found = np.interp(np.log1p(added_seconds), np.log1p(self.added_seconds), rising(np.array(self.ne)))
        return np.where(np.isinf(added_seconds), self.ne_without, found)

    def save(self, path: Path) -> None:
        """As JSON."""
        path.write_bytes(_DOCUMENTS.dump_json(self, indent=1))

    @classmethod
    def load(cls, path: Path) -> NeByStaleness:
        """What `save` wrote; ValueError for anything else."""
        try:
            return _DOCUMENTS.validate_json(path.read_bytes())
        except ValidationError as error:
            raise ValueError(f"{path} is no relation of NE to staleness: {error}") from error


_DOCUMENTS = TypeAdapter(NeByStaleness)


def rising(values: Floats) -> Floats:
    """The nearest sequence, in squares, that never falls: neighbours that do are averaged (pool adjacent violators)."""
    means: list[float] = []
    sizes: list[int] = []
    for value in values.tolist():
        means.append(value)
        sizes.append(1)
        while len(means) > 1 and means[-2] > means[-1]:
            size = sizes[-2] + sizes[-1]
            mean = (means[-2] * sizes[-2] + means[-1] * sizes[-1]) / size
            means[-2:], sizes[-2:] = [mean], [size]
    return np.repeat(means, sizes)
