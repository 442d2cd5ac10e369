"""The contract of a snapshot: what goes in, what comes out, and how, for a reader who has none of our code."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import TypeAdapter, ValidationError

from features.fingerprint import fingerprint
from features.schema import Schema
from features.selection import Selection
from snapshots.tables import Precision
from trainer.recipe import Recipe
from trainer.towers import UserTower

if TYPE_CHECKING:
    import torch

FORMAT = 3

GRAPH = "user_tower.pt2"
WEIGHTS = "user_tower.safetensors"


def map_file(table: str) -> str:
    """Of a managed table: which id owns which row."""
    return f"ids.{table}.parquet"


HOW = {
    "load": (
        f"graph = torch.export.load('{GRAPH}').module(); weights = safetensors.torch.load_file('{WEIGHTS}'); "
        "embeddings = graph([weights[w['name']] for w in contract['weights']], rows, offsets, dense). Check the "
        "SHA-256 of every file against manifest.json first: torch runs what a .pt2 file says."
    ),
    "rows": (
        "F = number of schema.sparse. All lists of the first feature, user by user, then of the second, and so on, "
        "ids replaced by rows: first_rows[feature.table] + row of the id within its table."
    ),
    "offsets": "Where list f * B + b (feature f, user b) begins in rows; at the end, the length of rows.",
    "dense": "schema.dense in order; transform log1p is ln(1 + x); a missing value is 0 before it.",
    "hashed": (
        "The row of an id in a table of kind hashed, all modulo 2^64: h = id; h ^= h >> 30; h *= 0xBF58476D1CE4E5B9; "
        "h ^= h >> 27; h *= 0x94D049BB133111EB; h ^= h >> 31; row = h mod num_rows (splitmix64's finaliser)."
    ),
    "managed": (
        "The row of an id in a table of kind managed: column `rows` of ids.<table>.parquet where column `ids` has the "
        "id; for every other id num_rows - overflow_rows + (h mod overflow_rows), h as for hashed."
    ),
    "int8": "A table row is tables * tables.scale + tables.offset; the graph does it.",
    "outputs": "Embeddings, [B, K, D] float32.",
}
"""For whoever reads the JSON."""


@dataclass(frozen=True, kw_only=True)
class Tensor:
    """An input of the graph. shape: numbers, or letters for what is free."""

    name: str
    dtype: str
    shape: tuple[int | str, ...]


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
    tables: Precision
    """Of the tables' weights; the dense part is float32."""
    first_rows: dict[str, int]
    """By table: where its rows begin in the matrix `tables`."""
    weights: tuple[Tensor, ...]
    """The graph's first input, a list in this order."""
    num_bytes: int
    """Of the weights."""
    inputs: tuple[Tensor, ...]
    """The graph's other inputs, in order."""
    aligned: bool
    """Whether the last step multiplies by `alignment`, which maps into the space of the snapshot before."""
    versions: dict[str, str]
    """Of the libraries that wrote the snapshot."""

    schema_hash: str
    """The same for two snapshots that take the same inputs."""
    examples: tuple[Selection, ...] = ()
    """It learnt those of the source's examples that every one of these selects."""
    how: dict[str, str] = field(default_factory=lambda: dict(HOW))
    """How to use it, in words."""
    format: int = FORMAT

    def __post_init__(self) -> None:
        if self.format != FORMAT:
            raise ValueError(
                f"the contract has format {self.format}; this version reads format {FORMAT}: publish the day again"
            )
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


def contract_of(
    recipe: Recipe,
    ds: date,
    *,
    training: str,
    weights: Mapping[str, torch.Tensor],
    aligned: bool,
    versions: dict[str, str],
    examples: Sequence[Selection] = (),
) -> Contract:
    """The contract of the day's user tower. training: the fingerprint of what made its weights."""
    schema = user_schema(recipe.schema)
    return Contract(
        model=recipe.name,
        ds=ds,
        fingerprint=training,
        schema=schema,
        schema_hash=fingerprint(schema),
        user_tower=recipe.user_tower,
        tables=recipe.export.tables,
        first_rows=_first_rows(schema),
        weights=tuple(described(weights)),
        num_bytes=sum(tensor.nbytes for tensor in weights.values()),
        inputs=(
            Tensor(name="rows", dtype="int64", shape=("n",)),
            Tensor(name="offsets", dtype="int64", shape=(f"{len(schema.sparse)} * B + 1",)),
            Tensor(name="dense", dtype="float32", shape=("B", len(schema.dense))),
        ),
        aligned=aligned,
        versions=versions,
        examples=tuple(examples),
    )


def described(weights: Mapping[str, torch.Tensor]) -> list[Tensor]:
    """Names, types and shapes."""
    return [
        Tensor(name=name, dtype=str(tensor.dtype).removeprefix("torch."), shape=tuple(tensor.shape))
        for name, tensor in weights.items()
    ]


def _first_rows(schema: Schema) -> dict[str, int]:
    first, row = {}, 0
    for table in schema.tables:
        first[table.name] = row
        row += table.num_rows
    return first
