"""What the compute center serves, told to every client through the store."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, fields

from serving.record import KEPT


@dataclass(frozen=True, kw_only=True)
class Served:
    """One user model. ds: ISO date of the day that the version learnt last."""

    model: str
    source: str
    version: int
    ds: str
    num_embeddings: int
    dim: int
    pooling_versions: int = KEPT
    """How many of a record's entries are pooled: the newest."""
    withdrawn: tuple[int, ...] = ()
    """Versions that were rolled back or rejected after they had computed: their vectors are not pooled any more."""

    def to_json(self) -> str:
        """One line."""
        return json.dumps(asdict(self))

    @staticmethod
    def from_json(text: str | bytes) -> Served:
        """What `to_json` wrote, of this or a newer release. ValueError for anything else."""
        try:
            given = json.loads(text)
            known = {field.name: given[field.name] for field in fields(Served) if field.name in given}
            return Served(**{**known, "withdrawn": tuple(known.get("withdrawn", ()))})
        except (TypeError, ValueError) as error:
            raise ValueError(f"the store says of what is served: {str(text)[:200]}; announce it again") from error
