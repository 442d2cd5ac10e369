"""Which version a person means: by number, day or alias."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date
from typing import get_args

from features.days import parse_day
from snapshots.registry import Alias, Registry, Version


def resolve_pair(registry: Registry, model: str, a: str, b: str) -> tuple[Version, Version]:
    """Both versions. ValueError for one that there is not, and for twice the same."""
    versions, aliases = registry.versions(model), registry.aliases(model)
    if not versions:
        raise ValueError(f"{model} has no version; run `usermodel snapshots publish --recipe {model} --ds D` first")
    first, second = (_resolve(model, versions, aliases, text) for text in (a, b))
    if first.number == second.number:
        raise ValueError(f"{a} and {b} are both {first.described()}; name two versions")
    return first, second


def _resolve(model: str, versions: Sequence[Version], aliases: dict[str, int], text: str) -> Version:
    if text in get_args(Alias):
        if text not in aliases:
            raise ValueError(f"{model} has no {text}; its aliases: {_listed(aliases)}")
        return _numbered(model, versions, aliases[text])
    number = text.removeprefix("v")
    if number.isdigit():
        return _numbered(model, versions, int(number))
    try:
        ds = parse_day(text)
    except ValueError as error:
        raise ValueError(
            f"{text!r} is no version: give a number, a day (YYYY-MM-DD) or one of {', '.join(get_args(Alias))}"
        ) from error
    return _of_day(model, versions, ds)


def _numbered(model: str, versions: Sequence[Version], number: int) -> Version:
    found = next((version for version in versions if version.number == number), None)
    if found is None:
        raise ValueError(
            f"{model} has no version {number}; it has {versions[0].number} to {versions[-1].number}, "
            f"of {min(v.ds for v in versions)} to {max(v.ds for v in versions)}"
        )
    return found


def _of_day(model: str, versions: Sequence[Version], ds: date) -> Version:
    found = [version for version in versions if version.ds == ds]
    if not found:
        days = sorted({version.ds for version in versions})
        raise ValueError(f"{model} has no version of {ds}; its days: {days[0]} to {days[-1]}")
    return found[-1]


def _listed(aliases: dict[str, int]) -> str:
    return ", ".join(f"{alias} (version {number})" for alias, number in sorted(aliases.items())) or "none"
