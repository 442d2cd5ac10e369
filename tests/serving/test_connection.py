"""Which of Redis' errors pass by themselves."""

from __future__ import annotations

import pytest
import redis

from serving.connection import UNAVAILABLE, told


@pytest.mark.parametrize(
    ("error", "passes"),
    [
        (redis.ResponseError("Error running script (call to f_1): @user_script:9: -READONLY You can't write"), True),
        (redis.ResponseError("Error running script (call to f_1): @user_script: 9: OOM command not allowed"), True),
        (redis.ResponseError("NOREPLICAS Not enough good replicas to write."), True),
        (redis.ResponseError("MISCONF Redis is configured to save RDB snapshots"), True),
        (redis.ResponseError("UNBLOCKED the stream key no longer exists"), True),
        (redis.ConnectionError("gone"), True),
        (redis.ResponseError("BUSYGROUP Consumer Group name already exists"), False),
        (redis.ResponseError("NOGROUP No such key"), False),
        (redis.ResponseError("WRONGTYPE Operation against a key"), False),
    ],
    ids=lambda value: str(value)[:40],
)
def test_what_passes(error: Exception, passes: bool) -> None:
    assert isinstance(told(error), UNAVAILABLE) is passes
