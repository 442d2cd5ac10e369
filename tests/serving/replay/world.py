"""A tiny model with promoted days, and days of requests whose every feature and label the tests can change."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, timedelta

import numpy as np
import pyarrow as pa

from features.arrow import examples_schema
from features.fingerprint import fingerprint
from features.lake import Lake, Partition
from infra.settings import Settings
from serving.replay.modes import MODES, ReplayConfig
from serving.replay.requests import read_requests
from serving.replay.snapshots import PromotedDays
from serving.replay.stores import Stores
from snapshots.registry import Registry
from tests.snapshots.world import DAYS, START, TinySource, tiny_recipe
from trainer.recipe import DownstreamRecipe

NUM_USERS = 45
CTR = DownstreamRecipe(
    name="tiny_ctr",
    upstreams=("tiny",),
    task="click",
    user_features=("age",),
    embedding_dim=4,
    hidden=(8, 4),
    batch_size=64,
)


@dataclass(frozen=True, kw_only=True)
class Event:
    """One example."""

    user: int
    at: float
    """Fraction of the day."""
    liked: tuple[int, ...]
    seen: tuple[int, ...]
    age: float
    place: int
    click: int

    def row(self, ds: date) -> dict[str, object]:
        """In the layout of the examples."""
        start = datetime.combine(ds, datetime.min.time(), UTC)
        return {
            "user_id": self.user,
            "event_time": start + timedelta(milliseconds=round(self.at * 86_400_000)),
            "liked": list(self.liked),
            "seen": list(self.seen),
            "place": [self.place],
            "age": self.age,
            "click": self.click,
        }


def events_of(ds: date, *, num: int = 200) -> list[Event]:
    """A day in the order of time; users come back, some within a second, and some requests have two candidates."""
    rng = np.random.default_rng(ds.toordinal())
    found: list[Event] = []
    for at in np.sort(rng.random(num)):
        again = bool(found) and rng.random() < 0.2
        user = found[-1].user if again else int(rng.integers(NUM_USERS))
        instant = found[-1].at + 0.3 / 86_400 if again else float(at)
        event = Event(
            user=user,
            at=min(max(instant, found[-1].at if found else 0.0), 0.999),
            liked=tuple(int(one) for one in rng.integers(0, 10**6, rng.integers(0, 4))),
            seen=tuple(int(one) for one in rng.integers(0, 10**6, 3)),
            age=float(rng.integers(10, 90)),
            place=int(rng.integers(20)),
            click=int(rng.random() < 0.3),
        )
        found.append(event)
        if rng.random() < 0.2:
            found.append(replace(event, place=int(rng.integers(20)), click=0))
    return found


def commit_events(lake: Lake, ds: date, events: Sequence[Event]) -> Partition:
    """As the day's examples."""
    rows = pa.Table.from_pylist([event.row(ds) for event in events], schema=examples_schema(TinySource().schema))
    return lake.commit("examples/tiny", ds, rows, fingerprint=fingerprint(ds, [repr(event) for event in events]))


@dataclass(frozen=True, kw_only=True)
class Seen:
    """What a day's requests were served, mode by mode."""

    keys: list[tuple[int, int]]
    """User and time in ms of each request."""
    vectors: dict[str, np.ndarray]
    """[R, K, D]."""

    def of(self, mode: str, *, before_ms: float) -> dict[tuple[int, int], bytes]:
        """The vectors of the earlier requests, to the bit."""
        return {key: self.vectors[mode][place].tobytes() for place, key in enumerate(self.keys) if key[1] < before_ms}


ALL = ReplayConfig(modes=tuple(MODES.values()), delay_ms=500)


def walk(settings: Settings, days: Sequence[date], *, config: ReplayConfig = ALL) -> list[Seen]:
    """Serve the days, as `replay` does."""
    recipe, lake = tiny_recipe(), Lake(settings.lake)
    promoted = PromotedDays.of("tiny", "tiny", registry=Registry(settings), lake=lake, before=days[-1])
    stores = Stores(recipe, lake, promoted, config=config, first=days[0], frozen=START)
    found = []
    for ds in days:
        examples = lake.get("examples/tiny", ds)
        requests = read_requests(lake, examples)
        stores.begin(ds)
        served = stores.serve(ds, examples, requests)
        everyone = np.arange(len(requests))
        found.append(
            Seen(
                keys=list(zip(requests.user.tolist(), requests.time_ms.tolist(), strict=True)),
                vectors={mode: one.pooled(everyone)[0] for mode, one in served.items()},
            )
        )
    return found


def start_ms(ds: date) -> int:
    """Of the day."""
    return int(datetime.combine(ds, datetime.min.time(), UTC).timestamp() * 1_000)


REPLAYED = DAYS[2:4]
"""Days 0 to 2 are promoted; 2 and 3 have requests."""
