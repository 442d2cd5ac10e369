"""From an estimate to a verdict."""

from __future__ import annotations

from infra.experiments.finding import Verdict
from infra.experiments.statistics import Estimate

NEGLIGIBLE = 0.02
"""A cost below this share of the gain is called none."""


def is_below_zero(claim: str, value: Estimate, *, unit: str = "points of NE diff %") -> Verdict:
    """The claim is that the difference is negative; its interval decides."""
    return Verdict(claim=claim, agrees={-1: True, 1: False, 0: None}[value.sign], why=f"{text(value)} {unit}.")


def costs_nothing(claim: str, cost: Estimate, *, gain: Estimate) -> Verdict:
    """The claim is that NE is not higher by more than a negligible share of what the embeddings bring. cost: percent of
    NE, positive where it is worse; gain: percent, negative."""
    allowed = NEGLIGIBLE * abs(gain.mean)
    agrees = None
    if cost.half is not None and cost.high <= allowed:
        agrees = True
    elif cost.half is not None and cost.low > allowed:
        agrees = False
    why = f"NE differs by {text(cost)} %, of a gain of {text(gain)} % ({NEGLIGIBLE:.0%} of it is {allowed:.3f})."
    return Verdict(claim=claim, agrees=agrees, why=why)


def text(value: Estimate, *, digits: int = 3) -> str:
    """Mean and half interval, in words of a report."""
    mean = f"{value.mean:+.{digits}f}"
    return mean if value.half is None else f"{mean} ± {value.half:.{digits}f}"
