"""What can happen to the network of a training job, and what is promised of each."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from infra.hosts.rack import Rack
from infra.hosts.wire import Link

Retry = Literal["none", "remaining", "all"]


@dataclass(frozen=True, kw_only=True)
class Fault:
    """One of them. It befalls the job in the midst of the day."""

    promise: str
    inject: Callable[[Rack], None]
    retry: Retry = "none"
    """On which hosts the day goes on after the job failed; `none`: the job itself survives."""
    heals: Callable[[Rack], None] = lambda rack: None
    heals_seconds: float = 0.0
    """After it began; 0: at the end, when the day is trained."""
    from_start: bool = False
    """It is there before the job begins."""


def _every(link: Link) -> Callable[[Rack], None]:
    def inject(rack: Rack) -> None:
        for name in rack.names:
            rack.shape(name, link)

    return inject


def _shaped(promise: str, link: Link) -> Fault:
    return Fault(promise=promise, inject=_every(link), heals=_every(Link()), from_start=True)


def _slow(rtt_ms: float) -> Fault:
    promise = f"round trips of {rtt_ms:g} ms between any two hosts: slower, the same bits"
    return _shaped(promise, Link(delay_ms=rtt_ms / 2))


def _lossy(percent: float) -> Fault:
    promise = f"{percent:g} % of the packets lost in each direction of every cable: slower, the same bits"
    return _shaped(promise, Link(loss=percent / 100))


def faults(*, deadline_seconds: float) -> dict[str, Fault]:
    """By the name that `usermodel infra hosts try --fault` knows."""
    return {
        "none": Fault(promise="nothing happens", inject=lambda rack: None, from_start=True),
        "blip": Fault(
            promise="cut off for a third of the deadline: the job waits, and loses nothing",
            inject=lambda rack: rack.cut(rack.names[-1]),
            heals=lambda rack: rack.join(rack.names[-1]),
            heals_seconds=deadline_seconds / 3,
        ),
        "cut": Fault(
            promise="the last host cut off: named, the day goes on on the others; it comes back, and writes nothing",
            inject=lambda rack: rack.cut(rack.names[-1]),
            heals=lambda rack: rack.join(rack.names[-1]),
            retry="remaining",
        ),
        "cut-first": Fault(
            promise="the host that the others meet at, and that publishes, cut off: as any other",
            inject=lambda rack: rack.cut(rack.names[0]),
            heals=lambda rack: rack.join(rack.names[0]),
            retry="remaining",
        ),
        "partition": Fault(
            promise="half of the hosts apart from the others until the job has failed: rejoined, all go on",
            inject=lambda rack: rack.split(*rack.names[len(rack.names) // 2 :]),
            heals=lambda rack: rack.split(),
            heals_seconds=2 * deadline_seconds,
            retry="all",
        ),
        "slow-1": _slow(1),
        "slow-10": _slow(10),
        "slow-50": _slow(50),
        "narrow": _shaped("100 Mbit/s per cable: slower, the same bits", Link(rate_mbit=100)),
        "loss-1": _lossy(1),
        "loss-5": _lossy(5),
    }
