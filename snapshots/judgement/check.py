"""One rule applied to one value: a verdict, and the sentence that explains it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from snapshots.judgement.values import Value

Verdict = Literal["promote", "hold", "reject"]

SEVERITY: dict[Verdict, int] = {"promote": 0, "hold": 1, "reject": 2}
ASKS: dict[Verdict, str] = {"promote": "promoted", "hold": "held", "reject": "rejected"}


@dataclass(frozen=True, kw_only=True)
class Check:
    """One rule applied to one value. `verdict` is what this rule alone asks for."""

    of: Value
    rule: str
    """What it was compared with, and what that asks for."""
    verdict: Verdict
    about: str
    """The runbook, `infra/runbooks/<about>.md`."""
    usual: float | None = None
    """Median of the trailing promoted days; None: too few, or not compared with them."""
    spread: float | None = None
    num_days: int = 0
    """Of the trailing days, those with a value."""
    threshold: float | None = None
    """The limit that was crossed; kept: the nearest."""

    @property
    def name(self) -> str:
        """What was judged."""
        return self.of.name

    @property
    def value(self) -> float | None:
        """None: undefined."""
        return self.of.value

    @property
    def sentence(self) -> str:
        """`ne of click is 1.0312, usually 0.8900 (spread 0.0100, 12 days); more than 1 is rejected`."""
        value = "undefined" if self.value is None else number(self.value)
        usual = ""
        if self.usual is not None and self.spread is not None:
            usual = f", usually {number(self.usual)} (spread {number(self.spread)}, {self.num_days} days)"
        return f"{self.name} is {value}{usual}; {self.rule}"


def number(value: float) -> str:
    """Counts in full, shares and ratios to four places."""
    return f"{value:,.0f}" if abs(value) >= 1_000 else f"{value:.4f}"
