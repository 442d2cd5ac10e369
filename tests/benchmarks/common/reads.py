"""Reads of the feature store on a schedule, in a process of their own: milliseconds of each, as JSON."""

from __future__ import annotations

import json
import sys
import time

import redis

from serving.store import Store


def main(url: str, model: str, seconds: float, rate: float) -> None:
    """Users come as a JSON list on standard input."""
    users = json.load(sys.stdin)
    took = []
    with redis.Redis.from_url(url) as client:
        store = Store(client)
        store.read(users[0], (model,))
        start = time.perf_counter()
        for number in range(int(seconds * rate)):
            due = start + number / rate
            time.sleep(max(due - time.perf_counter(), 0))
            store.read(users[number % len(users)], (model,))
            took.append(1000 * (time.perf_counter() - due))
    json.dump(took, sys.stdout)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], float(sys.argv[3]), float(sys.argv[4]))
