"""One user of so many: the same users on every day, so that an experiment on real logs takes hours and not days."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date
from pathlib import Path

import numpy as np

from features.columns import Ids
from features.fingerprint import fingerprint
from features.lake import Lake
from features.schema import USER_ID
from features.source import Source
from infra.settings import Settings

_SPREAD = np.uint64(0x9E3779B97F4A7C15)


def keep_users(source: Source, days: Sequence[date], *, settings: Settings, home: Path, one_of: int) -> Settings:
    """The settings of a lake below `home` that holds these days of the kept users, of the lake of `settings`, which has
    all of them."""
    kept = settings.model_copy(update={"lake_uri": str(home / f"lake_one_of_{one_of}")})
    lake, small = Lake(settings.lake), Lake(kept.lake)
    for ds in days:
        for table in (f"{kind}/{source.name}" for kind in ("examples", "user_features")):
            whole = lake.get(table, ds)
            key = fingerprint(whole.fingerprint, one_of)
            found = small.find(table, ds)
            if found is not None and key.startswith(found.fingerprint):
                continue
            rows = lake.read(whole)
            small.commit(table, ds, rows.filter(is_kept(rows[USER_ID].to_numpy(), one_of)), fingerprint=key)
    return kept


def is_kept(users: Ids, one_of: int) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
    """[N]: by a hash of the id, so that neighbouring ids are as good as others."""
    hashed = (users.astype(np.uint64) * _SPREAD) >> np.uint64(33)
    chosen: np.ndarray[tuple[int], np.dtype[np.bool_]] = hashed % np.uint64(one_of) == 0
    return chosen
