"""The cache as an event loop over users: slow, and as the words say it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from trainer.serving import Serving


@dataclass(kw_only=True)
class User:
    """What is known of one."""

    written: list[tuple[int, int]] = field(default_factory=list)
    """(when, by the inference of which request)."""
    ends: int = -1
    """Of the inference that was begun last."""
    own: int = -1
    fails: bool = False


def answers(
    requests: Sequence[tuple[int, int]], policy: Serving, *, latencies: Sequence[int], fails: Sequence[bool]
) -> list[tuple[str, bool, int]]:
    """Per request (time ms, user), in order: what became of it, whether it waited, whose inference it got (or -1)."""
    users: dict[int, User] = {}
    found = []
    for place, (now, name) in enumerate(requests):
        user = users.setdefault(name, User())
        seen = [(when, request) for when, request in user.written if when <= now]
        when, request = max(seen, default=(now, -1))
        served = request if now - when < 1000 * policy.failover_seconds else -1
        if request >= 0 and now - when < 1000 * policy.direct_seconds:
            found.append(("hit", False, served))
            continue
        what = "joined"
        if user.ends <= now:
            what = "inferred"
            user.ends, user.own, user.fails = now + latencies[place], place, fails[place]
            if not user.fails:
                user.written.append((user.ends, place))
        waited = policy.mode == "realtime" and not user.fails and user.ends - now <= policy.window_ms
        found.append((what, waited, user.own if waited else served))
    return found
