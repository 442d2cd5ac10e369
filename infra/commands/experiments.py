"""`usermodel experiments …`: the paper's tables as this project gives them, and what the paper leaves open."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape
from rich.table import Table

from infra.commands.options import console
from infra.experiments.studies import OF_WORLDS, STUDIES, TABLES, get_study
from infra.settings import Settings, get_settings

if TYPE_CHECKING:
    from infra.experiments.finding import Finding
    from infra.experiments.setting import Setting

group = typer.Typer(help="The paper's tables, measured here; and what it leaves open.", no_args_is_help=True)

SettingName = Annotated[
    str, typer.Option("--setting", help="synthetic, intent, globo, or quick (which shows nothing).")
]
Seeds = Annotated[int | None, typer.Option("--seeds", min=1, help="Seeds 0 to N - 1; default: the setting's.")]
Days = Annotated[int | None, typer.Option("--days", help="The setting's first days only, at least 3.")]
OneOf = Annotated[int | None, typer.Option("--one-of", min=1, help="Keep one user of so many.")]
Data = Annotated[Path | None, typer.Option("--data", help="Folder of the real logs.", show_default="the setting's")]
Home = Annotated[Path | None, typer.Option("--home", help="Where results are kept.", show_default="the setting's")]
Workers = Annotated[int | None, typer.Option("--workers", min=0, help="Processes; default: one per core, at most 2.")]
Again = Annotated[bool, typer.Option("--again", help="Forget what was measured before.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of tables; of several studies a list.")]
Plot = Annotated[Path | None, typer.Option("--plot", help="Write the picture there too, PNG.")]


def _command(*studies: str) -> Callable[..., None]:
    def command(
        setting: SettingName = "synthetic",
        seeds: Seeds = None,
        days: Days = None,
        one_of: OneOf = None,
        data: Data = None,
        home: Home = None,
        workers: Workers = None,
        again: Again = False,
        as_json: AsJson = False,
        plot: Plot = None,
    ) -> None:
        from infra.experiments.setting import get_setting

        chosen = get_setting(setting, num_seeds=seeds, num_days=days, one_of=one_of)
        settings = _settings(data, home)
        runs = [study for study in studies if setting != "globo" or study not in OF_WORLDS]
        if not runs:
            raise ValueError(
                f"{studies[0]} asks for the truth of a synthetic world, and setting {setting} is of real clicks; "
                "take synthetic, intent or quick"
            )
        if plot is not None:
            plot.parent.mkdir(parents=True, exist_ok=True)
        logging.getLogger().addFilter(_is_no_chatter)
        found = []
        for study in runs:
            to = plot if plot is None or len(runs) == 1 else plot.with_stem(f"{plot.stem}_{study}")
            finding = _run(study, chosen, settings=settings, workers=workers, again=again, plot=to)
            found.append(finding.plain())
            if not as_json:
                _print(finding)
        if as_json:
            typer.echo(json.dumps(found if len(studies) > 1 else found[0], indent=2))

    return command


def _is_no_chatter(record: logging.LogRecord) -> bool:
    """FBGEMM names every library that it loads, by the root logger itself."""
    return record.levelno > logging.INFO


def _settings(data: Path | None, home: Path | None) -> Settings:
    given = {"data_dir": data and data.resolve(), "home": home and home.resolve()}
    return get_settings().model_copy(update={name: path for name, path in given.items() if path is not None})


def _run(
    name: str,
    setting: Setting,
    *,
    settings: Settings,
    workers: int | None,
    again: bool,
    plot: Path | None,
) -> Finding:
    from infra.experiments.record import PLOT, record
    from infra.experiments.run import run

    def say(line: str) -> None:
        typer.echo(line, err=True)

    study = get_study(name)
    results = run(study, setting, settings=settings, workers=workers, again=again, say=say)
    finding = study.conclude(setting, results)
    folder = record(finding, setting, settings=settings, say=say)
    if plot is not None:
        shutil.copy(folder / PLOT, plot)
    say(f"wrote {folder}")
    return finding


def _print(finding: Finding) -> None:
    terminal = console(width=160, highlight=False)
    for part in finding.tables:
        table = Table(title=f"{finding.title}: {part.title}", title_justify="left")
        table.add_column(part.rows_are)
        for column in part.columns:
            table.add_column(column.title, justify="right")
        for row in part.rows:
            table.add_row(row.name, *(of.text(cell) for of, cell in zip(part.columns, row.cells, strict=True)))
        terminal.print(table)
    for verdict in finding.verdicts:
        terminal.print(f"[bold]{verdict.word}[/bold]: {escape(verdict.claim)} {escape(verdict.why)}")
    for note in finding.notes:
        terminal.print(escape(note))


for _name, _about in STUDIES.items():
    group.command(_name, help=f"Measure {_about}; what was measured before is kept.")(_command(_name))
group.command("tables", help="The paper's four tables, one after the other.")(_command(*TABLES))
group.command("all", help="Every study, one after the other.")(_command(*STUDIES))
