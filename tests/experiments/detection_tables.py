"""What the detection experiment found, as tables."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from tests.experiments.detection_faults import Fault
from tests.experiments.detection_world import Judged

QUIET = "none"
NOTHING = "none named"


def detection(planted: Sequence[Judged], chosen: Sequence[Fault]) -> Iterator[dict[str, Any]]:
    """Per fault and magnitude: how often it was planted, caught, and named first."""
    for fault in chosen:
        of = [judged for judged in planted if judged.fault == fault.label]
        if of:
            yield {
                "fault": fault.label,
                "kind": fault.kind,
                "planted": len(of),
                "caught": sum(judged.verdict != "promote" for judged in of),
                "named": sum(judged.causes[:1] == [fault.kind] for judged in of),
            }


def confusion(planted: Sequence[Judged], chosen: Sequence[Fault]) -> dict[str, dict[str, int]]:
    """Of the caught: the planted kind, and what was named first."""
    kind = {fault.label: fault.kind for fault in chosen}
    found: dict[str, Counter[str]] = {fault.kind: Counter() for fault in chosen}
    for judged in planted:
        if judged.verdict != "promote":
            found[kind[judged.fault]][judged.causes[0] if judged.causes else NOTHING] += 1
    return {name: dict(counts) for name, counts in found.items()}


def distribution(quiet: Sequence[Judged]) -> Iterator[dict[str, Any]]:
    """Of every metric over the quiet days: mean, standard deviation, smallest and largest; features pooled."""
    values: dict[str, list[float]] = {}
    for judged in quiet:
        for name, value in judged.values.items():
            values.setdefault(re.sub(r" (user|device|hour|(ids|dense)_\d+)$", " (any feature)", name), []).append(value)
    for name, of in values.items():
        yield {
            "metric": name.removeprefix("shift "),
            "mean": float(np.mean(of)),
            "std": float(np.std(of)),
            "min": min(of),
            "max": max(of),
        }


def summary(quiet: Sequence[Judged], planted: Sequence[Judged], chosen: Sequence[Fault]) -> dict[str, Any]:
    """Everything, in JSON's own types."""
    alarms = [judged for judged in quiet if judged.verdict != "promote"]
    return {
        "quiet_days": len(quiet),
        "false_alarms": len(alarms),
        "false_alarm_reasons": {judged.ds: judged.reasons for judged in alarms},
        "causes_on_quiet_days": sum(bool(judged.causes) for judged in quiet),
        "detection": list(detection(planted, chosen)),
        "confusion": confusion(planted, chosen),
        "distribution": list(distribution(quiet)),
    }


def markdown(quiet: Sequence[Judged], planted: Sequence[Judged], chosen: Sequence[Fault]) -> str:
    """The tables."""
    found = summary(quiet, planted, chosen)
    lines = [
        f"{found['quiet_days']} quiet days: {found['false_alarms']} false alarms; the diagnosis named a cause on "
        f"{found['causes_on_quiet_days']}.",
        *(f"- {ds}: {'; '.join(reasons)}" for ds, reasons in found["false_alarm_reasons"].items()),
        "",
        *_table(["planted", "days", "caught", "named"], _detection_cells(found["detection"])),
        "",
        *_confusion_lines(found["confusion"]),
        "",
        *_table(["metric on quiet days", "mean", "std", "min", "max"], _distribution_cells(found["distribution"])),
    ]
    return "\n".join(lines)


def _detection_cells(rows: Iterable[dict[str, Any]]) -> Iterator[list[str]]:
    for row in rows:
        yield [row["fault"], str(row["planted"]), str(row["caught"]), str(row["named"])]


def _distribution_cells(rows: Iterable[dict[str, Any]]) -> Iterator[list[str]]:
    for row in rows:
        yield [row["metric"], *(f"{row[name]:.4g}" for name in ("mean", "std", "min", "max"))]


def _confusion_lines(found: dict[str, dict[str, int]]) -> Iterator[str]:
    named = sorted({name for counts in found.values() for name in counts})
    cells = ([kind, *(str(counts.get(name, 0) or "") for name in named)] for kind, counts in found.items())
    yield from _table(["caught, planted as", *(f"named {name}" for name in named)], cells)


def _table(titles: Sequence[str], rows: Iterable[Sequence[str]]) -> Iterator[str]:
    yield f"| {' | '.join(titles)} |"
    yield f"|{'---|' * len(titles)}"
    yield from (f"| {' | '.join(row)} |" for row in rows)
