"""The contract of a snapshot: what goes in, what comes out, and what it takes to build the module again."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from features.fingerprint import fingerprint
from features.schema import Schema
from trainer.recipe import Recipe
from trainer.towers import UserTower

FORMAT = 2


@dataclass(frozen=True, kw_only=True)
class Contract:
    """The user side alone: `schema` has no item-side feature and only the tables that the user side uses."""

    model: str
    ds: date
    fingerprint: str
    """Of the training that made the weights."""
    schema: Schema
    """Features in the order of the inputs; tables with their hash sizes."""
    user_tower: UserTower
    """K = num_embeddings and D = dim of the output [B, K, D] float32, and the tower's own config."""
    versions: dict[str, str]
    """Of the libraries that wrote the snapshot."""

    schema_hash: str
    """The same for two snapshots that take the same inputs."""
    format: int = FORMAT

    def __post_init__(self) -> None:
        if self.format != FORMAT:
            raise ValueError(f"the contract has format {self.format}; this version reads format {FORMAT}")
        if self.schema_hash != fingerprint(self.schema):
            raise ValueError(f"the schema's hash is {fingerprint(self.schema)}, not {self.schema_hash}")

    def write(self, path: Path) -> None:
        """As JSON."""
        path.write_bytes(_CONTRACTS.dump_json(self, indent=2) + b"\n")

    @classmethod
    def read(cls, path: Path) -> Contract:
        """ValueError for what is no contract of this format, or whose schema does not match its hash."""
        try:
            return _CONTRACTS.validate_json(path.read_bytes())
        except ValidationError as error:
            raise ValueError(f"{path} is no contract: {error}") from error


_CONTRACTS = TypeAdapter(Contract)


def user_schema(schema: Schema) -> Schema:
    """What of `schema` the user tower sees."""
    sparse = schema.sparse_of("user")
    used = {feature.table for feature in sparse}
    return Schema(
        tables=tuple(table for table in schema.tables if table.name in used),
        sparse=sparse,
        dense=schema.dense_of("user"),
        tasks=schema.tasks,
    )


def contract_of(recipe: Recipe, ds: date, *, training: str, versions: dict[str, str]) -> Contract:
    """The contract of the day's user tower. training: the fingerprint of what made its weights."""
    schema = user_schema(recipe.schema)
    return Contract(
        model=recipe.name,
        ds=ds,
        fingerprint=training,
        schema=schema,
        schema_hash=fingerprint(schema),
        user_tower=recipe.user_tower,
        versions=versions,
    )
