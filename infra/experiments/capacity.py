"""Serving capacity that is avoided by one user tower for all downstream models (section 6.3: 15.3 %).

A request shows M items to a user. The paper compares with "directly introducing the same complexity into each
downstream model": every one runs the tower inside, once per request. With SUM the tower runs once for S requests: those
of all models that one computation of the user's embeddings serves. Of a request:

    inside = T + M (C + J),    shared = T / S + M (C + J)
    avoided = (inside - shared) / (M C) = T (1 - 1 / S) / (M C)

for a tower of T, a downstream model of C an item, and J more an item to read what the tower gives, wherever it ran. The
denominator is the capacity of the downstream models before, of which the paper gives its 15.3 %.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from features.batches import Encoder
from infra.experiments.consumers import consumers_of
from infra.experiments.finding import Cell, Column, Finding, Row, Table, Verdict
from infra.experiments.joins import served_by
from infra.experiments.setting import Setting
from infra.experiments.statistics import Estimate, difference, estimate
from infra.experiments.study import Results, Study, Trial, Values
from infra.experiments.towers import DailyTowers
from infra.experiments.verdicts import all_of, has_sign, text
from trainer.downstream.arms import BASELINE, SUM, Arms, Inputs, small_tables, with_and_without
from trainer.model.user_tower import UserTower
from trainer.recipe import Recipe
from trainer.recipes import get_recipe

PAPER_AVOIDED = 0.153
PAPER_TOWER = "fb_ctr"
ITEMS = (1, 16, 64, 256)
"""M."""
SHARING = (1, 2, 4, 12, 100)
"""S."""
REPEATS = 20
_FLOPS_PER_MULTIPLY_ADD = 2


@dataclass(frozen=True, kw_only=True)
class Costs:
    """In any one unit: multiply-adds, or CPU seconds."""

    tower: float
    """T, of one user."""
    item: float
    """C, of one item in a downstream model without embeddings."""


def avoided(costs: Costs, *, num_items: float, sharing: float) -> float:
    """The share of the downstream models' own capacity that sharing avoids."""
    return costs.tower * (1 - 1 / sharing) / (num_items * costs.item)


def request_for(share: float, tower: float, *, sharing: float) -> float:
    """M C: what a request costs in a downstream model for which this share of its capacity is avoided."""
    return tower * (1 - 1 / sharing) / share


def multiply_adds(run: Callable[[], object]) -> float:
    """Of the dense part; to look up and pool rows is an addition per id and channel, which is not counted."""
    with FlopCounterMode(display=False) as counter:
        run()
    return float(counter.get_total_flops()) / _FLOPS_PER_MULTIPLY_ADD


def tower_multiply_adds(recipe: Recipe) -> float:
    """T, of one user, counted on the meta device: no table is built."""
    with torch.device("meta"):
        tower = UserTower(recipe.schema, recipe.user_tower, device=torch.device("meta"))
        dense = torch.empty(1, len(recipe.schema.dense_of("user")))
        sparse = torch.empty(1, tower.sparse.num_embeddings, tower.dim)
        return multiply_adds(lambda: tower.compress(sparse, tower.dense(dense)))


@dataclass(frozen=True, kw_only=True)
class Request:
    """Of M items to a downstream model, without embeddings and with those of user model a."""

    arms: Arms
    inputs: Mapping[str, Inputs]
    """By arm."""

    def serve(self, *, joined: bool) -> torch.Tensor:
        """Logits [M]."""
        arm = SUM if joined else BASELINE
        return self.arms.arms[arm].predict(self.inputs[arm])


def _requests(trial: Trial, towers: DailyTowers) -> dict[str, list[Request]]:
    """By consumer, of every M."""
    lab, day = trial.lab, trial.setting.followed[-1]
    joined = served_by(lab, towers)
    found = {}
    for consumer in consumers_of(trial.setting):
        arms = with_and_without(consumer.recipe, small_tables(lab.source.schema), joined.shapes)
        batches = (
            next(iter(lab.batches(consumer.recipe, day, {SUM: joined.trained(day)}, batch_size=num_items)))
            for num_items in ITEMS
        )
        found[str(consumer)] = [Request(arms=arms, inputs=dict(arms.inputs(batch))) for batch in batches]
    return found


def measure(trial: Trial) -> Values:
    """`counted`: multiply-adds of the `tower`, and by consumer of the `item` and what is `joined`. `seconds`: the same
    of CPU, by M. `avoided`: by M the share that was measured, all consumers serving one user (S their number)."""
    recipe = trial.setting.user_models["a"]
    towers = trial.towers(recipe)
    user = next(iter(trial.lab.users[-1].batches)).slice(0, 1)
    batch = Encoder(recipe.schema, sides=("user",)).encode(user)

    def embed() -> torch.Tensor:
        found: torch.Tensor = towers.towers[-1](batch.user_sparse, batch.user_dense)
        return found

    counted: dict[str, Any] = {"tower": tower_multiply_adds(recipe)}
    seconds: dict[str, Any] = {}
    with torch.no_grad():  # not inference_mode: the lookup kernel is registered for autograd alone
        requests = _requests(trial, towers)
        for name, of_consumer in requests.items():
            without, joined = (multiply_adds(partial(of_consumer[0].serve, joined=joined)) for joined in (False, True))
            counted[name] = {"item": without / ITEMS[0], "joined": (joined - without) / ITEMS[0]}
        for place, num_items in enumerate(ITEMS):
            seconds[str(num_items)] = _seconds(embed, [of_consumer[place] for of_consumer in requests.values()])
            trial.progress(f"requests of {num_items} items", (place + 1) / len(ITEMS))
    shares = {num_items: _avoided(of) for num_items, of in seconds.items()}
    mib = sum(p.numel() * p.element_size() for p in towers.towers[-1].parameters()) / 2**20
    return {"counted": counted, "seconds": seconds, "avoided": shares, "tower MiB": mib}


def _seconds(embed: Callable[[], object], requests: Sequence[Request]) -> dict[str, float]:
    """CPU of one request to every model: with the tower `inside` each, with one `shared`, and of the models
    `before`, which read no embeddings."""

    def inside() -> None:
        for request in requests:
            embed()
            request.serve(joined=True)

    def shared() -> None:
        embed()
        for request in requests:
            request.serve(joined=True)

    def before() -> None:
        for request in requests:
            request.serve(joined=False)

    ways = {"tower": embed, "inside": inside, "shared": shared, "before": before}
    found = dict.fromkeys(ways, 0.0)
    for repeat in range(REPEATS + 1):
        for name, way in ways.items():
            began = time.process_time()
            way()
            found[name] += (time.process_time() - began) / REPEATS if repeat else 0.0  # the first warms up
    return found


def _avoided(seconds: Mapping[str, float]) -> float:
    return (seconds["inside"] - seconds["shared"]) / seconds["before"]


def conclude(setting: Setting, results: Results) -> Finding:
    """Counted and measured shares, and what they depend on."""
    seeds = sorted(results)
    first = results[seeds[0]]["all"]
    names = [str(one) for one in consumers_of(setting.of(seeds[0]))]
    costs = _mean_costs(first["counted"], names)
    measured = {m: estimate([100 * results[seed]["all"]["avoided"][str(m)] for seed in seeds]) for m in ITEMS}
    counted = {m: 100 * avoided(costs, num_items=m, sharing=len(names)) for m in ITEMS}
    return Finding(
        name=STUDY.name,
        title="Serving capacity avoided by one user tower for all",
        setting=setting.name,
        seeds=tuple(seeds),
        tables=(
            _costs_table(results, names),
            _shares_table(costs, len(names), measured),
            _paper_table(),
        ),
        verdicts=tuple(_verdicts(measured, counted)),
        notes=(
            f"Every downstream model with the tower inside would hold its tables too: {first['tower MiB']:.1f} MiB "
            f"each, {(len(names) - 1) * first['tower MiB']:.0f} MiB more for {len(names)} models than for one tower.",
            "What the share depends on: T over M C, the tower's cost against a request's in the downstream model, and "
            "S. It grows with the tower, falls as 1 / M with the items of a request, and approaches T / M C as more "
            "requests share one computation; at S = 1, each request with its own computation, nothing is avoided. What "
            "a downstream model pays to read embeddings it pays wherever the tower runs.",
        ),
    )


def _mean_costs(counted: Mapping[str, Any], names: Sequence[str]) -> Costs:
    """Of the set of downstream models."""
    return Costs(tower=counted["tower"], item=sum(counted[name]["item"] for name in names) / len(names))


def _costs_table(results: Results, names: Sequence[str]) -> Table:
    counted = next(iter(results.values()))["all"]["counted"]
    towers = [estimate([1e6 * of["all"]["seconds"][str(ITEMS[0])]["tower"] for of in results.values()])]
    rows = [Row(name="user tower, a user", cells=(counted["tower"], None, towers[0]))]
    rows += [
        Row(name=f"{name}, an item", cells=(counted[name]["item"], counted[name]["joined"], None)) for name in names
    ]
    columns = (
        Column(title="multiply-adds", digits=0),
        Column(title="more with embeddings", digits=0),
        Column(title="CPU µs alone", digits=0),
    )
    return Table(title="Cost, dense part", rows_are="model", columns=columns, rows=tuple(rows))


def _shares_table(costs: Costs, num_models: int, measured: Mapping[int, Estimate]) -> Table:
    columns = [Column(title=f"counted %, S = {sharing}", digits=1, signed=True) for sharing in SHARING]
    columns += [Column(title=f"CPU measured %, S = {num_models}", digits=1, signed=True, drawn=True)]
    rows = []
    for num_items in ITEMS:
        cells: list[Cell] = [100 * avoided(costs, num_items=num_items, sharing=sharing) for sharing in SHARING]
        rows.append(Row(name=f"M = {num_items}", cells=(*cells, measured[num_items])))
    title = f"Share of the capacity of {num_models} downstream models that is avoided"
    return Table(title=title, rows_are="items of a request", columns=tuple(columns), rows=tuple(rows))


def _paper_table() -> Table:
    tower = tower_multiply_adds(get_recipe(PAPER_TOWER))
    rows = []
    for sharing in SHARING[1:]:
        request = _FLOPS_PER_MULTIPLY_ADD * request_for(PAPER_AVOIDED, tower, sharing=sharing) / 1e9
        rows.append(Row(name=f"S = {sharing}", cells=(_FLOPS_PER_MULTIPLY_ADD * tower / 1e6, request)))
    columns = (
        Column(title="tower, MFLOP", digits=0),
        Column(title="a request in the downstream model, GFLOP", digits=2),
    )
    return Table(
        title=f"What makes it {PAPER_AVOIDED:.1%} with the tower of {PAPER_TOWER}",
        rows_are="requests that share a computation",
        columns=columns,
        rows=tuple(rows),
    )


def _verdicts(measured: Mapping[int, Estimate], counted: Mapping[int, float]) -> Sequence[Verdict]:
    few, many = measured[ITEMS[0]], measured[ITEMS[-1]]
    falls = difference(many.values, few.values)
    shown = ", ".join(f"{text(of, digits=1)} % at M = {m} (counted {counted[m]:+.1f} %)" for m, of in measured.items())
    return (
        Verdict(
            claim=f"One tower for all avoids serving capacity (the paper: {PAPER_AVOIDED:.1%}).",
            agrees=all_of(measured.values(), sign=+1),
            why=f"CPU: {shown}.",
        ),
        Verdict(
            claim="The share falls with the items of a request.",
            agrees=has_sign(falls, -1),
            why=f"{text(falls, digits=1)} points from M = {ITEMS[0]} to {ITEMS[-1]}.",
        ),
    )


STUDY = Study(name="capacity", measure=measure, conclude=conclude)
