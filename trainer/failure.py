"""What a rank leaves behind when it fails, and which of the ranks' failures is the cause of the others.

Light to import: the launcher reads what the ranks wrote.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from trainer.heartbeat import Phase, Post, explain_wait, is_alone, look_around, read_sign
from trainer.reach import Answer
from trainer.whole import write_first

Kind = Literal["own", "waited", "broken", "alone"]
"""An error of the rank's own; another rank kept it waiting past the deadline; another rank went away; or the rank's own
host is cut off, and what it says of the others is worth less than what they say."""
DEADLINE = "DeadlineError"
"""The type of a failure that no exception stands for."""
_COLLECTIVE = re.compile(r"\bgloo\b|ProcessGroup|NCCL|Connection (closed|reset) by peer|Broken pipe")
_LOST = re.compile(r"Connection timed out|No route to host|Network is unreachable")
"""The kernel's words for a host that was silent for `Post.lost_seconds`; gloo and the store time out in others."""
_TIMEOUT = re.compile(r"tim(ed )?(out|eout)", re.IGNORECASE)


@dataclass(frozen=True, kw_only=True)
class Failure:
    """`error-<rank>.json`."""

    rank: int
    time: float
    """Seconds since 1970."""
    kind: Kind
    type: str
    message: str

    def write(self, directory: Path) -> None:
        """Leave it in the job's directory, whole or not at all; the first of a rank stays, and its threads may fail at
        the same time: what waits and what watches it."""
        write_first(directory / f"error-{self.rank}.json", json.dumps(asdict(self)))


def forget(directory: Path, rank: int) -> None:
    """A rank that is started again has not failed."""
    (directory / f"error-{rank}.json").unlink(missing_ok=True)


def of_error(error: Exception, post: Post) -> Failure:
    """The failure that `error` is; one of a collective names the ranks that it waited for."""
    kind, message = _kind(error), str(error)
    if kind != "own":
        answers = look_around(post)
        what = "waited too long" if kind == "waited" else "lost another rank"
        original = next((line for line in message.splitlines() if line.strip()), type(error).__name__)
        told = f"{_wait(post, answers)}. {remedy(post, answers, original=message)}"
        message = f"{_where(post)} {what}: {told} [{original}]"
        kind = "alone" if is_alone(post, answers) else kind
    return Failure(rank=post.rank, time=time.time(), kind=kind, type=type(error).__name__, message=message)


def of_deadline(phase: Phase, post: Post) -> Failure:
    """The failure of a rank at which `phase` outlasted the deadline."""
    kind: Kind = "own" if phase in (Phase.OPENING, Phase.READING) or post.world_size == 1 else "waited"
    clause, answers = "its own work hangs; its log shows every thread's stack", {}
    if kind == "waited":
        answers = look_around(post)
        clause = _wait(post, answers)
        kind = "alone" if is_alone(post, answers) else kind
    message = f"{_where(post)} exceeded the deadline: {clause}. {remedy(post, answers)}"
    return Failure(rank=post.rank, time=time.time(), kind=kind, type=DEADLINE, message=message)


def cause(directory: Path) -> Failure | None:
    """Of the failures in the directory the one that explains the others: a rank's own error, then a wait, then
    a lost connection, then what a cut-off host says; the earliest of its kind."""
    found = [Failure(**json.loads(path.read_text())) for path in directory.glob("error-*.json")]
    order: tuple[Kind, ...] = ("own", "waited", "broken", "alone")
    return min(found, key=lambda failure: (order.index(failure.kind), failure.time), default=None)


def _kind(error: Exception) -> Kind:
    from torch.distributed.elastic.multiprocessing.api import SignalException

    if isinstance(error, SignalException):  # torchrun ends the ranks that are left when one has died
        return "broken"
    if not isinstance(error, RuntimeError):
        return "own"
    from torch.distributed import DistError

    message = str(error)
    if not isinstance(error, DistError) and not _COLLECTIVE.search(message):
        return "own"
    return "waited" if _TIMEOUT.search(message) else "broken"


def _wait(post: Post, answers: Mapping[int, Answer]) -> str:
    return explain_wait(post, answers) if post.world_size > 1 else "there is no other rank"


def _where(post: Post) -> str:
    sign = read_sign(post, post.rank)
    return "starting," if sign is None else f"{sign.phase.describe(sign.step)},"


def remedy(post: Post, answers: Mapping[int, Answer], *, original: str = "") -> str:
    """What to do about a wait: which of the two settings ended it. original: what the collective said."""
    deadline = f"USERMODEL_DEADLINE_SECONDS (now {post.deadline_seconds:g})"
    if post.lost_seconds and (Answer.SILENT in answers.values() or _LOST.search(original)):
        return (
            "See that rank's host and the network to it; an outage is waited for while it is shorter than "
            f"USERMODEL_LOST_HOST_SECONDS (now {post.lost_seconds}) and than {deadline}"
        )
    return f"See that rank's host and log; if it was only slow, raise {deadline} and run again"
