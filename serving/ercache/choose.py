"""The traces that a person can name."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date
from typing import Literal, get_args

from features.lake import Lake
from features.source import Source
from features.sources.globo import GloboClicks
from infra.settings import Settings
from serving.ercache.calibrated import Calibrated, calibrated
from serving.ercache.traces import Trace, of_clicks, of_examples

Name = Literal["examples", "clicks", "unstamped", "calibrated"]


def choose(name: str, source: Source | None, days: Sequence[date], *, settings: Settings) -> Trace:
    """examples: every event in the lake. clicks: every click of the landed log; unstamped: without those whose time the
    log made up. calibrated: ERCache's published pattern, of no source. No days: all that are in the lake.

    ValueError for an unknown name, or a source that cannot give it.
    """
    if name == "calibrated":
        return calibrated(Calibrated()).trace
    if name not in get_args(Name):
        raise ValueError(f"trace {name!r} is none of {list(get_args(Name))}")
    if source is None:
        raise ValueError(f"trace {name} needs --recipe: whose {name}?")
    lake = Lake(settings.lake)
    wanted = list(days) or lake.days(f"examples/{source.name}")
    if not wanted:
        raise ValueError(f"examples/{source.name} is not in the lake under {lake.root}; build a day, or name --days")
    if name == "examples":
        return of_examples(source, wanted, lake=lake)
    if not isinstance(source, GloboClicks):
        raise ValueError(f"trace {name} is of the portal's click log; {source.name} has none: use --trace examples")
    return of_clicks(source, wanted, settings=settings, stamped=name == "clicks")
