"""A compute center of its own process, for a test that freezes it: takes requests and writes an entry for each."""

from __future__ import annotations

import sys

import redis

from serving.keys import GROUP
from serving.store import Store
from tests.serving.client.clients import write


def main(url: str) -> None:
    """Until it is killed."""
    with redis.Redis.from_url(url) as client:
        store = Store(client)
        stream = store.keys.requests("s", 0)
        client.xgroup_create(stream, GROUP, id="0", mkstream=True)
        while True:
            for _, entries in client.xreadgroup(GROUP, "w", {stream: ">"}, block=100):  # type: ignore[union-attr]
                for number, fields in entries:
                    user = int(fields[b"u"])
                    client.delete(store.keys.queued("s", user))
                    write(store, user, 4)
                    client.xack(stream, GROUP, number)
                    client.xdel(stream, number)


if __name__ == "__main__":
    main(sys.argv[1])
