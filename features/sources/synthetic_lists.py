"""The id lists of the synthetic world: how it is observed what users like."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from features.sources.draws import normal, triangular, uniform
from features.sources.ragged import Ints, slices
from features.sources.synthetic import SyntheticWorld
from features.sources.synthetic_draws import LATENT, Draw, Floats

if TYPE_CHECKING:
    from features.sources.synthetic_world import World

RATES = (2.0, 0.5)  # ids met a day by features of even and odd number
SPREADS = (0.20, 0.10)  # noise of their angle, in turns
RECENT_RATE = 24.0  # ids met a day by the features that see the intent
RECENT_SPREAD = 0.10
_FIRST_RECENT = 10_000  # by which draws of their lists are told from those of the others


@dataclass(frozen=True, kw_only=True)
class Watch:
    """What one id list sees of a user: the angle of the taste in a plane, now and then."""

    pair: int
    """Its plane and its vocabulary, by number."""
    key: int
    """Its draws, told from those of other lists."""
    rate: float
    """Ids met a day."""
    spread: float
    """Noise of their angle, in turns."""
    sees_intent: bool = False


def watches(config: SyntheticWorld) -> dict[str, Watch]:
    """By the name of the feature."""
    found = {
        f"ids_{i:03d}": Watch(pair=i // 2, key=i, rate=RATES[i % 2], spread=SPREADS[i % 2])
        for i in range(config.num_sparse)
    }
    for pair in range(config.num_recent):
        found[f"recent_{pair:03d}"] = Watch(
            pair=pair, key=_FIRST_RECENT + pair, rate=RECENT_RATE, spread=RECENT_SPREAD, sees_intent=True
        )
    return found


class IdLists:
    """The ids that users meet over time in one plane. Meeting p comes at (p + 1 - phase) / rate days."""

    def __init__(self, world: World, active: Ints, day: int) -> None:
        c = world.config
        self.world, self.active, self.day = world, active, day
        self.phase = uniform(c.seed, Draw.ARRIVAL, active)
        self.born = world.born(active)
        days_back = int(np.ceil((c.ids_per_list + 1) / min(RATES))) + 1
        self.first_day = day - days_back
        self.tastes = np.stack([world.tastes(active, d) for d in range(self.first_day, day + 1)])  # [days, U, Z]

    def lists(self, watch: Watch, who: Ints, fraction: Floats) -> pa.ListArray:
        """The newest ids at each event, [E] lists; `who` are the events' users as places in `active`."""
        c, rate = self.world.config, watch.rate
        base = int(rate * self.day) - c.ids_per_list
        num_places = int(np.ceil(rate * (self.day + 1))) + 1 - base
        met = self._met(watch, base + np.arange(num_places))  # [U, places]
        end = np.floor(rate * (self.day + fraction) + self.phase[who]).astype(np.int64)
        first = np.ceil(rate * self.born + self.phase).astype(np.int64)[who]
        start = np.minimum(np.maximum(end - c.ids_per_list, first), end)
        return slices(met.ravel(), who * num_places + start - base, end - start)

    def _met(self, watch: Watch, places: Ints) -> Ints:
        c, world = self.world.config, self.world
        instants = (places + 1 - self.phase[:, None]) / watch.rate
        met_on = np.clip(np.floor(instants).astype(np.int64), self.first_day, self.day)  # [U, places]
        noise = watch.spread * triangular(c.seed, Draw.ANGLE, self.active[:, None], watch.key, places)
        turns = self._turns_then(watch, instants, met_on) if watch.sees_intent else self._turns(watch, met_on)
        slots = ((turns + noise) % 1.0 * c.vocabulary).astype(np.int64) % c.vocabulary
        return world.tenants(slots, met_on, kind=100 + watch.pair, num=c.vocabulary, lifetime=c.id_lifetime_days)

    def _turns(self, watch: Watch, met_on: Ints) -> Floats:
        """The users' own angles on those days, [U, places]."""
        turns = self._angles(watch, self.tastes)
        return turns[met_on - self.first_day, np.arange(len(self.active))[:, None]]

    def _turns_then(self, watch: Watch, instants: Floats, met_on: Ints) -> Floats:
        """At those instants, with what they were after."""
        place = np.broadcast_to(np.arange(len(self.active))[:, None], met_on.shape).ravel()
        tastes = self.tastes[met_on.ravel() - self.first_day, place]
        then = self.world.with_intent(tastes, self.active[place], instants.ravel())
        return self._angles(watch, then).reshape(met_on.shape)

    def _angles(self, watch: Watch, tastes: Floats) -> Floats:
        """[..., Z] to [...], in turns."""
        plane = normal(self.world.config.seed, Draw.PLANE, 0, watch.pair, np.arange(2 * LATENT)).reshape(2, LATENT)
        seen = tastes @ plane.T
        turns: Floats = np.arctan2(seen[..., 1], seen[..., 0]) / (2 * np.pi)
        return turns
