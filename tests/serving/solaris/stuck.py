"""A worker in a process, whose foundation model tells what it is given and never comes back."""

from __future__ import annotations

import json
import sys
import time

import redis

from serving.solaris.store import PairStore
from serving.solaris.worker import Options
from tests.serving.solaris.world import MODEL, Formula, worker_of


def _stuck(pairs: list[tuple[int, int]]) -> None:
    print(json.dumps(pairs), flush=True)
    time.sleep(600)


def main(url: str) -> None:
    """Of the store at `url`; its leases are short."""
    with redis.Redis.from_url(url) as client:
        worker_of(PairStore(client, MODEL), Formula(before=_stuck), Options(most_pairs=4, lease_seconds=1.0)).run()


if __name__ == "__main__":
    main(sys.argv[1])
