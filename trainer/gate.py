"""The gate of a recipe: what is judged, and from where on a person decides or the day is refused.

A threshold is absolute, or relative to the trailing days: the promoted days of the last two weeks. Relative, a value
is held when it is worse

- than the usual, their median, by more than `spreads` spreads, where a spread is the larger of 1.4826 times their
  median absolute deviation (a standard deviation that outliers do not move) and the floor; and
- than the worst of them, by more than one spread: what consumers lived with in these two weeks wakes nobody, and a
  week's Sunday is compared with the Sunday before.

With fewer than `min_days` promoted days nothing is usual yet, and the absolute thresholds judge alone. The floors are
above what 60 quiet days of a small world showed (`python -m tests.experiments.detection`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

EVERYONE = "all"
Side = Literal["lower", "higher"]
SPREADS = 6.0
"""So far from the usual is unusual."""


@dataclass(frozen=True, kw_only=True)
class Relative:
    """Against the trailing days."""

    worse: tuple[Side, ...]
    """On which side a value is worse than the usual."""
    floor: float = 0.0
    """The smallest spread that is believed, in the metric's unit: days that were all alike are no proof of more."""
    floor_share: float = 0.0
    """The same, as a share of the usual."""
    spreads: float = SPREADS

    def __post_init__(self) -> None:
        if not self.worse:
            raise ValueError("a relative threshold needs a side that is worse: lower, higher or both")
        if not self.spreads > 1:
            raise ValueError(f"{self.spreads} spreads; they are more than 1, or quiet days are held")
        if self.floor < 0 or self.floor_share < 0 or self.floor + self.floor_share == 0:
            raise ValueError(
                f"floor {self.floor:g} and floor_share {self.floor_share:g}: one of them is positive, "
                "or days that were all alike hold the first that differs"
            )


@dataclass(frozen=True, kw_only=True)
class Rule:
    """The thresholds of one metric. `about` names the runbook, `infra/runbooks/<about>.md`."""

    kind: str
    """training, counts, or a kind of `shift/<model>`."""
    metric: str
    about: str
    pooled: bool | None = None
    """Only pooled embeddings, only those as computed, or (None) whatever there is."""
    users: str = EVERYONE
    """The slice of users."""
    hold_below: float | None = None
    hold_above: float | None = None
    reject_below: float | None = None
    reject_above: float | None = None
    relative: Relative | None = None
    beyond_both: bool = False
    """Held only when past the absolute and the relative threshold, once there is a usual: a metric that is noisy by
    nature wakes nobody for its noise."""

    def __post_init__(self) -> None:
        absolute = (self.hold_below, self.hold_above, self.reject_below, self.reject_above)
        if self.relative is None and all(limit is None for limit in absolute):
            raise ValueError(f"the rule of {self.kind}/{self.metric} has no threshold; give it one or remove it")


def _lower(floor: float) -> Relative:
    return Relative(worse=("lower",), floor=floor)


def _higher(floor: float) -> Relative:
    return Relative(worse=("higher",), floor=floor)


_FEWER = Relative(worse=("lower",), floor_share=0.05)
_OTHER_LENGTH = Relative(worse=("lower", "higher"), floor_share=0.05)

INPUTS: tuple[Rule, ...] = (
    Rule(kind="counts", metric="users", about="too-few", relative=_FEWER),
    Rule(kind="counts", metric="examples", about="too-few", relative=_FEWER),
    Rule(kind="inputs", metric="hours_missing", about="partial-day", hold_above=0.02, relative=_higher(0.005)),
    Rule(kind="inputs", metric="present_share", about="broken-feature", relative=_lower(0.01)),
    Rule(kind="inputs", metric="zero_share", about="broken-feature", relative=_higher(0.01)),
    Rule(kind="inputs", metric="mean_length", about="broken-feature", relative=_OTHER_LENGTH),
    Rule(kind="inputs", metric="distinct_ids", about="broken-feature", relative=_FEWER),
    Rule(kind="inputs", metric="ids_seen_again", about="broken-feature", relative=_lower(0.02)),
    Rule(kind="inputs", metric="mean_change", about="broken-feature", relative=_higher(0.05)),
    Rule(kind="inputs", metric="psi", about="broken-feature", hold_above=4.0, relative=_higher(0.03)),
    Rule(kind="inputs", metric="unchanged_share", about="stale-feature", relative=_higher(0.02)),
)
"""What went in: counts and features, as shares of the usual or of the users."""

SPACE: tuple[Rule, ...] = (
    Rule(kind="same_inputs", metric="unusable_share", about="unusable", hold_above=0.0, reject_above=0.01),
    Rule(kind="consecutive_days", metric="unusable_share", about="unusable", hold_above=0.0, reject_above=0.01),
    Rule(
        kind="same_inputs", metric="cross_cosine_max", about="swapped-pair",
        hold_above=0.5, relative=_higher(0.03), beyond_both=True,
    ),
    Rule(kind="same_inputs", metric="collapsed_dimensions", about="collapsed-dimension", hold_above=0.0),
    Rule(
        kind="consecutive_days", metric="collapsed_dimensions", about="collapsed-dimension",
        pooled=False, hold_above=0.0,
    ),
    Rule(kind="same_inputs", metric="effective_rank_ratio", about="collapsed-dimension", relative=_lower(0.05)),
    Rule(kind="same_inputs", metric="norm_change_mean", about="scaled-norm", relative=_higher(0.008)),
    Rule(kind="same_inputs", metric="cosine_mean", about="model-moved", relative=_lower(0.01)),
    Rule(kind="same_inputs", metric="knn_overlap", about="model-moved", relative=_lower(0.02)),
    Rule(kind="populations", metric="classifier_auc", about="users-moved", pooled=True, relative=_higher(0.02)),
    Rule(kind="populations", metric="psi_mean", about="users-moved", pooled=True, relative=_higher(0.05)),
)  # fmt: skip
"""What came out: the model alone, and the population that consumers see."""

USUAL = INPUTS + SPACE
"""What every gate judges beside its named thresholds, most telling first: a broken feature moves the model too."""


@dataclass(frozen=True, kw_only=True)
class Gate:
    """Thresholds of the daily gate: past `hold` a person decides, past `reject` the snapshot is refused."""

    ne_max: float = 1.0
    """Progressive NE of any task above this is rejected: worse than predicting the average."""
    ne_rise_hold: float = 0.02
    """Progressive NE of any task this much (absolute) above the day before is held, if such a rise is not usual."""
    calibration: tuple[float, float] = (0.8, 1.25)
    """Predicted over observed positives outside this range is held."""
    cosine_min: float = 0.90
    """Mean cosine of the pooled embeddings of the same users on consecutive days below this is held."""
    norm_change_max: float = 0.20
    """Mean relative change of the pooled embeddings' norm above this is held."""
    coverage_min: float = 1.0
    """Share of the day's active users that have an embedding; below this is rejected."""
    usual: tuple[Rule, ...] = USUAL
    """Rules of further metrics; one of a metric named above is judged beside it."""
    trailing_days: int = 14
    min_days: int = 7
    """Fewer promoted days than this among the trailing ones: nothing is usual yet."""

    def __post_init__(self) -> None:
        if not 1 <= self.min_days <= self.trailing_days:
            raise ValueError(f"min_days is {self.min_days}; it is from 1 to trailing_days, {self.trailing_days}")

    @property
    def rules(self) -> tuple[Rule, ...]:
        """The others, then the named thresholds as rules: of equal verdicts the first names the alert."""
        low, high = self.calibration
        return (
            *self.usual,
            Rule(
                kind="training", metric="ne", about="ne",
                reject_above=self.ne_max, relative=_higher(0.01),
            ),
            Rule(
                kind="training", metric="ne_rise", about="ne",
                hold_above=self.ne_rise_hold, relative=_higher(0.002), beyond_both=True,
            ),
            Rule(
                kind="training", metric="calibration", about="calibration",
                hold_below=low, hold_above=high, relative=Relative(worse=("lower", "higher"), floor=0.02),
            ),
            Rule(kind="counts", metric="coverage", about="coverage", reject_below=self.coverage_min),
            Rule(
                kind="consecutive_days", metric="cosine_mean", about="users-moved", pooled=True,
                hold_below=self.cosine_min, relative=_lower(0.01),
            ),
            Rule(
                kind="consecutive_days", metric="norm_change_mean", about="scaled-norm", pooled=True,
                hold_above=self.norm_change_max, relative=_higher(0.01),
            ),
        )  # fmt: skip
