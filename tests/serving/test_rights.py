"""A user of Redis' ACL with few rights is enough for serving."""

from __future__ import annotations

from pathlib import Path

import httpx
import pytest
import redis

from infra.feature_store import RIGHTS
from serving.compute.queue import Requests, streams_of
from serving.keys import Keys
from tests.serving.http.service import announce, running, wait_until
from tests.serving.servers import redis_server


def test_a_user_who_can_do_what_serving_does_and_no_more(tmp_path: Path) -> None:
    with redis_server(tmp_path) as server, server.client() as admin:
        admin.execute_command("ACL", "SETUSER", "usermodel", "on", ">word", *RIGHTS)
        admin.set("other", "secret")
        url = server.url.replace("redis://", "redis://usermodel:word@")
        with running(url) as service, redis.Redis.from_url(url) as own:
            service.store.require_layout()
            announce(service.store)
            service.write(7, (5, 1_000))
            requests = Requests(own, Keys(1), streams_of(["shop"], [0], Keys(1)), consumer="one")
            requests.open()
            asked = {"user_id": 7, "models": ["demo"], "features": {"clicked": [3]}}
            answer = httpx.post(f"{service.url}/v1/embeddings", json=asked, trust_env=False, timeout=20).json()
            assert answer["embeddings"]["demo"]["origin"] == "store"
            assert httpx.get(f"{service.url}/readyz", trust_env=False, timeout=20).status_code == 200
            wait_until(lambda: own.xlen(Keys(1).requests("shop", 0)))
            taken = requests.read({"shop"}, count=9)
            assert [one.user for one in taken] == [7]
            assert requests.take(taken)[0] is not None
            assert requests.done(taken) == 1
            for command in (["GET", "other"], ["KEYS", "*"], ["FLUSHALL"], ["CONFIG", "GET", "*"], ["ACL", "LIST"]):
                with pytest.raises(redis.exceptions.NoPermissionError):
                    own.execute_command(*command)
