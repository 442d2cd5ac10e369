"""The promoted days into the feature store: what batch mode serves, and where the other modes begin.

Every promoted day that pooling reaches back to is streamed out of `user_embeddings/<model>` and merged into the users'
records: three computed vectors, whatever the order, so that what a reader pools is the table's `pooled` to the bit. A
day that was loaded is remembered in the store itself, so a store that lost everything is filled again, and one that did
not is left alone. A load that was killed is finished by running it again.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import date
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from features.lake import Lake, Partition
from features.schema import EVENT_TIME, USER_ID
from infra.settings import Settings
from serving.features import FeatureCodec
from serving.keys import LOADED
from serving.record import KEPT
from serving.seeds import Seeded, Seeding, entries_of, seed, seed_features
from serving.served import Served
from serving.store import Store
from snapshots.embeddings import FEATURE_TIME, VERSION, stack
from snapshots.pooling import LOOKBACK_DAYS
from snapshots.registry import Registry, Version, partition_from
from snapshots.summary import Summarised

if TYPE_CHECKING:
    from trainer.recipe import Recipe

log = logging.getLogger(__name__)

ROWS_AT_A_TIME = 8_192
_SECONDS_PER_LOG_LINE = 10.0


class NothingLearntError(ValueError):
    """Days are promoted, and none of them was learnt by the consumers that learn it first."""


@dataclass(frozen=True, kw_only=True)
class LoadedDay:
    """One promoted day. seeded: what became of its users' entries; zeros for one that was loaded before."""

    ds: date
    version: int
    unchanged: bool
    seeded: Seeded
    features: int
    """Users whose known features these are now."""
    seconds: float


@dataclass(frozen=True, kw_only=True)
class Loaded(Summarised):
    """What the store holds now of the model's promoted days, newest first."""

    model: str
    mode: str
    days: tuple[LoadedDay, ...]
    serves: Served
    """As clients are told."""


def load(recipe: Recipe, ds: date | None, *, store: Store, settings: Settings, again: bool = False) -> Loaded:
    """Bring the store to the promoted days up to `ds` (None: all), and tell clients what serves.

    A `frozen` model has one day, for ever: `Serving.frozen_day`. again: also load what was loaded before.
    ValueError: no such day is promoted, or the recipe pools more vectors than a record keeps. NothingLearntError.
    """
    if recipe.pooling_versions > KEPT:
        raise ValueError(f"{recipe.name} pools {recipe.pooling_versions} versions; a record keeps {KEPT}")
    versions = Registry(settings).versions(recipe.name)
    wanted = _wanted(recipe, versions, ds)
    gone = _gone(versions)
    lake, dropped = Lake(settings.lake), tuple(version.number for version in gone)
    days = tuple(_load_day(recipe, one, store=store, lake=lake, dropped=dropped, again=again) for one in wanted)
    withdrawn = tuple(version.number for version in gone if version.decision == "rejected")
    serves = _announce(recipe, wanted[0], store, withdrawn)
    return Loaded(model=recipe.name, mode=recipe.serving.mode, days=days, serves=serves)


def _gone(versions: Sequence[Version]) -> list[Version]:
    """What was visible once and is no more: rolled back, or another version of its day serves."""
    visible = {version.number for version in _promoted(versions).values()} | {v.number for v in _waiting(versions)}
    return [version for version in versions if version.visible is not None and version.number not in visible]


def _promoted(versions: Sequence[Version]) -> dict[date, Version]:
    """The promoted version of each day that may serve. versions: oldest first."""
    return {v.ds: v for v in versions if v.may_serve and v.visible is not None}


def _waiting(versions: Sequence[Version]) -> list[Version]:
    """Promoted, and not learnt yet."""
    return [version for version in versions if version.decision == "promoted" and version.waits_for]


def _wanted(recipe: Recipe, versions: Sequence[Version], ds: date | None) -> list[Version]:
    """The days to load, newest first."""
    promoted = _promoted(versions)
    days = sorted(promoted, reverse=True)
    if recipe.serving.mode == "frozen":
        left = [day for day in days if "pruned" not in promoted[day].tags]  # as `Registry.frozen`
        frozen = recipe.serving.frozen_day or (left[-1] if left else None)
        days = [day for day in days if day == frozen]
    elif ds is not None:
        days = [day for day in days if day <= ds]
    if not days:
        day = recipe.serving.frozen_day if recipe.serving.mode == "frozen" else ds
        up_to = f" up to {day}" if day else ""
        if waiting := _waiting(versions):
            first = waiting[0]
            raise NothingLearntError(
                f"{recipe.name} has no day{up_to} that serves yet: {first.described()} waits for "
                f"{', '.join(first.waits_for)} to learn it"
            )
        raise ValueError(
            f"{recipe.name} has no promoted day{up_to}; promote one first: "
            f"`usermodel snapshots promote --recipe {recipe.name} --ds D`"
        )
    return [promoted[day] for day in days if (days[0] - day).days <= LOOKBACK_DAYS]


def _load_day(
    recipe: Recipe, version: Version, *, store: Store, lake: Lake, dropped: tuple[int, ...], again: bool
) -> LoadedDay:
    """One day's vectors, then the features that they were computed from, where requests cause inferences."""
    began = time.monotonic()
    vectors = version.visible
    assert vectors is not None
    users = partition_from(version.tags, "user_features", version.ds) if recipe.serving.computes else None
    seeded, features, unchanged = Seeded(), 0, True
    content = _content(recipe, vectors, dropped)
    if _is_new(store, vectors, content) or again:
        unchanged = False
        seeded = load_vectors(recipe, vectors, store=store, lake=lake, dropped=dropped)
        _remember(store, vectors, content)
    if users is not None and (_is_new(store, users, users.fingerprint) or again):
        unchanged = False
        features = _load_features(recipe, users, store=store, lake=lake)
        _remember(store, users, users.fingerprint)
    return LoadedDay(
        ds=version.ds, version=version.number, unchanged=unchanged, seeded=seeded, features=features,
        seconds=round(time.monotonic() - began, 3),
    )  # fmt: skip


def load_vectors(recipe: Recipe, partition: Partition, *, store: Store, lake: Lake, dropped: tuple[int, ...]) -> Seeded:
    """A day of `user_embeddings/<model>` into the users' records, a batch at a time."""
    tower, serving = recipe.user_tower, recipe.serving
    columns = [USER_ID, VERSION, FEATURE_TIME, *(f"embedding_{k}" for k in range(tower.num_embeddings))]
    how = Seeding(
        model=recipe.name,
        ttl_seconds=serving.failover_seconds,
        future_seconds=serving.future_seconds,
        pool=serving.pool,
        dropped=dropped,
    )
    total = Seeded()
    for batch in _streamed(lake, partition, columns, what="vectors"):
        entries = entries_of(
            stack(batch, "embedding", num_embeddings=tower.num_embeddings, dim=tower.dim),
            versions=batch.column(VERSION).to_numpy(),
            feature_ms=_milliseconds(batch.column(FEATURE_TIME)),
        )
        total += seed(store, batch.column(USER_ID).to_numpy(), entries, how=how)
    if total.future:
        log.warning("loading %s ds=%s: %d users are from the future", partition.table, partition.ds, total.future)
    return total


def _load_features(recipe: Recipe, partition: Partition, *, store: Store, lake: Lake) -> int:
    codec, serving = FeatureCodec(recipe.schema), recipe.serving
    known = lake.dataset(partition).schema.names
    total = 0
    for batch in _streamed(lake, partition, [USER_ID, EVENT_TIME, *codec.columns(known)], what="features"):
        total += seed_features(
            store,
            recipe.source.name,
            batch.column(USER_ID).to_numpy(),
            _milliseconds(batch.column(EVENT_TIME)),
            codec.encode_rows(batch),
            ttl_seconds=serving.failover_seconds,
            future_seconds=serving.future_seconds,
        )
    return total


def _streamed(lake: Lake, partition: Partition, columns: list[str], *, what: str) -> Iterator[pa.RecordBatch]:
    """The day's rows in bounded memory, with a line in the log now and then."""
    began = said = time.monotonic()
    done, num_rows = 0, lake.num_rows(partition)
    batches = lake.dataset(partition).to_batches(
        columns=columns, batch_size=ROWS_AT_A_TIME, batch_readahead=1, fragment_readahead=1
    )
    for batch in batches:
        if not batch.num_rows:
            continue
        yield batch
        done += batch.num_rows
        if (now := time.monotonic()) - said > _SECONDS_PER_LOG_LINE or done == num_rows:
            said = now
            log.info(
                "loading %s table=%s ds=%s users=%d of %d users/s=%.0f",
                what, partition.table, partition.ds, done, num_rows, done / (now - began),
            )  # fmt: skip


def _milliseconds(times: pa.Array) -> np.ndarray[Any, np.dtype[np.int64]]:
    return times.cast(pa.timestamp("ms", tz="UTC"), safe=False).cast(pa.int64()).to_numpy()  # type: ignore[no-any-return]


def _is_new(store: Store, partition: Partition, content: str) -> bool:
    found: Any = store.redis.hget(LOADED, _name(partition))
    return found is None or found.decode() != content


def _remember(store: Store, partition: Partition, content: str) -> None:
    store.redis.hset(LOADED, _name(partition), content)


def _name(partition: Partition) -> str:
    return f"{partition.table}/{partition.ds}"


def _content(recipe: Recipe, partition: Partition, dropped: tuple[int, ...]) -> str:
    """After a rollback others are dropped, and the days whose place they took are loaded again; as they are where
    records are of another shape or rule."""
    tower, pool = recipe.user_tower, recipe.serving.pool
    return " ".join([partition.fingerprint, pool, f"{tower.num_embeddings}x{tower.dim}", *map(str, dropped)])


def _announce(recipe: Recipe, newest: Version, store: Store, withdrawn: tuple[int, ...]) -> Served:
    """Tell clients. Where requests cause inferences the compute center says what serves, and the load only before it
    and what is withdrawn. A later day than `newest` goes on serving."""
    tower, told = recipe.user_tower, store.served().get(recipe.name)
    serves = Served(
        model=recipe.name, source=recipe.source.name, version=newest.number, ds=newest.ds.isoformat(),
        num_embeddings=tower.num_embeddings, dim=tower.dim, pooling_versions=recipe.pooling_versions,
        withdrawn=withdrawn,
    )  # fmt: skip
    if told is not None and (recipe.serving.computes or (told.ds > serves.ds and told.version not in withdrawn)):
        serves = Served(**{**asdict(told), "withdrawn": withdrawn})
    if serves != told:
        store.announce(serves)
        log.info("serves model=%s ds=%s version=%d withdrawn=%s", serves.model, serves.ds, serves.version, withdrawn)
    return serves
