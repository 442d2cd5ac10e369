"""The generator of the synthetic world. What is planted, in full:

Tastes. Every user has a taste in R^Z, Z = 8: half of its variance is the user's for life, half drifts. The
drifting half moves along great circles between seeded normal anchors, one per `drift_days`, so that it has
unit variance on every day and any day can be made without the days before it.

Births. Users, items and ids live in slots. A slot's tenant is replaced every lifetime, slots in turn, so that
every day some are new, some are gone, and an id never comes back. Items have a latent vector in R^Z for life.

Events. A user's share of the day's events is log-normal; items are drawn by a skewed popularity that has
nothing to do with taste. Half of the items belong to domain "a" (0), half to "b" (1).

Repetition. Of a `repeated_share` of the events, none by default, the item is instead one of the ROTATION places that
every user has, as ads are shown again: each place holds one item for ROTATION_DAYS, in turns, drawn by the
same popularity and as blind to the user's taste and to what they clicked.

Labels. P(click) = sigmoid(b + c <M_domain taste, item> / sqrt(Z)): M_a is the identity; M_b keeps half of the
taste's dimensions and rotates the others. P(conversion | click) is the same with another map and other
constants. Labels depend on taste, item and domain only; never on a feature.

Features. They only observe the taste, with noise. Id lists: two neighbouring features watch one seeded plane
of the taste space; a user keeps meeting ids whose fixed angle in that plane is near their own (a feature of
even number: 2 ids a day, noisy; of odd number: one every second day, less noisy), and the list logged with a
request is the newest few. Dense values: the first is the user's activity, the others are noisy projections of
the taste, drawn per user and day. Device and hour carry nothing.

Intent, where a world has it (`intent` > 0, a share of the taste's variance): what a user is after at the moment. It
moves along great circles like the drifting half, from anchor to anchor in INTENT_HOURS, and labels follow the sum of
both. Of the features above none sees it; lists `recent_…` do, one per plane, with an id every hour.

How little of it a model can know, and what the real world has besides, is in `infra/decisions/029-synthetic-world.md`.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, date, datetime
from functools import cached_property

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from features.arrow import TIME, examples_schema
from features.schema import EVENT_TIME, USER_ID
from features.sources.draws import mix, normal, uniform
from features.sources.ragged import Ints, singles
from features.sources.synthetic import ITEM_DENSE, SyntheticWorld
from features.sources.synthetic_draws import LATENT, Draw, Floats
from features.sources.synthetic_lists import IdLists, watches

EVENT_ID = "event_id"
CLICK = (-2.4, 1.9)  # intercept and scale of the logit
CONVERSION = (-1.3, 1.2)
SKEW = 2.0
ACTIVITY_SIGMA = 1.2
INTENT_HOURS = 8.0
DAY_US = 86_400_000_000
CATEGORIES = 24
ROTATION = 6
ROTATION_DAYS = 5
_HOURS_AT = 100  # context ids: devices below, hours from here on


@dataclass(frozen=True)
class World:
    """The world of one config. Days are proleptic ordinals, as in `date.toordinal`."""

    config: SyntheticWorld

    def tenants(self, slots: Ints, day: int | Ints, *, kind: int, num: int, lifetime: int) -> Ints:
        """Who lives in the slots on the day."""
        stagger = (mix(self.config.seed, Draw.STAGGER, kind, slots) % np.uint64(lifetime)).astype(np.int64)
        return (day + stagger) // lifetime * num + slots

    def users(self, day: int) -> Ints:
        """Ids of the users alive on the day, [num_users]."""
        c = self.config
        return self.tenants(np.arange(c.num_users), day, kind=0, num=c.num_users, lifetime=c.user_lifetime_days)

    def items(self, day: int) -> Ints:
        """Ids of the items on offer on the day, [num_items]."""
        c = self.config
        return self.tenants(np.arange(c.num_items), day, kind=1, num=c.num_items, lifetime=c.item_lifetime_days)

    def born(self, users: Ints) -> Ints:
        """The users' first days."""
        c = self.config
        slots = users % c.num_users
        stagger = (mix(c.seed, Draw.STAGGER, 0, slots) % np.uint64(c.user_lifetime_days)).astype(np.int64)
        return users // c.num_users * c.user_lifetime_days - stagger

    def tastes(self, users: Ints, day: int) -> Floats:
        """The users' tastes on the day, [U, Z]."""
        c = self.config
        stable = normal(c.seed, Draw.TASTE, users[:, None], np.arange(LATENT))
        before, after = self._between(users, day / c.drift_days + uniform(c.seed, Draw.PHASE, users), kind=Draw.ANCHOR)
        tastes: Floats = np.sqrt(0.5) * (stable + before + after)
        return tastes

    def with_intent(self, tastes: Floats, users: Ints, instants: Floats) -> Floats:
        """The users' tastes [E, Z] and what they are after at these instants, in days, together."""
        c = self.config
        turn = instants * (24 / INTENT_HOURS) + uniform(c.seed, Draw.INTENT, users)
        before, after = self._between(users, turn, kind=Draw.INTENT)
        together: Floats = np.sqrt(1 - c.intent) * tastes + np.sqrt(c.intent) * (before + after)
        return together

    def _between(self, users: Ints, turn: Floats, *, kind: int) -> tuple[Floats, Floats]:
        """The shares of the anchors before and after the turn, [E, Z] each; their sum has unit variance."""
        c, dims = self.config, np.arange(LATENT)
        anchor = np.floor(turn).astype(np.int64)
        angle = (turn - anchor)[:, None] * np.pi / 2
        before = normal(c.seed, kind, users[:, None], anchor[:, None], dims)
        after = normal(c.seed, kind, users[:, None], anchor[:, None] + 1, dims)
        return np.cos(angle) * before, np.sin(angle) * after

    def item_vectors(self, items: Ints) -> Floats:
        """The items' latent vectors, [I, Z]."""
        return normal(self.config.seed, Draw.ITEM, items[:, None], np.arange(LATENT))

    @cached_property
    def maps(self) -> Floats:
        """The taste maps of domain a, of domain b and of conversions, [3, Z, Z]."""
        half = LATENT // 2
        rotated = np.eye(LATENT)
        rotated[half:, half:] = _rotation(self.config.seed, 1, half)
        return np.stack([np.eye(LATENT), rotated, _rotation(self.config.seed, 2, LATENT)])

    def probabilities(self, users: Ints, items: Ints, day: int, fraction: Floats) -> tuple[Floats, Floats]:
        """P(click) and P(conversion | click) of each pair at that fraction of the day, [E] each: the truth."""
        tastes = self.tastes(users, day)
        if self.config.intent:
            tastes = self.with_intent(tastes, users, day + fraction)
        return self._labelled(tastes, self.item_vectors(items), items % 2)

    def of_everybody(self, items: Ints, day: int) -> tuple[Floats, Floats]:
        """P(click) and P(conversion | click) of each item among all the day's users, as often as they come, [I] each:
        the best prediction of who knows the world, but not the user."""
        users, noon = self.users(day), 0.5
        weights, vectors = self.activity(users), self.item_vectors(items)
        tastes = self.tastes(users, day)
        if self.config.intent:
            tastes = self.with_intent(tastes, users, np.full(len(users), day + noon))
        clicks, conversions = np.zeros(len(items)), np.zeros(len(items))
        for taste, weight in zip(tastes, weights / weights.sum(), strict=True):
            click, conversion = self._labelled(taste, vectors, items % 2)
            clicks, conversions = clicks + weight * click, conversions + weight * click * conversion
        return clicks, conversions / clicks

    def _labelled(self, tastes: Floats, vectors: Floats, domain: Ints) -> tuple[Floats, Floats]:
        """tastes: [E, Z], or [Z] of one user."""
        in_domain = np.where(domain[:, None] == 0, tastes @ self.maps[0].T, tastes @ self.maps[1].T)
        match = (in_domain * vectors).sum(1) / np.sqrt(LATENT)
        value = (tastes @ self.maps[2].T * vectors).sum(1) / np.sqrt(LATENT)
        return _sigmoid(CLICK[0] + CLICK[1] * match), _sigmoid(CONVERSION[0] + CONVERSION[1] * value)

    def activity(self, users: Ints) -> Floats:
        """How often each of them comes, relative to each other, [U]."""
        rates: Floats = np.exp(ACTIVITY_SIGMA * normal(self.config.seed, Draw.ACTIVITY, users))
        return rates

    def log(self, ds: date) -> pa.Table:
        """The day's request log: `event_id` and the layout of `features.arrow.examples_schema`."""
        c, day = self.config, ds.toordinal()
        rng = np.random.default_rng(np.random.SeedSequence([c.seed, day]))
        alive = self.users(day)
        drawn = _weighted(rng, self.activity(alive), c.events_per_day)
        slots = (c.num_items * rng.random(c.events_per_day) ** SKEW).astype(np.int64)
        users = alive[drawn]
        if c.repeated_share:
            slots = self._repeated(users, slots, day)
        popular = np.argsort(mix(c.seed, Draw.STAGGER, 2, np.arange(c.num_items)), kind="stable")
        items = self.items(day)[popular[slots]]
        fraction = np.sort(rng.random(c.events_per_day))
        labels = self._labels(*self.probabilities(users, items, day, fraction), rng)
        active, who = np.unique(users, return_inverse=True)
        columns: dict[str, pa.Array] = {
            EVENT_ID: pa.array(day * 1_000_000_000 + np.arange(c.events_per_day)),
            USER_ID: pa.array(users),
            EVENT_TIME: _times(ds, fraction),
            **self._user_side(active, who, day, fraction),
            **self._item_side(items),
            **{task: pa.array(label) for task, label in labels.items()},
        }
        layout = log_layout(c)
        return pa.table([columns[field.name] for field in layout], schema=layout)

    def _repeated(self, users: Ints, slots: Ints, day: int) -> Ints:
        """The events' items by popularity, some of them replaced by what their users are shown again and again."""
        c = self.config
        rng = np.random.default_rng(np.random.SeedSequence([c.seed, day, Draw.ROTATION]))
        is_repeated = rng.random(len(users)) < c.repeated_share
        place = rng.integers(ROTATION, size=len(users))
        turn = (day + place * ROTATION_DAYS // ROTATION) // ROTATION_DAYS
        held = (c.num_items * uniform(c.seed, Draw.ROTATION, users, place, turn) ** SKEW).astype(np.int64)
        return np.where(is_repeated, held, slots)

    def _labels(
        self, p_click: Floats, p_conversion: Floats, rng: np.random.Generator
    ) -> dict[str, npt.NDArray[np.int8]]:
        click = rng.random(len(p_click)) < p_click
        conversion = click & (rng.random(len(p_click)) < p_conversion)
        if self.config.permuted_labels:
            shuffled = rng.permutation(len(p_click))
            click, conversion = click[shuffled], conversion[shuffled]
        return {"click": click.astype(np.int8), "conversion": conversion.astype(np.int8)}

    def _user_side(self, active: Ints, who: Ints, day: int, fraction: Floats) -> dict[str, pa.Array]:
        c = self.config
        device = (mix(c.seed, Draw.DEVICE, active) % np.uint64(4)).astype(np.int64)
        columns = {
            "user": singles(active[who]),
            "device": singles(device[who]),
            "hour": singles(_HOURS_AT + (fraction * 24).astype(np.int64)),
        }
        ids = IdLists(self, active, day)
        for name, watch in watches(c).items():
            columns[name] = ids.lists(watch, who, fraction)
        dense = self._dense(active, day)
        for feature in range(c.num_dense):
            columns[f"dense_{feature:03d}"] = pa.array(dense[:, feature][who])
        return columns

    def _dense(self, active: Ints, day: int) -> npt.NDArray[np.float32]:
        """[U, num_dense]: the activity, then noisy projections of the taste."""
        c, features = self.config, np.arange(self.config.num_dense)
        directions = normal(c.seed, Draw.PLANE, 1, features[:, None], np.arange(LATENT)) / np.sqrt(LATENT)
        noise = normal(c.seed, Draw.DENSE, active[:, None], day, features)
        values: Floats = self.tastes(active, day) @ directions.T + 0.5 * noise
        values[:, 0] = 10 * np.exp(ACTIVITY_SIGMA * normal(c.seed, Draw.ACTIVITY, active) + 0.3 * noise[:, 0])
        seen: npt.NDArray[np.float32] = values.astype(np.float32)
        return seen

    def _item_side(self, items: Ints) -> dict[str, pa.Array]:
        offered, which = np.unique(items, return_inverse=True)
        vectors = self.item_vectors(offered)
        turn = np.arctan2(vectors[:, 1], vectors[:, 0]) / (2 * np.pi) % 1.0
        category = (turn * CATEGORIES).astype(np.int64)
        seen = vectors[:, 2 : 2 + ITEM_DENSE] + 0.3 * normal(
            self.config.seed, Draw.DENSE, offered[:, None], -1, np.arange(ITEM_DENSE)
        )
        return {
            "item": singles(items),
            "item_category": singles(_HOURS_AT + category[which]),
            "item_domain": singles(items % 2),
            **{f"item_dense_{i}": pa.array(seen[:, i].astype(np.float32)[which]) for i in range(ITEM_DENSE)},
        }


def log_layout(config: SyntheticWorld) -> pa.Schema:
    """The landed log: the examples' layout behind an `event_id`."""
    return pa.schema([pa.field(EVENT_ID, pa.int64(), nullable=False), *examples_schema(config.schema)])


def _times(ds: date, fraction: Floats) -> pa.Array:
    midnight = int(datetime(ds.year, ds.month, ds.day, tzinfo=UTC).timestamp()) * 1_000_000
    return pa.array(midnight + (fraction * DAY_US).astype(np.int64)).cast(TIME)


def _weighted(rng: np.random.Generator, weights: Floats, num: int) -> Ints:
    edges = np.cumsum(weights)
    drawn: Ints = np.searchsorted(edges, rng.random(num) * edges[-1], side="right")
    return drawn.clip(0, len(weights) - 1)


def _rotation(seed: int, which: int, dim: int) -> Floats:
    return np.linalg.qr(normal(seed, Draw.PLANE, 2, which, np.arange(dim * dim)).reshape(dim, dim))[0]


def _sigmoid(logits: Floats) -> Floats:
    return 1.0 / (1.0 + np.exp(-logits))
