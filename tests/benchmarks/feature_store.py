"""Loading a promoted day into the feature store (`serving.load`), against raw SETs of the same bytes; memory per user.

Loading reads the lake's files, makes the records' bytes and has the store merge each of them; the raw reference sends
bytes that lie ready, as many at once, and merges nothing. `first`: an empty store. `next`: the users are there, with
vectors of the day before. `again`: the same day. Memory is what Redis says it uses, per user, with 1 to 3 vectors kept.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import redis

from features.lake import Lake, Partition
from features.schema import USER_ID
from serving.keys import ONE_SERVER
from serving.load import load_vectors
from serving.record import HEADER, KEPT, entry_type
from serving.seeds import Seeding, entries_of, seed
from serving.store import Store
from snapshots.embeddings import FEATURE_TIME, VERSION
from tests.benchmarks.common.report import finish, machine, options_of, parser, show, spread
from tests.benchmarks.embedding_write import DIM, DS, K, rows_of
from tests.serving.servers import redis_server
from trainer.recipe import Recipe
from trainer.recipes import get_recipe
from trainer.serving import Serving

GOAL = 0.5
USERS, QUICK_USERS = 100_000, 2_000
SHAPES = ((2, 16), (2, 32), (2, 96))
"""K and D of what memory is measured for."""
_AT_ONCE = 8_192


def committed(lake: Lake, num_users: int) -> list[Partition]:
    """Two days of the same users, a version each."""
    rows, found = rows_of(num_users), []
    for day in range(2):
        ds = DS + timedelta(days=day)
        times = pa.array(np.full(num_users, int(ds.strftime("%s")) * 10**6), rows.schema.field(FEATURE_TIME).type)
        one = rows.set_column(rows.schema.get_field_index(FEATURE_TIME), rows.schema.field(FEATURE_TIME), times)
        numbers = pa.array(np.full(num_users, 1 + day, np.int32))
        one = one.set_column(rows.schema.get_field_index(VERSION), rows.schema.field(VERSION), numbers)
        found.append(lake.commit("user_embeddings/bench", ds, one, fingerprint=f"{day + 1:064x}"))
        lake.dataset(found[-1])  # its checksums are compared once, now
    return found


def seconds_of_sets(client: redis.Redis, users: list[int]) -> float:
    """Pipelined SETs, with an expiry, of a record with one vector for each user."""
    value = b"x" * (HEADER.size + entry_type(K, DIM).itemsize)
    names = [ONE_SERVER.record("raw", user) for user in users]
    began = time.perf_counter()
    for at in range(0, len(names), _AT_ONCE):
        with client.pipeline(transaction=False) as pipeline:
            for name in names[at : at + _AT_ONCE]:
                pipeline.set(name, value, px=10**9)
            pipeline.execute()
    return time.perf_counter() - began


def turn(recipe: Recipe, lake: Lake, days: list[Partition], client: redis.Redis, users: list[int]) -> dict[str, float]:
    """Seconds of each."""
    store, found = Store(client), {}
    client.flushall()
    for name, day in (("first", days[0]), ("next", days[1]), ("again", days[1])):
        began = time.perf_counter()
        load_vectors(recipe, day, store=store, lake=lake, dropped=())
        found[name] = time.perf_counter() - began
    client.flushall()
    return found | {"raw": seconds_of_sets(client, users)}


def memory(client: redis.Redis, shape: tuple[int, int], num_users: int) -> dict[str, Any]:
    """Bytes per user and model, by the number of vectors kept."""
    store, users = Store(client), np.arange(10**7, 10**7 + num_users)
    client.flushall()
    empty, found = _used(client), []
    for version in range(1, KEPT + 1):
        vectors = np.random.default_rng(version).standard_normal((num_users, *shape), dtype=np.float32)
        entries = entries_of(
            vectors, versions=np.full(num_users, version, np.int32), feature_ms=np.full(num_users, version)
        )
        for at in range(0, num_users, _AT_ONCE):
            part = slice(at, at + _AT_ONCE)
            seed(store, users[part], entries[part], how=Seeding(model="bench", ttl_seconds=1e6, future_seconds=60))
        found.append(round((_used(client) - empty) / num_users))
    key: Any = ONE_SERVER.record("bench", int(users[0]))
    raw = [HEADER.size + kept * entry_type(*shape).itemsize for kept in range(1, KEPT + 1)]
    return {
        "K": shape[0], "D": shape[1], "users": num_users, "bytes_per_user": found, "of_them_the_value": raw,
        "memory_usage_command": client.memory_usage(key),
    }  # fmt: skip


def _used(client: redis.Redis) -> int:
    return int(client.info("memory")["used_memory"])  # type: ignore[index]


def main() -> None:
    """A line per shape, then the result."""
    options = options_of(parser(__doc__).parse_args())
    num_users = QUICK_USERS if options.quick else USERS
    recipe = get_recipe("demo")
    recipe = replace(
        recipe, name="bench", serving=Serving(mode="batch"), user_tower=replace(recipe.user_tower, dim=DIM)
    )
    options.home.mkdir(parents=True, exist_ok=True)
    with machine() as found, tempfile.TemporaryDirectory(dir=options.home) as name:
        lake = Lake(f"{name}/lake")
        days = committed(lake, num_users)
        users = lake.read(days[0], columns=[USER_ID])[USER_ID].to_pylist()
        with redis_server(Path(name)) as server, server.client() as client:
            for shape in SHAPES:
                show(memory(client, shape, num_users))
            turn(recipe, lake, days, client, users)
            client.config_resetstat()
            turns = [turn(recipe, lake, days, client, users) for _ in range(options.runs)]
            held: Any = client.info("commandstats")["cmdstat_evalsha"]  # type: ignore[index]
    finish(
        "feature_store", options=options, users=num_users, machine=found,
        users_per_second={way: spread([num_users / one[way] for one in turns]) for way in turns[0]},
        script_ms=round(held["usec_per_call"] / 1000, 3),
        goal=GOAL, ratio=statistics.median(one["raw"] / one["first"] for one in turns),
    )  # fmt: skip


if __name__ == "__main__":
    main()
