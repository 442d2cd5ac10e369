"""`usermodel infra capacity`: hosts, bytes and knobs of a fleet of any size, on paper."""

from __future__ import annotations

import inspect
import logging
from dataclasses import fields
from functools import cache, partial
from typing import TYPE_CHECKING, Annotated, Any

import typer

from infra.capacity.workload import Device, Host, Workload, knobs, option
from infra.commands.options import console, show

if TYPE_CHECKING:
    from infra.capacity.fleet import Fleet
    from infra.capacity.model import Trained
    from infra.capacity.report import Sized

HOST = "host_"
UTILISATIONS = (0.5, 0.8, 0.95)
"""Simulated beside the one that is asked for."""


def capacity(*, recipe: str, device: Device, as_json: bool, **asked: float) -> None:
    """Size a fleet for so many users, requests and examples, from measured rates: hosts by tier, bytes, cost knobs."""
    workload = Workload(**{one.name: asked[one.name] for one in fields(Workload)})
    host = Host(**{one.name: asked[HOST + one.name] for one in fields(Host)})
    found = _size(recipe, workload, host, device=device)
    if as_json:
        show(found.document())
    else:
        console(width=150, highlight=False).print(found.tables())


def _size(recipe: str, workload: Workload, host: Host, *, device: Device) -> Sized:
    logging.disable(logging.INFO)  # FBGEMM names every library that it loads
    from infra.capacity.fleet import size
    from infra.capacity.model import gpu_hosts, model_of, planner_of
    from infra.capacity.queueing import simulate
    from infra.capacity.report import Sized
    from trainer.recipes import get_recipe

    logging.disable(logging.NOTSET)
    config = get_recipe(recipe)
    planner = planner_of(config, ids_per_feature=workload.ids_per_feature)
    model = model_of(config, planner)

    @cache  # few knobs change what training has to do
    def trained(wanted: float) -> Trained | None:
        if device == "cpu":
            return None
        return gpu_hosts(planner, gpus=int(host.gpus), wanted=wanted, say=partial(typer.echo, err=True))

    def sized(load: Workload) -> Fleet:
        return size(load, model, host, device=device, trained=trained(load.examples_per_second / load.utilisation))

    turned = {name: sized(load) for name, load in knobs(workload).items()}
    fleet = sized(workload)
    shown = sorted({*UTILISATIONS, workload.utilisation})
    waits = tuple(simulate(utilisation=at, servers=int(host.cores), service=fleet.user_seconds) for at in shown)
    return Sized(workload=workload, host=host, model=model, fleet=fleet, turned=turned, waits=waits)


def _parameters() -> list[inspect.Parameter]:
    """An option for each field of what is asked, with its default and its sentence."""
    found = [
        _parameter("recipe", str, "fb_ctr", "The user model's recipe."),
        _parameter("device", Device, "cpu", "What trains and computes: cpu or cuda."),
    ]
    for prefix, of in (("", Workload), (HOST, Host)):
        for one in fields(of):
            about = f"{one.metadata['about'][0].upper()}{one.metadata['about'][1:]}."
            found.append(_parameter(prefix + one.name, float, one.default, about))
    return [*found, _parameter("as_json", bool, False, "Print JSON instead of tables.", name="--json")]


def _parameter(field: str, kind: Any, default: Any, about: str, *, name: str | None = None) -> inspect.Parameter:
    said = typer.Option(name or option(field), help=about)
    return inspect.Parameter(field, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=Annotated[kind, said])


capacity.__signature__ = inspect.Signature(_parameters())  # type: ignore[attr-defined]
