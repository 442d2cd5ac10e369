"""What a scheduler of jobs that outlive us can do, and how a job is seen by it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from torchx.specs import AppDef, AppState


@dataclass(frozen=True, kw_only=True)
class Status:
    """What the scheduler says of a job."""

    state: AppState
    reason: str = ""
    """Its own word, for example `OUT_OF_MEMORY` or `ImagePullBackOff`; empty where it has none."""
    detail: str = ""
    """What it adds, for a person."""

    @property
    def is_over(self) -> bool:
        """Whether nothing of it runs any more."""
        return self.state in (AppState.SUCCEEDED, AppState.FAILED, AppState.CANCELLED)


class Scheduler(Protocol):
    """Jobs are named by their attempt's token, which finds one whose submission was not written down."""

    def manifest(self, app: AppDef, *, directory: Path, token: str) -> str:
        """What `submit` would hand over."""

    def submit(self, app: AppDef, *, directory: Path, token: str) -> str:
        """Submit it; its id. RuntimeError with what the scheduler said."""

    def find(self, token: str) -> str | None:
        """The id of the unfinished job of this token."""

    def status(self, job: str) -> Status | None:
        """None: the scheduler does not know it (any more)."""

    def lines(self, job: str, *, directory: Path, from_start: bool) -> Iterator[str]:
        """What its hosts say, line by line; an empty string where there is nothing new. Endless."""

    def cancel(self, job: str) -> None:
        """End it."""
