"""What a person wants to see after some days: NE, shift, versions, decisions, what consumers gained."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import date

from rich.table import Table

from features.lake import Lake
from features.selection import described
from features.table_use import compact
from infra.commands.loop import Wanted, consumers_of_all
from infra.commands.options import console
from infra.settings import Settings
from snapshots.registry import Registry, Version
from snapshots.shift.rows import ShiftRow, read_rows, table_of
from trainer.downstream.checkpoint import Checkpoints
from trainer.downstream.day import DownstreamDay
from trainer.recipe import Recipe
from trainer.recipes import get_downstream
from trainer.trained import trained_days

BLANK = "–"  # noqa: RUF001
LEGEND = (
    "NE (Eq. 9) is progressive: every batch is scored before it is learnt. Cosine and norm change: the same users, "
    "since the last promoted day; each embedding as computed → pooled over the newest versions."
)


def print_summary(wanted: Sequence[Wanted], *, settings: Settings) -> None:
    """Of each user model the table of its days, one row each; then one table of whoever reads them."""
    for one in wanted:
        _print_user_model(one.recipe, one.days, settings=settings)
    console(width=150).print(LEGEND, highlight=False)
    days = {day for one in wanted for day in one.days}
    if (table := _downstream(consumers_of_all(wanted), days, settings=settings)).row_count:
        console(width=150).print(table)


def _print_user_model(recipe: Recipe, days: Sequence[date], *, settings: Settings) -> None:
    terminal = console(width=150)
    terminal.print(_user_model(recipe, days, settings=settings))
    newest = [day for day in trained_days(settings, recipe.name) if day.ds in days][-1:]
    for line in (line for day in newest for line in compact(day.tables)):
        terminal.print(f"tables on {newest[0].ds}: {line}", highlight=False)
    held = [ds for ds in days if (version := Registry(settings).find(recipe.name, ds)) and version.decision == "held"]
    if held:
        terminal.print(
            f"held for a person: {', '.join(map(str, held))}. Read the report, then answer under Required Actions, "
            f"{settings.airflow}/required_actions: `usermodel snapshots report --recipe {recipe.name} --ds {held[0]}`"
        )


def _user_model(recipe: Recipe, days: Sequence[date], *, settings: Settings) -> Table:
    of = f": examples of {recipe.source.name} where {described(recipe.examples)}" if recipe.examples else ""
    table = Table(title=f"user model {recipe.name}{of}", title_justify="left")
    tasks = [task.name for task in recipe.tasks]
    for heading in ("day", "examples", *(f"NE {task}" for task in tasks), *(f"AUC {task}" for task in tasks)):
        table.add_column(heading, justify="right")
    for heading in ("cosine", "norm change", "version", "decision"):
        table.add_column(heading, justify="right")
    registry, lake = Registry(settings), Lake(settings.lake)
    trained = {day.ds: day for day in trained_days(settings, recipe.name)}
    aliases = registry.aliases(recipe.name)
    for ds in days:
        if ds not in trained:
            table.add_row(str(ds), *[BLANK] * (len(table.columns) - 1))
            continue
        day, version = trained[ds], registry.find(recipe.name, ds)
        shift = lake.find(table_of(recipe.name), ds)
        rows = read_rows(lake, shift) if shift else ()
        marks = [alias for alias, number in aliases.items() if version and number == version.number]
        table.add_row(
            str(ds),
            f"{day.num_examples:,}",
            *(_number(day.metrics[task]["ne"], 4) for task in tasks),
            *(_number(day.metrics[task]["auc"], 3) for task in tasks),
            _moved(rows, "cosine_mean", recipe, "{:.3f}"),
            _moved(rows, "norm_change_mean", recipe, "{:.1%}"),
            f"v{version.number}" if version else BLANK,
            _decision(version, marks) if version else BLANK,
        )
    return table


def _decision(version: Version, marks: Sequence[str]) -> str:
    waits = f"waits for {', '.join(version.waits_for)}" if version.waits_for else ""
    return " ".join(filter(None, [version.decision, waits, *marks]))


def _moved(rows: Sequence[ShiftRow], metric: str, recipe: Recipe, form: str) -> str:
    """`computed → pooled` per embedding."""
    found = {
        (row.embedding, row.pooling): form.format(row.value)
        for row in rows
        if row.kind == "consecutive_days" and row.metric == metric
    }
    pooling = str(recipe.pooling_versions)
    cells = [
        f"{found[k, 'none']} → {found[k, pooling]}"
        for k in range(recipe.user_tower.num_embeddings)
        if (k, "none") in found and (k, pooling) in found
    ]
    return "\n".join(cells) or BLANK


def _downstream(names: Sequence[str], days: Collection[date], *, settings: Settings) -> Table:
    table = Table(title="downstream models: next day's NE, without and with the embeddings", title_justify="left")
    for heading in ("model", "reads"):
        table.add_column(heading)
    for heading in ("day", "examples", "users with embedding", "NE without", "NE with", "difference", "95 % interval"):
        table.add_column(heading, justify="right")
    for name in names:
        head = [name, " ".join(get_downstream(name).upstreams)]
        for day in Checkpoints(settings, name).days():
            if day.ds in days:
                table.add_row(*head, *_downstream_row(day))
                head = ["", ""]
        table.add_section()
    return table


def _downstream_row(day: DownstreamDay) -> list[str]:
    row = [str(day.ds), f"{day.num_examples:,}", f"{day.coverage.users:.0%}"]
    if day.evaluation is None:
        return [*row, BLANK, BLANK, BLANK, "first trained day"]
    scores = day.evaluation.everyone
    interval = f"{scores.interval[0]:+.2f} … {scores.interval[1]:+.2f} %" if scores.interval else BLANK
    return [
        *row,
        _number(scores.baseline.ne, 4),
        _number(scores.sum.ne, 4),
        f"{scores.ne_diff_percent:+.2f} %",
        interval,
    ]


def _number(value: float | None, digits: int) -> str:
    return BLANK if value is None else f"{value:.{digits}f}"
