"""Content addresses: the same inputs give the same fingerprint, and so the same partition or snapshot."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Iterator
from datetime import date, timedelta
from pathlib import Path
from typing import Any

ADDED_LATER = {"usermodel.fingerprint": "only if not the default"}
"""Metadata of a dataclass field that came after its class was in use: while it has its default, what was made before
keeps its fingerprint."""


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {"type": type(value).__name__, **{f.name: getattr(value, f.name) for f in _counted(value)}}
    if isinstance(value, date):
        return value.isoformat()
    if isinstance(value, timedelta):
        return value.total_seconds()
    raise TypeError(f"{type(value).__name__} has no fingerprint; use dataclasses, dates and plain JSON values")


def _counted(value: Any) -> Iterator[dataclasses.Field[Any]]:
    for field in dataclasses.fields(value):
        if field.metadata != ADDED_LATER or getattr(value, field.name) != field.default:
            yield field


def canonical_json(value: Any) -> str:
    """`value` as JSON with sorted keys; dataclasses and dates included."""
    return json.dumps(value, default=_plain, sort_keys=True, separators=(",", ":"))


def fingerprint(*inputs: Any) -> str:
    """SHA-256 (hex) over the canonical JSON of `inputs`."""
    return hashlib.sha256(canonical_json(inputs).encode()).hexdigest()


def file_sha256(path: Path) -> str:
    """SHA-256 (hex) of a file's bytes, read in blocks."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
