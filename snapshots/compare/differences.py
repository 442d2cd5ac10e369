"""Where two versions differ in what they were made with: recipe, tables, features, code, libraries, plan, data."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from snapshots.export import read_contract
from snapshots.folder import on_disk
from snapshots.learnt import WHERE
from snapshots.registry import Version
from snapshots.summary import plain
from trainer.carryover.document import ModelDocument, read_model
from trainer.planning.inherit import read_plan
from trainer.trained import TrainedDay

_TAGS = (
    "parent_ds", "code_version", "checkpoint", "plan", "verdict", "decision", "decided_by", "note",
    "examples.table_version", "examples.fingerprint", WHERE, "user_features.table_version", "user_features.fingerprint",
    "embeddings.table_version", "alignment", "alignment.to",
)  # fmt: skip
_LIBRARIES = "versions"
_OF_THE_DAY = ("model", "ds", "fingerprint", "format", "schema_hash")


@dataclass(frozen=True, kw_only=True)
class Changed:
    """Something that the two were made with, and in which they differ. None: one of them lacks it."""

    part: str
    name: str
    a: str | None
    b: str | None


def differences(a: Version, b: Version, *, trained: tuple[TrainedDay | None, TrainedDay | None]) -> tuple[Changed, ...]:
    """Everything in which they differ: by the documents of both checkpoints, or of both snapshots where one is gone."""
    documents = [None if day is None else read_model(day.path) for day in trained]
    plans = [None if day is None else read_plan(day.path) for day in trained]
    contracts = [_contract(version) for version in (a, b)]
    found = list(_changed("lineage", *({name: version.tags.get(name) for name in _TAGS} for version in (a, b))))
    found += _changed("training", *(_of_training(day) for day in trained))
    libraries = [{name: of[name] for name in of if name.startswith(f"{_LIBRARIES}.")} for of in contracts]
    found += _changed("library", *libraries)
    if all(documents):
        found += _changed("config", *(_of_document(document) for document in documents))
    else:
        rest = [
            {name: of[name] for name in of if name not in library}
            for of, library in zip(contracts, libraries, strict=True)
        ]
        found += _changed("config", *rest)
    if all(plans):
        found += _changed("plan", *(flat(plan) for plan in plans))
    return tuple(found)


def _contract(version: Version) -> dict[str, str]:
    try:
        contract: Any = read_contract(on_disk(version))
    except (OSError, ValueError):
        return {}
    return {name: value for name, value in flat(contract).items() if name not in _OF_THE_DAY}


def _of_document(document: ModelDocument | None) -> dict[str, str]:
    assert document is not None
    return flat(document)


def _of_training(day: TrainedDay | None) -> dict[str, str | None]:
    if day is None:
        return {}
    return {"examples": f"{day.num_examples:,}", "ranks": str(day.ranks), "gap_days": str(day.gap_days)}


def flat(value: Any) -> dict[str, str]:
    """A dataclass as dotted names and texts; lists of named things by their names: `schema.tables.user.num_rows`."""
    return dict(_flat("", plain(value)))


def _flat(path: str, value: Any) -> Iterator[tuple[str, str]]:
    if isinstance(value, dict):
        for name, item in value.items():
            yield from _flat(f"{path}.{name}" if path else name, item)
    elif isinstance(value, list) and any(isinstance(item, (dict, list)) for item in value):
        for place, item in enumerate(value):
            name = item["name"] if isinstance(item, dict) and "name" in item else str(place)
            yield from _flat(f"{path}.{name}", item)
    elif isinstance(value, list):
        yield path, ", ".join(map(str, value))
    else:
        yield path, str(value)


def _changed(part: str, a: Mapping[str, str | None], b: Mapping[str, str | None]) -> Iterable[Changed]:
    names = dict.fromkeys([*a, *b])
    return [Changed(part=part, name=name, a=a.get(name), b=b.get(name)) for name in names if a.get(name) != b.get(name)]
