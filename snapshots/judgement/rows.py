"""`gate/<model>`: every value of a judged day, what it was compared with, and the verdict. Kept as it was judged."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import date, timedelta

import pyarrow as pa

from features.fingerprint import fingerprint
from features.lake import Lake, Partition
from snapshots.judgement.check import Check
from snapshots.judgement.usual import Trailing
from snapshots.judgement.values import Key, Value
from snapshots.registry import Registry, Version

ROWS = pa.schema(
    [
        ("version", pa.int32()),
        ("kind", pa.string()),
        ("metric", pa.string()),
        ("subject", pa.string()),
        ("pooling", pa.string()),
        ("users", pa.string()),
        ("value", pa.float64()),
        ("usual", pa.float64()),
        ("spread", pa.float64()),
        ("num_days", pa.int32()),
        ("threshold", pa.float64()),
        ("rule", pa.string()),
        ("verdict", pa.string()),
        ("about", pa.string()),
        ("sentence", pa.string()),
    ]
)


@dataclass(frozen=True, kw_only=True)
class JudgedRow:
    """One value. Of one that no rule is about: no rule, verdict, about and sentence."""

    version: int
    kind: str
    metric: str
    subject: str
    pooling: str
    users: str
    value: float | None
    usual: float | None = None
    spread: float | None = None
    num_days: int = 0
    threshold: float | None = None
    rule: str = ""
    verdict: str = ""
    about: str = ""
    sentence: str = ""


def table_of(model: str) -> str:
    """The lake's table of what was judged."""
    return f"gate/{model}"


def commit_rows(lake: Lake, version: Version, values: Sequence[Value], checks: Sequence[Check]) -> Partition:
    """The day's partition; the same judgement again writes nothing, another one takes its place."""
    judged = {check.of.key for check in checks}
    rows = [_of_check(version.number, check) for check in checks]
    rows += [_of_value(version.number, value) for value in values if value.key not in judged]
    plain = [vars(row) for row in rows]
    return lake.commit(
        table_of(version.model),
        version.ds,
        pa.Table.from_pylist(plain, schema=ROWS),
        fingerprint=fingerprint(plain),
        metadata={"version": version.number},
    )


def read_judged(lake: Lake, partition: Partition) -> tuple[JudgedRow, ...]:
    """The partition's rows."""
    return tuple(JudgedRow(**row) for row in lake.read(partition, columns=ROWS.names).to_pylist())


def read_trailing(registry: Registry, lake: Lake, model: str, ds: date, *, days: int) -> Trailing:
    """The values of the promoted versions of the `days` days before `ds`, by metric."""
    promoted = {
        version.ds: version.number
        for version in registry.promoted(model, before=ds)
        if version.ds >= ds - timedelta(days=days)
    }
    found: defaultdict[Key, dict[date, float]] = defaultdict(dict)
    for day, partition in lake.find_all(table_of(model), promoted).items():
        columns = lake.read(partition, columns=["version", "kind", "metric", "subject", "pooling", "users", "value"])
        for number, *key, value in zip(*(column.to_pylist() for column in columns.columns), strict=True):
            if number == promoted[day] and value is not None:
                found[_key(key)][day] = value
    return {key: tuple(by_day.values()) for key, by_day in found.items()}


def _key(parts: Iterable[str]) -> Key:
    kind, metric, subject, pooling, users = parts
    return kind, metric, subject, pooling, users


def _of_check(version: int, check: Check) -> JudgedRow:
    bare = _of_value(version, check.of)
    judged = {
        name: getattr(check, name)
        for name in ("usual", "spread", "num_days", "threshold", "rule", "verdict", "about", "sentence")
    }
    return JudgedRow(**(vars(bare) | judged))


def _of_value(version: int, value: Value) -> JudgedRow:
    return JudgedRow(
        version=version,
        kind=value.kind,
        metric=value.metric,
        subject=value.subject,
        pooling=value.pooling,
        users=value.users,
        value=value.value,
    )
