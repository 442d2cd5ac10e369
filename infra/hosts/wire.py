"""A cable that is slow, lossy or narrow: carries frames between two interfaces of the network it runs in.

`python -m infra.hosts.wire NEAR FAR '{"delay_ms": …}'`. The kernel's own netem would do this too, where it is built in;
many small kernels have none. Frames keep the offloads of the interface they come from: a large one is carried whole.
"""

from __future__ import annotations

import json
import random
import select
import socket
import sys
import time
from collections import deque
from contextlib import suppress
from dataclasses import dataclass, field

_SOL_PACKET, _VNET_HDR, _IGNORE_OUTGOING = 263, 15, 23
_ALL_PROTOCOLS = 3
_LARGEST_FRAME = 10 + 18 + 65_536
"""The header that says what is left to offload, the Ethernet header, the packet."""
_BUFFER_BYTES = 8 << 20
_QUEUE_SECONDS = 0.2
"""A narrow link keeps frames waiting for so long; further ones are dropped, as a switch does."""


@dataclass(frozen=True, kw_only=True)
class Link:
    """What a host's cable does to traffic in either direction."""

    delay_ms: float = 0.0
    """Added to each round trip over it: half on the way there, half on the way back."""
    loss: float = 0.0
    """Share of the packets that do not arrive."""
    rate_mbit: float = 0.0
    """Megabits per second and direction; 0: no limit."""
    seed: int = 0
    """Of the lottery which packets are lost."""

    def __post_init__(self) -> None:
        if self.delay_ms < 0 or self.rate_mbit < 0 or not 0 <= self.loss < 1:
            raise ValueError(f"{self}; delay and rate are 0 or more, loss is a share in [0, 1)")

    @property
    def is_plain(self) -> bool:
        """Whether it does nothing."""
        return not (self.delay_ms or self.loss or self.rate_mbit)


@dataclass(kw_only=True)
class _Direction:
    """Frames on their way, in the order in which they arrive."""

    source: socket.socket
    target: socket.socket
    link: Link
    lottery: random.Random
    frames: deque[tuple[float, bytes]] = field(default_factory=deque)
    free: float = 0.0
    """When the narrow link has sent what it holds."""

    def take(self, now: float) -> None:
        """Everything that waits at the source."""
        while True:
            try:
                frame = self.source.recv(_LARGEST_FRAME)
            except (BlockingIOError, InterruptedError):
                return
            except OSError:  # the interface is down: it says so once
                return
            if self.lottery.random() < self.link.loss:
                continue
            self.free = max(self.free, now)
            if self.link.rate_mbit:
                if self.free - now > _QUEUE_SECONDS:
                    continue
                self.free += len(frame) * 8 / (self.link.rate_mbit * 1e6)
            self.frames.append((self.free + self.link.delay_ms / 2000, frame))

    def deliver(self, now: float) -> None:
        """What has arrived."""
        while self.frames and self.frames[0][0] <= now:
            with suppress(OSError):  # an interface that is down takes nothing, nor a full one
                self.target.send(self.frames[0][1])
            self.frames.popleft()


def main(argv: list[str]) -> None:
    """Until it is killed. Says `up` when it carries."""
    near, far, told = argv[1:]
    link = Link(**json.loads(told))
    ends = [_attached(near), _attached(far)]
    lottery = random.Random(link.seed)  # noqa: S311
    ways = [_Direction(source=a, target=b, link=link, lottery=lottery) for a, b in (ends, ends[::-1])]
    print("up", flush=True)
    while True:
        due = min((way.frames[0][0] for way in ways if way.frames), default=None)
        select.select(ends, [], [], None if due is None else max(due - time.monotonic(), 0))
        now = time.monotonic()
        for way in ways:
            way.take(now)
            way.deliver(now)


def _attached(interface: str) -> socket.socket:
    made = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
    made.setsockopt(_SOL_PACKET, _VNET_HDR, 1)
    made.setsockopt(_SOL_PACKET, _IGNORE_OUTGOING, 1)
    for option in (socket.SO_RCVBUF, socket.SO_SNDBUF):
        made.setsockopt(socket.SOL_SOCKET, option, _BUFFER_BYTES)
    made.bind((interface, _ALL_PROTOCOLS))
    made.setblocking(False)
    return made


if __name__ == "__main__":
    main(sys.argv)
