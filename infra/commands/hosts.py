"""`usermodel infra hosts …`: hosts of this machine's kernel, and training over them under faults of their network."""

from __future__ import annotations

import json
import math
import subprocess
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated

import typer

from infra.settings import Settings, get_settings

if TYPE_CHECKING:
    from infra.hosts.trial import Outcome

group = typer.Typer(help="Hosts as network namespaces of this machine, their faults, training over them.")

_RACK = "rack.json"
Hosts = Annotated[int, typer.Option("--hosts", help="How many.")]


@group.command()
def up(
    hosts: Hosts = 2,
    private: Annotated[
        list[Path] | None, typer.Option(help="A folder that every host has for itself, empty; the rest is shared.")
    ] = None,
) -> None:
    """Make hosts that stay until `down`: host-1, host-2 … at one switch, in networks of their own."""
    from infra.hosts.rack import Rack, left_over

    settings = get_settings()
    if left_over(settings):
        raise ValueError("this installation has hosts already; end them with `usermodel infra hosts down`")
    rack = Rack(hosts, settings=settings, private=private or (), lifetime="own")
    _file(settings).write_text(json.dumps(rack.pids()))
    for name in rack.names:
        typer.echo(f"{name}  {rack.address(name)}")
    typer.echo("run a command there: usermodel infra hosts run host-1 hostname")


@group.command()
def down() -> None:
    """End every host of this installation and all that runs there, also what a killed command left."""
    from infra.hosts.rack import down as end

    settings = get_settings()
    found = end(settings)
    _file(settings).unlink(missing_ok=True)
    typer.echo(f"{len(found)} processes ended; with them went their namespaces, mounts and cables")


@group.command(context_settings={"ignore_unknown_options": True})
def run(
    host: Annotated[str, typer.Argument(help="host-1, host-2 …")],
    command: Annotated[list[str], typer.Argument(help="What to run there.")],
) -> None:
    """Run a command on a host that `up` made, in this folder; its exit status."""
    from infra.hosts.namespaces import enter
    from infra.hosts.rack import environment_of, left_over

    settings = get_settings()
    pids = json.loads(_file(settings).read_text()) if _file(settings).exists() else {}
    if pids.get(host) not in left_over(settings):
        raise ValueError(f"there is no host {host!r}; `usermodel infra hosts up` makes host-1, host-2 …")
    raise typer.Exit(subprocess.run(enter(pids[host], command), env=environment_of(settings), check=False).returncode)


@group.command("try")
def try_faults(
    hosts: Hosts = 2,
    fault: Annotated[
        list[str] | None, typer.Option("--fault", help="What befalls the network; repeated: several. Default: all.")
    ] = None,
    recipe: Annotated[str, typer.Option(help="The user model that is trained, on its first day.")] = "demo",
    examples: Annotated[int, typer.Option(help="Of the day; 0: all.")] = 20_000,
    deadline: Annotated[float, typer.Option(help="As USERMODEL_DEADLINE_SECONDS.")] = 10,
    as_json: Annotated[bool, typer.Option("--json", help="One object per fault.")] = False,
) -> None:
    """Train a day over hosts of this machine while faults befall their network: what was survived, in what time, and
    whether every bit is that of the undisturbed day. Exit status 1 when a promise was broken."""
    from infra.hosts.faults import faults
    from infra.hosts.rack import Rack
    from infra.hosts.trial import Day, Trial
    from trainer.recipes import get_recipe

    known = faults(deadline_seconds=deadline)
    if unknown := [name for name in fault or () if name not in known]:
        raise ValueError(f"there is no fault {', '.join(unknown)}; there are {', '.join(known)}")
    settings = get_settings()
    day = Day.of(get_recipe(recipe), num_examples=examples or None, settings=settings)
    outcomes, failed = [], {}
    with (
        Rack(hosts, settings=settings) as rack,
        TemporaryDirectory(prefix="try-", dir=settings.home / "hosts") as folder,
    ):
        trial = Trial(rack, day, folder=Path(folder), deadline_seconds=deadline)
        for name in fault or known:
            typer.echo(f"{name}: {known[name].promise} …", err=True)
            try:
                outcomes.append(trial.run(name, known[name]))
            except RuntimeError as error:  # the other faults are tried all the same
                failed[name] = str(error)
                typer.echo(f"{name}: {error}", err=True)
                continue
            if as_json:
                typer.echo(json.dumps(asdict(outcomes[-1]) | {"redone": outcomes[-1].redone}))
    if outcomes and not as_json:
        _show(outcomes)
    if failed:
        typer.echo(f"not survived, or not tried: {', '.join(failed)}; the lines above say why", err=True)
    if failed or any(outcome.broken for outcome in outcomes):
        raise typer.Exit(1)


def _show(outcomes: Sequence[Outcome]) -> None:
    from rich.table import Table

    from infra.commands.options import console

    table = Table(title=f"a day over {outcomes[0].hosts} hosts")
    for column in ("fault", "job", "named", "steps redone", "ms per step", "seconds", "weights", "published"):
        table.add_column(column, justify="right" if column in ("steps redone", "ms per step", "seconds") else "left")
    for outcome in outcomes:
        failed = outcome.failed_after_seconds
        table.add_row(
            outcome.fault,
            "survived" if failed is None else f"failed after {failed:.1f} s, went on",
            outcome.named or "-",
            "-" if outcome.resumed_at is None else str(outcome.redone),
            "-" if math.isnan(outcome.step_ms) else f"{outcome.step_ms:.0f}",
            f"{outcome.seconds:.0f}",
            "the same bits" if not outcome.apart else f"{len(outcome.apart)} differ",
            "once" if outcome.published == 1 else f"{outcome.published} times",
        )
    console(width=160).print(table)


def _file(settings: Settings) -> Path:
    return settings.home / "hosts" / _RACK
