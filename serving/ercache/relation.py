"""What staleness costs: a consumer's NE as a function of the age of the embeddings that it is given."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydantic import TypeAdapter, ValidationError

Floats = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class NeByStaleness:
    """A consumer's NE with embeddings of `ages_seconds`, as measured, and without any (None: not measured).

    Called with ages it gives NE: the measured values made monotone (older is never better), a straight line in
    log(1 + age) between two of them, the last one beyond; `ne_without` for an infinite age. So what is between the
    measured ages is interpolated, and what is beyond them a guess: measure where the trace's ages are.
    """

    model: str
    ages_seconds: tuple[float, ...]
    ne: tuple[float, ...]
    ne_without: float

    def __post_init__(self) -> None:
        ages = np.array(self.ages_seconds)
        if len(self.ne) != ages.size or ages.size < 2 or not (np.diff(ages) > 0).all() or ages[0] < 0:
            raise ValueError(
                f"{self.model}: NE {self.ne} by ages {self.ages_seconds}; give an NE for each of two or more "
                "rising ages of 0 s or more"
            )
        if not np.isfinite([*self.ne, self.ne_without]).all():
            raise ValueError(f"{self.model}: NE {self.ne}, without embeddings {self.ne_without}; each is finite")

    def __call__(self, ages_seconds: Floats) -> Floats:
        """[N] NE."""
        known = np.minimum(rising(np.array(self.ne)), self.ne_without)  # the default is never better than an embedding
        found = np.interp(np.log1p(ages_seconds), np.log1p(self.ages_seconds), known)
        return np.where(np.isinf(ages_seconds), self.ne_without, found)

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
