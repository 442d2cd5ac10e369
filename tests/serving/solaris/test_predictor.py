"""Which pairs are likely: exactly the likeliest, by counts of the days before alone."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest

from serving.solaris.impressions import Impressions
from serving.solaris.predictor import PairPredictor, growth, recall


def day(number: int, *, seed: int = 0, repeated: float = 0.0, size: int = 2_000) -> Impressions:
    """50 users, some of them busier; 80 items, of which a day sees 40; some requests repeat the user's own item."""
    rng = np.random.default_rng([seed, number])
    user = (50 * rng.random(size) ** 2).astype(np.int64)
    item = (40 * rng.random(size) ** 2).astype(np.int64) + 4 * number
    item = np.where(rng.random(size) < repeated, 1_000 + user, item)
    return Impressions(user=user * 7, item=item, time_us=np.sort(rng.integers(86_400_000_000, size=size)))


DAYS = [day(number, repeated=0.4) for number in range(5)]


@pytest.mark.parametrize("chunk", [10, 137, 10_000])
def test_the_stream_is_what_sorting_all_pairs_would_give(chunk: int) -> None:
    predictor = PairPredictor.fit(DAYS[:4])
    c = predictor.counts
    own = np.zeros((len(c.users), len(c.items)))
    own[c.pair_user, c.pair_item] = c.pair_share
    every = c.by_user[:, None] * ((1 - predictor.own_weight) * c.by_item + predictor.own_weight * own)
    parts = list(predictor.stream(500, chunk=chunk))
    priorities = np.concatenate([part.priorities for part in parts])
    np.testing.assert_allclose(priorities, np.sort(every.ravel())[::-1][:500], rtol=1e-9)
    users, items = (np.concatenate([getattr(part, name) for part in parts]) for name in ("users", "items"))
    places = np.searchsorted(c.users, users), np.searchsorted(c.items, items)
    np.testing.assert_allclose(every[places], priorities, rtol=1e-9)
    assert len(set(zip(users.tolist(), items.tolist(), strict=True))) == 500


def test_of_pairs_that_are_alike_no_more_are_made_than_are_wanted() -> None:
    ids = np.arange(2_000)
    once = Impressions(user=ids, item=ids, time_us=ids)
    predictor = PairPredictor.fit([once])
    tracemalloc.start()
    found = predictor.likeliest(10)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert (found.users.tolist(), found.items.tolist()) == ([0] * 10, list(range(10)))
    assert peak < 4e6, "of four million pairs"


def test_no_more_pairs_than_there_are() -> None:
    predictor = PairPredictor.fit(DAYS[:2])
    found = predictor.likeliest(10**6)
    assert len(found) <= len(predictor.counts.users) * len(predictor.counts.items)
    assert (np.diff(found.priorities) <= 0).all()
    assert [one.priority for one in found.first(3)] == found.priorities[:3].tolist()


def test_the_more_users_repeat_themselves_the_more_their_own_requests_count() -> None:
    def weight(repeated: float) -> float:
        return PairPredictor.fit([day(number, seed=1, repeated=repeated) for number in range(5)]).own_weight

    assert weight(0.0) < 0.3 < weight(0.2) < weight(0.6)


def test_it_beats_popularity_which_beats_chance() -> None:
    predictor = PairPredictor.fit(DAYS[:4])
    mine = recall(predictor.likeliest(200), DAYS[4])
    popular = recall(predictor.by_popularity().likeliest(200), DAYS[4])
    assert mine > popular + 0.1 > 200 / (50 * 80) + 0.1


def test_items_that_are_not_on_offer_are_not_predicted() -> None:
    offered = np.arange(30, 40)
    found = PairPredictor.fit(DAYS[:4]).among(offered).likeliest(1_000)
    assert len(found) > 0
    assert set(found.items.tolist()) <= set(offered.tolist())


def test_one_day_is_enough() -> None:
    assert len(PairPredictor.fit(DAYS[:1]).likeliest(10)) == 10
    with pytest.raises(ValueError, match="at least one day"):
        PairPredictor.fit([])


def test_requests_fade_by_the_age_of_their_item() -> None:
    def of(items: list[int], count: int) -> Impressions:
        item = np.repeat(items, count)
        return Impressions(user=np.zeros(len(item), np.int64), item=item, time_us=np.arange(len(item)))

    def both(one: Impressions, other: Impressions) -> Impressions:
        parts = (np.concatenate([getattr(one, name), getattr(other, name)]) for name in ("user", "item", "time_us"))
        user, item, time_us = parts
        return Impressions(user=user, item=item, time_us=time_us)

    days = [of([1], 1_000), both(of([1], 500), of([2], 1_000)), both(of([1], 250), of([2], 500))]
    grown = growth(days)
    assert grown[0] == pytest.approx(1_000 / 2_000, abs=0.05)
    assert grown[2:].tolist() == [1.0] * (len(grown) - 2)
