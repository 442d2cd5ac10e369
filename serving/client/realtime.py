"""A request that waits for its own inference (Table 2's real-time mode), for `window_ms` at most.

It brings the name of a list; the worker that has written its vectors pushes to it (`serving.scripts.ENQUEUE`). One
round trip: queue it, wait, read what is there then.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import hiredis

from serving.client.answer import Computation
from serving.client.outbox import command, outcome
from serving.client.wire import packed
from serving.keys import Keys
from serving.store import Request

NUM_ANSWERS = 3
_EARLIER_SECONDS = 0.002
"""A store that is busy gives up in time, and the connection can be used again. An idle one (Redis looks at its clock
ten times a second) does not, and the client does at the end of the window."""
DONE = b"1"
"""What a worker pushes when the vectors are written; anything else: they are not."""


def commands(request: Request, keys: Keys, *, records: Sequence[str], window_seconds: float) -> bytes:
    """ENQUEUE, BLPOP of `request.reply`, MGET of the records."""
    seconds = max(window_seconds - _EARLIER_SECONDS, 0.001)
    return command(request, keys) + packed([("BLPOP", request.reply, seconds), ("MGET", *records)])


def result(answers: Sequence[Any], earlier: Sequence[Any]) -> tuple[Sequence[Any], Computation]:
    """The records, `earlier` if they could not be read again, and what became of the inference."""
    queued, pushed, values = answers
    if isinstance(values, hiredis.ReplyError):
        values = earlier
    if queued != 1:
        return values, cast(Computation, outcome(queued))
    if pushed is None:
        return values, "late"
    return values, "computed" if isinstance(pushed, list) and pushed[1] == DONE else "failed"
