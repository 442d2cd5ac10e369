"""The arms of the SOLARIS study, by name."""

from __future__ import annotations

from trainer.downstream.arms import BASELINE, SUM

INDEPENDENT, REPEATED = "independent", "repeated"
"""The parts: pairs drawn by popularity alone; half of them repeated."""
BUDGETS = (0.0, 0.5, 2.0, 8.0)
"""Pairs computed ahead of a day, in requests of a day."""
BUDGET = 2.0
"""Of the arms that vary something else."""
KNOWN = (0.25, 0.5, 1.0)
"""Shares of the pairs that a predictor who knows the day would have had computed."""
WEIGHTS = (0.3, 1.0, 3.0)
"""Of distillation."""


def budget_arm(budget: float) -> str:
    """Its name."""
    return f"pairs {budget:g}"


def known_arm(share: float) -> str:
    """Its name."""
    return f"known {share:.0%}"


EXACT_ONLY, MEANS_ONLY, NO_REFRESH, NOT_MIRRORED = (
    f"pairs {BUDGET:g}, {of}" for of in ("exact", "means", "no refresh", "not mirrored")
)
ORACLE = "oracle"
SERVED = (*map(budget_arm, BUDGETS), EXACT_ONLY, MEANS_ONLY, NO_REFRESH, NOT_MIRRORED, *map(known_arm, KNOWN), ORACLE)
"""The arms that take pair representations."""


def distilled_arm(weight: float, *, beside: str = SUM) -> str:
    """Its name: what it takes, and what it was distilled with."""
    return f"{beside} + distilled {weight:g}"


def beside(name: str) -> str:
    """What a distilled arm takes; any other arm's own name."""
    return name.partition(" + ")[0]


BOTH = distilled_arm(1.0, beside=budget_arm(BUDGET))
DISTILLED = {
    **{distilled_arm(weight, beside=of): weight for of in (SUM, BASELINE) for weight in WEIGHTS},
    BOTH: 1.0,
}
"""The arms that learn from the foundation model's logits too, and with what weight."""
COMPUTED_FOR_TRAINING = {**dict.fromkeys(DISTILLED, 1.0), NOT_MIRRORED: 1.0}
"""Pairs that the foundation model computes for an example that an arm learns from, beyond those for its requests."""
