"""From an estimate to a verdict."""

from __future__ import annotations

from collections.abc import Iterable

from infra.experiments.finding import Verdict
from infra.experiments.statistics import Estimate

NEGLIGIBLE = 0.02
"""A cost below this share of the gain is called none."""


def has_sign(found: Estimate, sign: int) -> bool | None:
    """Whether it has that sign; None where its interval holds zero."""
    return None if found.sign == 0 else found.sign == sign


def all_of(found: Iterable[Estimate], *, sign: int) -> bool | None:
    """Whether all have that sign; False for one that has the other, else None where an interval holds zero."""
    signs = {one.sign for one in found}
    return False if -sign in signs else None if 0 in signs else True


def is_below_zero(claim: str, value: Estimate, *, unit: str = "points of NE diff %") -> Verdict:
    """The claim is that the difference is negative; its interval decides."""
    return Verdict(claim=claim, agrees=has_sign(value, -1), why=f"{text(value)} {unit}.")


def costs_nothing(claim: str, cost: Estimate, *, gain: Estimate) -> Verdict:
    """The claim is that NE is not higher by more than a negligible share of what the embeddings bring; open
    where it is not certain that they bring something. cost: percent of
    NE, positive where it is worse; gain: percent, negative."""
    allowed = NEGLIGIBLE * abs(gain.mean)
    agrees = None
    if cost.half is not None and gain.sign == -1:  # a share of a gain that may be none is no measure
        agrees = True if cost.high <= allowed else False if cost.low > allowed else None
    why = f"NE differs by {text(cost)} %, of a gain of {text(gain)} % ({NEGLIGIBLE:.0%} of it is {allowed:.3f})."
    return Verdict(claim=claim, agrees=agrees, why=why)


def text(value: Estimate, *, digits: int = 3) -> str:
    """Mean and half interval, in words of a report."""
    mean = f"{value.mean:+.{digits}f}"
    return mean if value.half is None else f"{mean} ± {value.half:.{digits}f}"
