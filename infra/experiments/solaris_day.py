"""A day of SOLARIS in event time: what is computed ahead of it, and what its requests are served, by arm."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from torch.utils.flop_counter import FlopCounterMode

from features.columns import Ids
from features.sources.draws import uniform
from infra.experiments.foundations import Foundations
from infra.experiments.lab import Computed, Lab
from infra.experiments.solaris_arms import (
    BUDGET,
    BUDGETS,
    EXACT_ONLY,
    KNOWN,
    MEANS_ONLY,
    NO_REFRESH,
    NOT_MIRRORED,
    ORACLE,
    budget_arm,
    known_arm,
)
from serving.solaris.catalogue import ItemCatalogue
from serving.solaris.impressions import Impressions
from serving.solaris.joined import OfUsers, Taught
from serving.solaris.levels import Level
from serving.solaris.model import PairModel
from serving.solaris.predictor import LikelyPairs, PairPredictor, recall
from serving.solaris.replay import DAY_US, Served, Stored, Vectors, serve
from trainer.downstream.joined import Lookup

HISTORY_DAYS = 8
"""Of requests, users and items that the predictor and the catalogue know."""
MOST_PAIRS = 256
"""Of a user: the busiest make hundreds of requests a day."""
DELAY_SECONDS = 60.0
"""From a miss until its pair is there."""


@dataclass(frozen=True, kw_only=True)
class Ahead:
    """What is known and computed when the day begins."""

    catalogue: ItemCatalogue
    user_ids: Ids
    """[U], ascending."""
    user_rows: pa.Table
    """The users' newest features."""
    num_requests: int
    """Of the day before."""
    predictor: PairPredictor
    likely: LikelyPairs
    """Of the largest budget."""
    vectors: Vectors
    """[P, E] of them."""


@dataclass(frozen=True, kw_only=True)
class Day:
    """What the [N] requests of a day are served."""

    impressions: Impressions
    served: Mapping[str, Served]
    """By arm."""
    trained: Mapping[str, Served]
    """What consumers learn from, where that is not what was served."""
    taught: Taught
    """The foundation model's click logits."""
    recalls: Mapping[str, float]
    """By predictor and budget."""
    forwards: Mapping[str, float]
    """Pairs computed per request, by arm."""


@dataclass(kw_only=True)
class Replay:
    """Day after day, each arm with a store of its own."""

    lab: Lab
    foundations: Foundations
    item: str
    """The feature that tells items apart."""
    seed: int
    model: PairModel = field(init=False)
    _stores: dict[str, Stored] = field(default_factory=dict)
    _impressions: dict[int, Impressions] = field(default_factory=dict)
    _pooled: dict[int, Computed] = field(default_factory=dict)

    def __post_init__(self) -> None:
        recipe = self.foundations.towers.recipe
        width = self.foundations.models[0].width
        self.model = PairModel(name=recipe.name, source=recipe.source.name, width=width, most_pairs=MOST_PAIRS)

    def impressions(self, day: int) -> Impressions:
        """The day's requests."""
        if day not in self._impressions:
            examples = self.lab.lake.get(f"examples/{self.lab.source.name}", self.lab.days[day])
            self._impressions[day] = Impressions.read(self.lab.lake, examples, item=self.item)
        return self._impressions[day]

    def users(self, day: int) -> Lookup:
        """The SUM embeddings of the days before, by impression."""
        for earlier in range(max(day - HISTORY_DAYS, 0), day):
            if earlier not in self._pooled:
                self._pooled[earlier] = self.lab.served(self.foundations.towers, earlier)
        newest = self.lab.newest(self._pooled, day, lookback=HISTORY_DAYS)
        return OfUsers(users=self.impressions(day).user, lookup_users=newest)

    def ahead(self, day: int) -> Ahead:
        """From the days before `day` alone, by the foundation model of the newest of them."""
        lab, before = self.lab, range(max(day - HISTORY_DAYS, 0), day)
        partitions = [lab.lake.get(f"examples/{lab.source.name}", lab.days[d]) for d in before]
        catalogue = ItemCatalogue.of_days(lab.lake, partitions, schema=lab.source.schema, item=self.item)
        user_ids, user_rows = newest_users(lab, before)
        predictor = PairPredictor.fit([self.impressions(d) for d in before]).among(catalogue.ids)
        num_requests = len(self.impressions(day - 1))
        likely = predictor.likeliest(int(max(BUDGETS) * num_requests))
        scored = self.foundations.models[day - 1].score(
            user_rows,
            catalogue.rows(),
            of_user=np.searchsorted(user_ids, likely.users),
            of_item=catalogue.places(likely.items),
        )
        return Ahead(
            catalogue=catalogue, user_ids=user_ids, user_rows=user_rows, num_requests=num_requests,
            predictor=predictor, likely=likely, vectors=scored.vectors.astype(np.float16),
        )  # fmt: skip

    def day(self, day: int) -> Day:
        """Computed ahead, then served; the stores go on to the next day."""
        ahead, requests = self.ahead(day), self.impressions(day)
        examples = self.lab.lake.get(f"examples/{self.lab.source.name}", self.lab.days[day])
        rows = self.lab.lake.read(examples)
        each = np.arange(len(requests))
        synchronous = self.foundations.models[day - 1].score(rows, rows, of_user=each, of_item=each)
        own = synchronous.vectors.astype(np.float16)
        served = self._served(day, ahead, requests, own)
        forwards = {
            name: (self._num_ahead(name, ahead) + of.num_refreshed) / len(requests) for name, of in served.items()
        }
        known = self._known(day, ahead, requests)
        for share in KNOWN:
            pairs = uniform(self.seed, requests.user, requests.item) < share
            is_exact = pairs & (known.levels == Level.EXACT)
            served[known_arm(share)] = Served.exactly(known.vectors, is_exact)
            forwards[known_arm(share)] = num_distinct(requests, is_exact) / len(requests)
        served[ORACLE] = Served.exactly(own)
        return Day(
            impressions=requests,
            served=served,
            trained={NOT_MIRRORED: served[ORACLE]},
            taught=Taught(logits=torch.from_numpy(synchronous.logits[:, 0].copy())),
            recalls=self._recalls(ahead, requests),
            forwards=forwards | {ORACLE: 1.0},
        )

    def _served(self, day: int, ahead: Ahead, requests: Impressions, own: Vectors) -> dict[str, Served]:
        begins = self._begin_us(day)
        found = {}
        for name in (*map(budget_arm, BUDGETS), MEANS_ONLY, NO_REFRESH):
            count = self._num_ahead(name, ahead)
            new = Stored(
                user=ahead.likely.users[:count], item=ahead.likely.items[:count],
                written_us=np.full(count, begins), vectors=ahead.vectors[:count],
            )  # fmt: skip
            stored = self._stores.get(name, Stored.empty(own.shape[1])).alive(begins, self.model).with_newer(new)
            delay = None if name == NO_REFRESH else DELAY_SECONDS
            found[name], self._stores[name] = serve(
                stored, requests, own, model=self.model, delay_seconds=delay, exact=name != MEANS_ONLY
            )
        found[EXACT_ONLY] = found[budget_arm(BUDGET)].without(Level.USER, Level.NEIGHBOURS)
        found[NOT_MIRRORED] = found[budget_arm(BUDGET)]
        return found

    @staticmethod
    def _num_ahead(name: str, ahead: Ahead) -> int:
        """Pairs computed ahead of the day."""
        budget = next((budget for budget in BUDGETS if name == budget_arm(budget)), BUDGET)
        return min(int(budget * ahead.num_requests), len(ahead.likely))

    def _known(self, day: int, ahead: Ahead, requests: Impressions) -> Served:
        """Every pair of the day, computed when it begins; but not those of users and items nobody had seen."""
        known = ahead.catalogue.known(requests.item) & np.isin(requests.user, ahead.user_ids)
        vectors = np.zeros((len(requests), self.model.width), np.float16)
        vectors[known] = self.foundations.models[day - 1].score(
            ahead.user_rows,
            ahead.catalogue.rows(),
            of_user=np.searchsorted(ahead.user_ids, requests.user[known]),
            of_item=ahead.catalogue.places(requests.item[known]),
        ).vectors.astype(np.float16)  # fmt: skip
        return Served.exactly(vectors, known)

    def _recalls(self, ahead: Ahead, requests: Impressions) -> dict[str, float]:
        """At every budget: the predictor's, that of popularity alone, and that of pairs drawn at random."""
        found = {"own weight": ahead.predictor.own_weight}
        popular = ahead.predictor.by_popularity().likeliest(len(ahead.likely))
        possible = len(ahead.user_ids) * len(ahead.catalogue)
        known = ahead.catalogue.known(requests.item) & np.isin(requests.user, ahead.user_ids)
        for budget in BUDGETS[1:]:
            count = self._num_ahead(budget_arm(budget), ahead)
            found[f"predictor {budget:g}"] = recall(ahead.likely.first(count), requests)
            found[f"popularity {budget:g}"] = recall(popular.first(count), requests)
            found[f"random {budget:g}"] = float(known.mean()) * min(count / possible, 1.0)
        return found

    def mflop(self) -> dict[str, float]:
        """Of one user and of one pair through the foundation model, counted on a few."""
        examples = self.lab.lake.get(f"examples/{self.lab.source.name}", self.lab.days[-1])
        rows = self.lab.lake.read(examples).slice(0, _COUNTED)
        model, each, totals = self.foundations.models[-1], np.arange(rows.num_rows), []
        for repeated in (1, 2):
            with FlopCounterMode(display=False) as counter:
                model.score(rows, rows, of_user=np.tile(each, repeated), of_item=np.tile(each, repeated))
            totals.append(counter.get_total_flops() / rows.num_rows / 1e6)
        return {"mflop_user": 2 * totals[0] - totals[1], "mflop_pair": totals[1] - totals[0]}

    def _begin_us(self, day: int) -> int:
        """The day's first instant."""
        ds, starts_at = self.lab.days[day], self.lab.source.day_starts_at
        return (ds.toordinal() - _EPOCH) * DAY_US + int(starts_at.total_seconds() * 1_000_000)


_EPOCH = 719_163
"""1970-01-01, as days are counted."""
_COUNTED = 64


def num_distinct(requests: Impressions, chosen: NDArray[np.bool_]) -> int:
    """Pairs among the chosen requests: one that is asked for again is computed once."""
    return int(np.unique(np.stack([requests.user[chosen], requests.item[chosen]]), axis=1).shape[1])


def newest_users(lab: Lab, days: Sequence[int]) -> tuple[Ids, pa.Table]:
    """Ids, ascending, and the newest features of every user who was active on one of these days."""
    ids, parts = np.empty(0, np.int64), []
    for day in sorted(days, reverse=True):
        users = lab.users[day]
        new = np.flatnonzero(~np.isin(users.ids, ids))
        parts.append(pa.Table.from_batches(users.batches).take(pa.array(new)))
        ids = np.concatenate([ids, users.ids[new]])
    order = np.argsort(ids)
    return ids[order], pa.concat_tables(parts).take(pa.array(order))
