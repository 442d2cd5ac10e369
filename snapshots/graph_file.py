"""Reading `user_tower.pt2`: nothing of it reaches torch's loader before it is known to be a graph and nothing else.

torch's format is a zip that may hold pickles (example inputs, constants), and its graph is JSON in which text is run
as Python: guards, the symbolic expressions of sizes, the names of functions that nodes call. Here only what a user
tower needs is let through.
"""

from __future__ import annotations

import io
import json
import re
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch

from snapshots.seal import DamagedError

Graph = Callable[..., torch.Tensor]

_MODEL = "models/model.json"
_EMPTY = {
    "data/weights/model_weights_config.json": b'{"config": {}}',
    "data/constants/model_constants_config.json": b'{"config": {}}',
    "data/sample_inputs/model.pt": b"",
}
"""Entries that would name pickles, or be one."""
_ENTRIES = {
    _MODEL,
    *_EMPTY,
    "archive_format",
    "archive_version",
    "byteorder",
    ".data/version",
    ".data/serialization_id",
}
_OPERATOR = re.compile(
    r"torch\.ops\.aten\.[a-z][a-z0-9_]*\.[a-zA-Z][a-zA-Z0-9_]*|_operator\.(getitem|add|mul|sub|ge|le|eq)"
)
_EXPRESSION_TOKEN = re.compile(
    r"Symbol\('[a-z]+\d+'|(?:positive|integer|nonnegative)=True|(?:Integer|Add|Mul|Max|Min)\(|-?\d+|[(),\s]"
)
_ARGUMENTS = {
    *("as_tensor", "as_tensors", "as_int", "as_ints", "as_float", "as_bool", "as_none", "as_scalar_type"),
    *("as_sym_int", "as_sym_ints", "as_name", "as_expr"),
}
"""Numbers and tensors: no text, which could name a file."""


def load_graph(path: Path) -> Graph:
    """The graph as a function. DamagedError names what the file holds and should not."""
    try:
        return _loaded(path.read_bytes())
    except DamagedError as error:
        raise DamagedError(f"{path} {error}") from error


@lru_cache(maxsize=4)
def _loaded(content: bytes) -> Graph:
    """What is checked is what is loaded. A graph has no state, and every day of a recipe has the same: whoever loads it
    again is given what was loaded."""
    _check(content)
    try:
        operators = torch.export.load(io.BytesIO(content)).graph_module
    except Exception as error:
        raise DamagedError(f"is no graph that torch {torch.__version__} can read ({error})") from error

    def graph(weights: Sequence[torch.Tensor], *inputs: torch.Tensor) -> torch.Tensor:
        # without `module()`'s unpacking and checks of each call, which took as long as one user's forward
        (embeddings,) = operators(*weights, *inputs)
        return embeddings  # type: ignore[no-any-return]

    return graph


def _check(content: bytes) -> None:
    """DamagedError, which goes on after the file's name."""
    try:
        reader = torch._C.PyTorchFileReader(io.BytesIO(content))  # the loader's own: it sees the same entries
        names = reader.get_all_records()
        entries = {name: reader.get_record(name) for name in names}
    except (RuntimeError, ValueError) as error:
        raise DamagedError(f"is no .pt2 file, or is cut off ({str(error).splitlines()[0]})") from error
    if foreign := sorted(set(names) - _ENTRIES) or sorted({name for name in names if names.count(name) > 1}):
        raise DamagedError(f"holds {foreign}, which a graph without weights has not; it is not loaded")
    if missing := sorted({_MODEL, *_EMPTY} - set(names)):
        raise DamagedError(f"lacks {missing}; it is not loaded")
    if full := sorted(name for name, expected in _EMPTY.items() if entries[name] != expected):
        raise DamagedError(f"has {full}, which may hold pickles and should be empty; it is not loaded")
    try:
        model = json.loads(entries[_MODEL])
    except ValueError as error:
        raise DamagedError(f"has a {_MODEL} that is no JSON ({error})") from error
    for wrong in _unwanted(model):
        raise DamagedError(f"has {wrong} in {_MODEL}, which no user tower needs; it is not loaded")


def _unwanted(value: Any) -> Iterator[str]:
    """What torch would run, and is no operator of a tower."""
    if isinstance(value, list):
        for one in value:
            yield from _unwanted(one)
    if not isinstance(value, dict):
        return
    for name, one in value.items():
        if name == "target" and not (isinstance(one, str) and _OPERATOR.fullmatch(one)):
            yield f"the operator {one!r}"
        elif name == "expr_str" and not (isinstance(one, str) and _EXPRESSION_TOKEN.sub("", one) == ""):
            yield f"the expression {one!r}"
        elif name == "guards_code" and one:
            yield f"the guards {one!r}"
        elif name == "metadata" and one:
            yield f"the metadata {one!r}"
        elif name.startswith("as_") and name not in _ARGUMENTS:
            yield f"an argument of the kind {name!r}"
        else:
            yield from _unwanted(one)
