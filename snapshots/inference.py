"""Batch inference: every active user of the day through the day's version, pooled, in one atomic commit.

The day's users are cut into shards. Each is written on its own, by any process, and can be started again alone; one
commit makes all of them the day of `candidate_embeddings/<model>`.
"""

from __future__ import annotations

import logging
import multiprocessing
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from datetime import date
from typing import TYPE_CHECKING

import numpy as np

from features.fingerprint import fingerprint
from features.lake import Lake, Partition
from features.schema import USER_ID
from features.table_files import file_column, file_metadata
from infra.settings import Settings
from snapshots.embedder import embedder_of
from snapshots.embeddings import require_layout
from snapshots.pooling import LOOKBACK_DAYS
from snapshots.registry import Registry, partition_tags
from snapshots.shards import Work, write_shard
from snapshots.summary import Summarised
from trainer.worker import die_with_parent

if TYPE_CHECKING:
    from trainer.recipe import Recipe

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Embedded(Summarised):
    """The day's embeddings, at a table version that holds exactly them."""

    model: str
    ds: date
    version: int
    partition: Partition
    num_users: int
    unchanged: bool
    seconds: float


@dataclass(frozen=True, kw_only=True)
class Shard(Summarised):
    """A finished part of the day's embeddings, which no reader of the table sees yet."""

    model: str
    ds: date
    version: int
    shard: int
    num_shards: int
    num_users: int
    unchanged: bool
    seconds: float


def plan_inference(recipe: Recipe, ds: date, *, settings: Settings) -> list[int]:
    """The shards of the day, by number. ValueError: the day has no version or no user features, or the model's
    embeddings have another shape than the recipe's tower gives."""
    registry, lake = Registry(settings), Lake(settings.lake)
    work = _work(recipe, ds, registry=registry, lake=lake)
    if (existing := lake.open(work.table)) is not None:
        require_layout(existing, work.schema)
    return list(work.shards)


def infer_shard(recipe: Recipe, ds: date, shard: int, *, settings: Settings) -> Shard:
    """Embed one shard of the day's users; a finished one of the same inputs is left as it is."""
    began = time.monotonic()
    lake = Lake(settings.lake)
    work = _work(recipe, ds, registry=Registry(settings), lake=lake)
    if shard not in work.shards:
        raise ValueError(f"shard {shard} is none of {work.num_shards}; they are numbered from 0")
    unchanged = shard not in work.missing(lake)
    if unchanged:
        num_users = file_metadata(lake.uri(work.table), ds, work.files[shard]).num_rows
    else:
        num_users = write_shard(work, shard, lake, embedder_of(work.version))
    return Shard(
        model=recipe.name, ds=ds, version=work.version.number, shard=shard, num_shards=work.num_shards,
        num_users=num_users, unchanged=unchanged, seconds=round(time.monotonic() - began, 3),
    )  # fmt: skip


def commit_inference(recipe: Recipe, ds: date, *, settings: Settings) -> Embedded:
    """Make the finished shards the day of `candidate_embeddings/<model>`, in one commit.

    A promoted day is sealed: it is handed back as it is. ValueError names a shard that is not finished, and a user
    that is in two of them.
    """
    began = time.monotonic()
    registry, lake = Registry(settings), Lake(settings.lake)
    work = _work(recipe, ds, registry=registry, lake=lake)
    version, uri = work.version, lake.uri(work.table)
    if version.decision == "promoted" and version.embeddings is not None:
        return _embedded(work, version.embeddings, lake, unchanged=True, began=began)
    found = lake.find(work.table, ds)
    unchanged = found is not None and work.key.startswith(found.fingerprint)
    if found is None or not unchanged:
        if missing := work.missing(lake):
            raise ValueError(
                f"{version.described()}: shards {missing} of {work.num_shards} are not written for the day's inputs as "
                f"they are now; run `usermodel snapshots infer --recipe {recipe.name} --ds {ds} --shard {missing[0]}`"
            )
        _require_users_once(uri, ds, work.files)
        found = lake.commit_files(
            work.table, ds, work.files, schema=work.schema, fingerprint=work.key,
            metadata={
                "version": version.number,
                "model_fingerprint": version.fingerprint,
                "user_features": f"{work.users.table}@{work.users.version}:{work.users.fingerprint}",
                "pooled_with": " ".join(f"{p.ds}@{p.version}:{p.fingerprint}" for p in work.previous),
            },
        )  # fmt: skip
    if version.embeddings is None or version.embeddings.fingerprint != found.fingerprint:
        registry.tag(version, partition_tags("embeddings", found) | partition_tags("user_features", work.users))
    else:
        found = version.embeddings
    return _embedded(work, found, lake, unchanged=unchanged, began=began)


def infer(recipe: Recipe, ds: date, *, settings: Settings, workers: int = 1) -> Embedded:
    """All of it: what shards are missing, in this process or in so many at once, then the commit."""
    if workers < 1:
        raise ValueError(f"{workers} workers cannot embed; give at least one")
    registry, lake = Registry(settings), Lake(settings.lake)
    work = _work(recipe, ds, registry=registry, lake=lake)
    found = work.version.embeddings if work.version.decision == "promoted" else lake.find(work.table, ds)
    if found is None or not (work.version.decision == "promoted" or work.key.startswith(found.fingerprint)):
        plan_inference(recipe, ds, settings=settings)
        missing = work.missing(lake)
        if workers == 1:
            embedder = embedder_of(work.version)
            for shard in missing:
                write_shard(work, shard, lake, embedder)
        else:
            _in_processes(recipe, ds, missing, settings=settings, workers=workers)
    return commit_inference(recipe, ds, settings=settings)


def _in_processes(recipe: Recipe, ds: date, shards: Sequence[int], *, settings: Settings, workers: int) -> None:
    """The first error ends the others before their next shard."""
    spawn = multiprocessing.get_context("spawn")  # a fork would inherit the threads' locks
    with ProcessPoolExecutor(workers, mp_context=spawn, initializer=die_with_parent) as pool:
        running = [pool.submit(infer_shard, recipe, ds, shard, settings=settings) for shard in shards]
        try:
            for one in running:
                one.result()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _work(recipe: Recipe, ds: date, *, registry: Registry, lake: Lake) -> Work:
    """The day's inputs as they are now."""
    version = registry.get(recipe.name, ds)
    users = lake.get(f"user_features/{recipe.source.name}", ds)
    previous = [
        partition
        for partition in registry.promoted_embeddings(recipe.name, before=ds)
        if (ds - partition.ds).days <= LOOKBACK_DAYS
    ]
    tower = recipe.user_tower
    key = fingerprint(
        version.fingerprint, users.fingerprint, [p.fingerprint for p in previous],
        recipe.pooling_versions, LOOKBACK_DAYS, tower.num_embeddings, tower.dim, version.number,
    )  # fmt: skip
    return Work(recipe=recipe, version=version, users=users, previous=tuple(previous), key=key)


def _require_users_once(uri: str, ds: date, files: Sequence[str]) -> None:
    """ValueError for a user in two files. Their ids are only read where the files' ranges of ids meet."""
    parts = [file_column(uri, ds, name, USER_ID).to_numpy() for name in files]
    ids = np.sort(np.concatenate(parts))
    if bool((ids[1:] == ids[:-1]).any()):
        twice = int(ids[1:][ids[1:] == ids[:-1]][0])
        raise ValueError(f"user {twice} has more than one row; a day's user features hold one row per user")


def _embedded(work: Work, partition: Partition, lake: Lake, *, unchanged: bool, began: float) -> Embedded:
    return Embedded(
        model=work.version.model,
        ds=work.version.ds,
        version=work.version.number,
        partition=partition,
        num_users=lake.num_rows(partition),
        unchanged=unchanged,
        seconds=round(time.monotonic() - began, 3),
    )
