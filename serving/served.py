"""What the compute center serves, told to every client through the store."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass


@dataclass(frozen=True, kw_only=True)
class Served:
    """One user model. ds: ISO date of the day that the version learnt last."""

    model: str
    source: str
    version: int
    ds: str
    num_embeddings: int
    dim: int
    withdrawn: tuple[int, ...] = ()
    """Versions that were rolled back or rejected after they had computed: their vectors are not pooled any more."""

    def to_json(self) -> str:
        """One line."""
        return json.dumps(asdict(self))

    @staticmethod
    def from_json(text: str | bytes) -> Served:
        """What `to_json` wrote."""
        fields = json.loads(text)
        return Served(**{**fields, "withdrawn": tuple(fields["withdrawn"])})
