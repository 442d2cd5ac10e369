"""Two versions side by side as tables for a person."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from rich.table import Table

from infra.commands.options import console

_CHANGES_SHOWN = 25
_FEATURES_SHOWN = 20


def print_comparison(found: dict[str, Any]) -> None:
    """`found`: what the step `compare` gives."""
    terminal = console(width=150)
    a, b = found["a"], found["b"]
    terminal.print(
        f"{found['model']}: A is version {a['number']} of {a['ds']} ({a['decision']}), "
        f"B is version {b['number']} of {b['ds']} ({b['decision']})"
    )
    for note in found["notes"]:
        terminal.print(f"note: {note}", markup=False)
    if found["on"]:
        terminal.print(_scores(found))
    if found["moved"]:
        terminal.print(_moved(found))
    elif found["shift"]:
        terminal.print(_shift(found))
    if found["features"]:
        terminal.print(_features(found))
    if found["changed"]:
        terminal.print(_changed(found))
    terminal.print(f"with plots: {found['page']}", soft_wrap=True, markup=False)


def _scores(found: dict[str, Any]) -> Table:
    on = found["on"]
    learnt = "which neither has learnt" if on["held_out"] else "which the newer one has learnt"
    title = f"on the same {on['num_examples']:,} examples of {on['num_users']:,} users of {on['ds']}, {learnt}"
    rows = (
        (
            of["task"], of["users"], of["metric"], _number(of["a"]), _number(of["b"]),
            _number(of["difference"], "+.4f"), " … ".join(f"{cut:+.4f}" for cut in of["interval"] or ()),
            f"{of['num_examples']:,}", f"{of['num_users']:,}",
        )
        for of in found["scores"]
    )  # fmt: skip
    headings = ("task", "users", "metric", ">A", ">B", ">B - A", ">95 % interval", ">examples", ">users")
    return _table(title, headings, rows)


def _moved(found: dict[str, Any]) -> Table:
    rows = (
        (
            of["users"],
            str(of["embedding"]),
            _number(of["cosine_mean"]),
            _number(of["norm_change_mean"]),
            f"{of['num_users']:,}",
        )
        for of in found["moved"]
    )
    headings = ("users", ">embedding", ">cosine", ">norm change", ">users")
    return _table("shift: the same users through both, mean", headings, rows)


def _shift(found: dict[str, Any]) -> Table:
    rows = (
        (of["metric"], str(of["embedding"]), _number(of["value"]), f"{of['num_users']:,}")
        for of in found["shift"]
        if of["embedding"] is not None
    )
    title = f"shift: the active users of {found['b']['ds']} through both snapshots"
    return _table(title, ("metric", ">embedding", ">value", ">users"), rows)


def _features(found: dict[str, Any]) -> Table:
    tasks = list(found["features"][0]["ne_change"])
    notes = any(of["note"] for of in found["features"])
    rows = [
        (
            of["feature"], of["table"], _number(of["row_change"], ".1%"), _number(of["cosine"]),
            *(_number(of["ne_change"].get(task), "+.5f") for task in tasks), *([of["note"]] if notes else []),
        )
        for of in found["features"]
    ]  # fmt: skip
    title = (
        f"each feature's table taken from B into A alone, on {found['on']['num_feature_examples']:,} of the examples"
    )
    headings = ["feature", "table", ">row change", ">cosine", *(f">NE {task}" for task in tasks)]
    return _table(title, headings + [""] * notes, rows, most=_FEATURES_SHOWN)


def _changed(found: dict[str, Any]) -> Table:
    rows = [(of["part"], of["name"], of["a"] or "none", of["b"] or "none") for of in found["changed"]]
    return _table("made with", ("", "what", "A", "B"), rows, most=_CHANGES_SHOWN)


def _table(title: str, headings: Sequence[str], rows: Iterable[Sequence[str]], *, most: int | None = None) -> Table:
    """A heading that begins with `>` is a column of numbers."""
    table = Table(title=title, title_justify="left")
    for heading in headings:
        table.add_column(heading.removeprefix(">"), justify="right" if heading.startswith(">") else "left")
    listed = list(rows)
    for row in listed[:most]:
        table.add_row(*(cell.replace("[", "\\[") for cell in row))
    if most is not None and len(listed) > most:
        table.caption = f"and {len(listed) - most} more: --json, or the page"
    return table


def _number(value: float | None, form: str = ".4f") -> str:
    return "" if value is None else format(value, form)
