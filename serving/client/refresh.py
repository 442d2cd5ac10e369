"""What a client keeps asking in the background: what is served, and what time the store has."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from typing import Any

from serving.client.core import Core
from serving.client.wire import packed, require_no_error
from serving.keys import LAYOUT, SERVED
from serving.served import Served
from serving.store import require_layout

logger = logging.getLogger(__name__)

COMMANDS = packed([("TIME",), ("HGETALL", SERVED)])
"""To the server of `Route.served`."""
NUM_ANSWERS = 2
PROBE = packed([("PING",)])
"""To a server whose breaker is open: it closes without waiting for somebody who reads."""


def layout(core: Core) -> bytes:
    """The commands of `require_layout`, once per client."""
    return packed([("SETNX", LAYOUT, core.keys.partitions), ("GET", LAYOUT)])


def learn_layout(core: Core, answers: Sequence[Any]) -> None:
    """ValueError where the store was written with another number of partitions."""
    for answer in answers:
        require_no_error(answer)
    require_layout(answers[1], core.keys)


def learn(core: Core, answers: Sequence[Any], *, asked: float) -> None:
    """Take over what the store said; asked: when, by `time.monotonic`. BrokenError: it said it could not."""
    for answer in answers:
        require_no_error(answer)
    (seconds, micros), told = answers
    core.clock.measured(asked=asked, answered=time.monotonic(), store_ms=1000 * int(seconds) + int(micros) / 1000)
    served = {name.decode(): Served.from_json(text) for name, text in zip(told[::2], told[1::2], strict=True)}
    for name in core.models:
        if served.get(name) != core.served.get(name):
            logger.info("model %s: %s is served", name, served.get(name))
    core.served = served
    core.refreshed()
