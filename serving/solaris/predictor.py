"""Which user-item pairs are likely to be asked for on the next day, most likely first.

The expected number of requests for user u and item i is

    mu(u, i) = lambda(u) ((1 - rho) p(i) + rho s(u, i)),

lambda(u) the requests that the user is expected to make, p(i) the item's expected share of all requests and s(u, i) its
share of the user's own. All three are counts of the days before in which a day weighs 2^(-1 / half-life) of the next;
an item's count is multiplied by how requests for items of its age (days since it was first seen) grow or fade in a day.
rho, how much the user's own requests tell, and the half-life are those under which the newest day was most likely,
given the days before it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from features.columns import Ids, places_in
from serving.solaris.impressions import Impressions
from serving.solaris.interfaces import Likely

Floats = NDArray[np.float64]

HALF_LIVES = (1.0, 2.0, 4.0, 8.0)
"""Days; which of them is fitted."""
OLDEST = 7
"""Items that are older, in days, age alike."""
MOST_OWN = 0.95
"""Above it, nothing would be left for items that the user has not seen."""
PAIRS_PER_CHUNK = 65_536
_EM_STEPS = 30
_LEAST = 1e-300


@dataclass(frozen=True, kw_only=True)
class LikelyPairs:
    """[P] pairs, the highest priority first."""

    users: Ids
    items: Ids
    priorities: Floats

    def __len__(self) -> int:
        return len(self.users)

    def __iter__(self) -> Iterator[Likely]:
        yield from map(Likely, self.users.tolist(), self.items.tolist(), self.priorities.tolist())

    def first(self, count: int) -> LikelyPairs:
        """The likeliest of them."""
        return LikelyPairs(users=self.users[:count], items=self.items[:count], priorities=self.priorities[:count])


@dataclass(frozen=True, kw_only=True)
class Counts:
    """Of some days: who asked for what how often, days weighted. Pairs are [N] in the order of (user, item)."""

    users: Ids
    """[U], ascending."""
    items: Ids
    """[I], ascending."""
    by_user: Floats
    """[U]: requests of a day."""
    by_item: Floats
    """[I]: share of the requests; the shares add up to 1."""
    pair_user: Ids
    """[N]: places among `users`."""
    pair_item: Ids
    pair_share: Floats
    """[N]: of the user's requests."""

    @classmethod
    def of(cls, days: Sequence[Impressions], *, half_life: float, grows: Floats) -> Counts:
        """days: oldest first. grows: by age in days, what an item's requests are multiplied by in a day."""
        weight = 0.5 ** (np.arange(len(days))[::-1] / half_life)
        users, user = np.unique(np.concatenate([day.user for day in days]), return_inverse=True)
        items, item = np.unique(np.concatenate([day.item for day in days]), return_inverse=True)
        weights = np.repeat(weight, [len(day) for day in days])
        by_user = np.bincount(user, weights)
        by_item = np.bincount(item, weights) * grows[ages(days, items)]
        pairs, place = np.unique(user * len(items) + item, return_inverse=True)
        owner = pairs // len(items)
        return cls(
            users=users,
            items=items,
            by_user=by_user / weight.sum(),
            by_item=by_item / by_item.sum(),
            pair_user=owner,
            pair_item=pairs % len(items),
            pair_share=np.bincount(place, weights) / by_user[owner],
        )

    def shares(self, day: Impressions) -> tuple[Floats, Floats, Floats]:
        """Of each of the day's requests, [N] each: the requests expected of its user, the share of its item, and the
        share of its item among the user's; 0 for what was not seen before."""
        user, knows_user = places_in(self.users, day.user)
        item, knows_item = places_in(self.items, day.item)
        pair, knows_pair = places_in(self.pair_user * len(self.items) + self.pair_item, user * len(self.items) + item)
        return (
            np.where(knows_user, self.by_user[user], 0.0),
            np.where(knows_item, self.by_item[item], 0.0),
            np.where(knows_user & knows_item & knows_pair, self.pair_share[pair], 0.0),
        )


def ages(days: Sequence[Impressions], items: Ids) -> Ids:
    """[I]: how many days before the last of `days` each item was first seen, OLDEST at most."""
    first = np.zeros(len(items), np.int64)
    for back, day in enumerate(reversed(days)):
        first[np.isin(items, day.item)] = back
    return np.minimum(first, OLDEST)


@dataclass(frozen=True, kw_only=True)
class PairPredictor:
    """Fitted to the days before the one that is predicted."""

    counts: Counts
    own_weight: float
    """rho: near 0 where users ask for whatever is popular, near 1 where they ask for the same again."""
    half_life: float = field(default=0.0)
    """Days."""

    @classmethod
    def fit(cls, days: Sequence[Impressions]) -> PairPredictor:
        """days: oldest first, at least one; with one, nothing can be held out, and items alone count."""
        if not days:
            raise ValueError("pairs are predicted from at least one day before")
        grows = growth(days)
        before, newest = days[:-1], days[-1]
        if not before:
            return cls(counts=Counts.of(days, half_life=HALF_LIVES[0], grows=grows), own_weight=0.0)
        tried = []
        for half_life in HALF_LIVES:
            counts = Counts.of(before, half_life=half_life, grows=growth(before))
            own_weight, likelihood = _own_weight(counts, newest)
            tried.append((likelihood, own_weight, half_life))
        _, own_weight, half_life = max(tried)
        return cls(counts=Counts.of(days, half_life=half_life, grows=grows), own_weight=own_weight, half_life=half_life)

    def by_popularity(self) -> PairPredictor:
        """The same with nothing but the items' shares: every user alike."""
        alike = np.full(len(self.counts.users), self.counts.by_user.mean())
        return replace(self, counts=replace(self.counts, by_user=alike), own_weight=0.0)

    def among(self, items: Ids) -> PairPredictor:
        """The same with no other items than these, ascending."""
        kept = np.isin(self.counts.items, items)
        return replace(self, counts=replace(self.counts, by_item=np.where(kept, self.counts.by_item, 0.0)))

    def stream(self, budget: int, *, chunk: int = PAIRS_PER_CHUNK) -> Iterator[LikelyPairs]:
        """The `budget` likeliest pairs, some at a time; in memory are users, items, pairs seen before and a chunk, or
        the budget where more pairs are alike, never users x items. Pairs of equal priority come in the order of user
        and item."""
        ranks, done, above = _Ranks(self.counts, self.own_weight), 0, np.inf
        while done < budget:
            threshold = ranks.threshold(min(done + chunk, budget))
            found = ranks.between(threshold, above, most=budget - done)
            if not len(found):
                return
            yield found.first(budget - done)
            done, above = done + len(found), threshold

    def likeliest(self, budget: int) -> LikelyPairs:
        """`stream` in one piece."""
        parts = list(self.stream(budget))
        empty = np.empty(0, np.int64)
        return LikelyPairs(
            users=np.concatenate([empty, *(part.users for part in parts)]),
            items=np.concatenate([empty, *(part.items for part in parts)]),
            priorities=np.concatenate([np.empty(0), *(part.priorities for part in parts)]),
        )


def growth(days: Sequence[Impressions]) -> Floats:
    """[OLDEST + 1]: requests for items of an age on a day over those of the day before, for all days given.

    A tenth of a day's requests are added on both sides: an age that was hardly seen stays as it is.
    """
    before, after = np.zeros(OLDEST + 1), np.zeros(OLDEST + 1)
    for index in range(1, len(days)):
        items, count = np.unique(days[index - 1].item, return_counts=True)
        age = ages(days[:index], items)
        place, found = places_in(items, days[index].item)
        before += np.bincount(age, count, minlength=OLDEST + 1)
        after += np.bincount(age, np.bincount(place[found], minlength=len(items)), minlength=OLDEST + 1)
    some = 0.1 * np.mean([len(day) for day in days])
    grown: Floats = (after + some) / (before + some)
    return grown


def _own_weight(counts: Counts, day: Impressions) -> tuple[float, float]:
    """rho by expectation maximisation, and the mean log likelihood of the day's items given their users."""
    _, by_item, by_pair = counts.shares(day)
    possible = by_item > 0  # an item that nobody saw is explained by neither
    by_item, by_pair = by_item[possible], by_pair[possible]
    if not len(by_item):
        return 0.0, -np.inf
    rho = 0.5
    for _ in range(_EM_STEPS):
        own, others = rho * by_pair, (1 - rho) * by_item
        rho = min(float((own / (own + others)).mean()), MOST_OWN)
    likelihood = np.log((1 - rho) * by_item + rho * by_pair).sum() + np.log(1e-9) * (~possible).sum()
    return rho, float(likelihood) / len(day)


class _Ranks:
    """Pairs by priority: the product of two sorted lists, and the pairs seen before, which have priorities of their
    own."""

    def __init__(self, counts: Counts, own_weight: float) -> None:
        self._counts = counts
        self._by_user = counts.by_user * (1 - own_weight)
        order = np.argsort(-counts.by_item, kind="stable")
        self._order = order[counts.by_item[order] > 0]
        self._falling = counts.by_item[self._order]
        self._product = self._by_user[counts.pair_user] * counts.by_item[counts.pair_item]
        self._own = self._product + counts.by_user[counts.pair_user] * own_weight * counts.pair_share
        self._own[counts.by_item[counts.pair_item] == 0] = 0  # not on offer
        self._rising, self._rising_product = np.sort(self._own), np.sort(self._product)

    def _reach(self, threshold: float) -> Ids:
        """[U]: how many of the items, likeliest first, have a product of at least the threshold with the user."""
        with np.errstate(divide="ignore"):
            needed = threshold / self._by_user
        return np.searchsorted(-self._falling, -needed, side="right")

    def count(self, threshold: float) -> int:
        """Pairs of at least this priority, which is positive."""
        own = len(self._rising) - np.searchsorted(self._rising, threshold)
        twice = len(self._rising_product) - np.searchsorted(self._rising_product, threshold)
        return int(self._reach(threshold).sum() + own - twice)

    def threshold(self, wanted: int) -> float:
        """The highest priority that at least `wanted` pairs have; next to 0 where there are fewer."""
        low, high = _LEAST, float(max(self._rising[-1], self._by_user.max() * self._falling[0])) * 2
        if self.count(_LEAST) <= wanted:
            return _LEAST
        while low < (middle := (low + high) / 2) < high:
            low, high = (middle, high) if self.count(middle) >= wanted else (low, middle)
        return low

    def between(self, low: float, high: float, *, most: int) -> LikelyPairs:
        """The pairs whose priority is in [low, high), low being a `threshold`: the first `most` of them are there, of
        those at `low` not all."""
        c = self._counts
        first, last = self._reach(high) if np.isfinite(high) else np.zeros(len(c.users), np.int64), self._reach(low)
        above = self._reach(np.nextafter(low, np.inf))
        enough = most + len(self._own)  # as many of them may have been seen before
        last = above + np.diff(np.minimum(np.cumsum(last - above), enough), prepend=0)
        lengths = last - first
        user = np.repeat(np.arange(len(c.users)), lengths)
        starts = np.cumsum(lengths) - lengths
        item = self._order[np.arange(len(user)) - np.repeat(starts, lengths) + np.repeat(first, lengths)]
        _, seen = places_in(c.pair_user * len(c.items) + c.pair_item, user * len(c.items) + item)
        user, item = user[~seen], item[~seen]
        own = (self._own >= low) & (self._own < high)
        users, items = np.concatenate([user, c.pair_user[own]]), np.concatenate([item, c.pair_item[own]])
        priority = np.concatenate([self._by_user[user] * c.by_item[item], self._own[own]])
        order = np.lexsort((items, users, -priority))
        return LikelyPairs(users=c.users[users[order]], items=c.items[items[order]], priorities=priority[order])


def recall(pairs: LikelyPairs, day: Impressions) -> float:
    """The share of the day's requests whose pair is among `pairs`."""
    _, user = np.unique(np.concatenate([pairs.users, day.user]), return_inverse=True)
    items, item = np.unique(np.concatenate([pairs.items, day.item]), return_inverse=True)
    key = user * len(items) + item
    return float(np.isin(key[len(pairs) :], key[: len(pairs)]).mean())
