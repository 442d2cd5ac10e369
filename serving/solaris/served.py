"""What a day's examples were served (`serving.solaris.mirror`), as downstream training joins it."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta

import numpy as np
import pyarrow as pa

from features.columns import Ids, column_of
from features.lake import Lake, Partition
from features.schema import USER_ID
from serving.solaris.impressions import Impressions
from serving.solaris.levels import Level
from serving.solaris.mirror import ITEM_ID, SERVED_TIME
from serving.solaris.replay import Served

WITHIN = timedelta(minutes=5)
"""An example comes so long after its read at most: a model that serves it anew reads it anew."""


def served_of(
    lake: Lake, mirrored: Sequence[Partition], impressions: Impressions, *, width: int, within: timedelta = WITHIN
) -> Served:
    """Of each impression its newest read, of the same user and item, not after it nor longer before it than `within`:
    a `Lookup` by places among the impressions, for `serving.solaris.joined.ImpressionEncoder`. What was not logged is
    as what was served zeros. mirrored: the day's partition, and the one before for what was read across midnight.
    ValueError: they hold vectors of another width."""
    names = [USER_ID, ITEM_ID, SERVED_TIME, "level", "vector"]
    vectors = np.zeros((len(impressions), width), np.float16)
    levels = np.full(len(impressions), Level.ZERO, np.uint8)
    ages = np.full(len(impressions), np.nan, np.float32)
    if mirrored and len(rows := pa.concat_tables([lake.read(one, columns=names) for one in mirrored])):
        reads = Impressions(
            user=rows[USER_ID].to_numpy(),
            item=rows[ITEM_ID].to_numpy(),
            time_us=rows[SERVED_TIME].cast(pa.int64()).to_numpy(),
        )
        places = _newest(reads, impressions, within_us=within // timedelta(microseconds=1))
        found = np.flatnonzero(places >= 0)
        taken = column_of(rows.select(["vector"]).take(pa.array(places[found])), "vector").flatten().to_numpy()
        if len(taken) != width * len(found):
            raise ValueError(f"{mirrored[0].table} holds vectors of another width than {width}")
        vectors[found] = taken.reshape(-1, width)
        levels[found] = rows["level"].to_numpy()[places[found]]
    return Served(vectors=vectors, levels=levels, age_hours=ages)


def _newest(reads: Impressions, impressions: Impressions, *, within_us: int) -> Ids:
    """[impressions]: the place of each one's read, -1: it has none."""
    users, items, times = (
        np.concatenate([getattr(reads, name), getattr(impressions, name)]) for name in ("user", "item", "time_us")
    )
    is_asking = np.arange(len(users)) >= len(reads)
    order = np.lexsort((is_asking, times, items, users))  # a read of the same instant stands before
    at = np.maximum.accumulate(np.where(is_asking[order], 0, np.arange(len(order))))
    last = np.empty(len(order), np.int64)
    last[order] = order[at]  # of each row the read that stands before it, or row order[0]
    asking, read = np.arange(len(reads), len(users)), last[len(reads) :]
    is_its = (read < len(reads)) & (users[read] == users[asking]) & (items[read] == items[asking])
    return np.where(is_its & (times[asking] - times[read] <= within_us), read, -1)
