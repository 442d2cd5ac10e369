"""What every step hands back: plain values that an Airflow task can return and a command can print."""

from __future__ import annotations

import dataclasses
import math
from datetime import date, datetime
from pathlib import Path
from typing import Any


def plain(value: Any) -> Any:
    """`value` in JSON's own types: dataclasses as dicts, days and times ISO 8601, paths as text, tuples as lists.

    NaN and inf, which JSON has not, are null.
    """
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, dict):
        return {str(name): plain(item) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, datetime):
        return value.isoformat(timespec="seconds")
    if isinstance(value, (date, Path)):
        return str(value)
    return value


class Summarised:
    """A dataclass with a JSON-able `summary()`."""

    def summary(self) -> dict[str, Any]:
        """The fields in JSON's own types."""
        result: dict[str, Any] = plain(self)
        return result
