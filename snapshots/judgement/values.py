"""What there is to judge about a day: one number each, known by kind, metric, subject, pooling and users."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from features.lake import Lake
from snapshots.learnt import num_learnt
from snapshots.registry import Version, partition_from
from snapshots.shift.rows import EVERYONE, NOT_POOLED, PREDECESSOR, ShiftRow

TRAINING, COUNTS = "training", "counts"

Metrics = Mapping[str, Mapping[str, float | None]]
Key = tuple[str, str, str, str, str]


@dataclass(frozen=True, kw_only=True)
class Value:
    """One number of the day. value: None where it is not defined, as NE is of a day without a positive; never NaN."""

    kind: str
    metric: str
    subject: str = ""
    """The task, the embedding or the feature that it is about; empty: the day."""
    pooling: str = NOT_POOLED
    users: str = EVERYONE
    value: float | None
    num_users: int = 0
    note: str = ""
    """Why it could not be measured; empty where it could."""

    @property
    def key(self) -> Key:
        """The same of every day."""
        return self.kind, self.metric, self.subject, self.pooling, self.users

    @property
    def name(self) -> str:
        """`cosine_mean of embedding 1, pooling 3, consecutive days`."""
        name = " of ".join(filter(None, (self.metric, self.subject)))
        if self.pooling != NOT_POOLED:
            name += f", pooling {self.pooling}"
        if self.users != EVERYONE:
            name += f", {self.users}"
        return name if self.kind in (TRAINING, COUNTS) else f"{name}, {self.kind.replace('_', ' ')}"


def day_values(
    version: Version, tasks: Iterable[str], *, parent: Version | None, shift: Iterable[ShiftRow], lake: Lake
) -> Iterator[Value]:
    """Every number of the day: of its training, of its counts, and of its shift."""
    learnt = {task: version.metrics[task] for task in tasks if task in version.metrics}
    yield from training_values(learnt, before=parent.metrics if parent else {})
    yield from count_values(version, lake)
    yield from shift_values(shift)


def training_values(metrics: Metrics, *, before: Metrics) -> Iterator[Value]:
    """NE, its rise and calibration of every task; before: of the version that training began from."""
    for task, values in sorted(metrics.items()):
        for metric in ("ne", "calibration"):
            yield Value(kind=TRAINING, metric=metric, subject=task, value=_defined(values.get(metric)))
        ne, ne_before = values.get("ne"), before.get(task, {}).get("ne")
        if ne is not None and ne_before is not None:
            yield Value(kind=TRAINING, metric="ne_rise", subject=task, value=_defined(ne - ne_before))


def count_values(version: Version, lake: Lake) -> Iterator[Value]:
    """Users, examples that were learnt, and the share of the users that have an embedding."""
    partitions = {name: partition_from(version.tags, name, version.ds) for name in ("user_features", "examples")}
    counts = {name: None if part is None else lake.num_rows(part) for name, part in partitions.items()}
    num_examples = num_learnt(version)
    if num_examples is None:
        num_examples = counts["examples"]
    num_embedded = 0 if version.embeddings is None else lake.num_rows(version.embeddings)
    num_users = counts["user_features"] or 0
    yield Value(kind=COUNTS, metric="users", value=float(num_users), num_users=num_users)
    if num_examples is not None:
        yield Value(kind=COUNTS, metric="examples", value=float(num_examples), num_users=num_users)
    coverage = num_embedded / num_users if num_users else 0.0
    yield Value(kind=COUNTS, metric="coverage", value=coverage, num_users=num_users)


def shift_values(rows: Iterable[ShiftRow]) -> Iterator[Value]:
    """The rows of `shift/<model>`; of PREDECESSOR those alone that say why there is nothing more."""
    for row in rows:
        if row.metric == PREDECESSOR and not row.note:
            continue
        yield Value(
            kind=row.kind,
            metric=row.metric,
            subject=row.feature or ("" if row.embedding is None else f"embedding {row.embedding}"),
            pooling=row.pooling,
            users=row.users,
            value=_defined(row.value),
            num_users=row.num_users,
            note=row.note,
        )


def _defined(value: float | None) -> float | None:
    return None if value is None or math.isnan(value) else value
