"""Table 2: what serving keeps of a user model's gain, mode by mode, in event time; and what freshness there is to win.

One consumer, an arm per mode. The online modes pool the newest vector of each of three versions, as batch does, so that
they differ from it by freshness alone; as the live store does by default, over the newest three computations, they
stand below. `realtime-first` holds back what changes within a day: from batch to it is what a day brings (today's
features, and users of whom nothing was cached), from it to real-time what the hours bring.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import date
from itertools import pairwise

from infra.experiments.finding import Column, Finding, Row, Table, Verdict
from infra.experiments.served_days import promoted
from infra.experiments.setting import Setting
from infra.experiments.statistics import Estimate, difference, estimate
from infra.experiments.study import Results, Study, Trial, Values, by_seed
from infra.experiments.verdicts import all_of, has_sign
from serving.replay.modes import PAPER, ReplayConfig, modes_named
from serving.replay.replay import replay
from serving.replay.result import ModeResult, Replayed
from serving.replay.snapshots import PromotedDays
from trainer.recipe import DownstreamRecipe, Recipe

UPSTREAM, CONSUMER = "a", "ctr_a"
TABLE_2 = {"frozen": "frozen", "batch": "batch", "async": "async-versions", "realtime": "realtime-versions"}
"""The replay's mode for each of the paper's."""
TITLES = {
    "frozen": "frozen",
    "batch": "offline batch",
    "async-versions": "online async",
    "realtime-versions": "online real-time",
    "async": "online async, pooled over computations",
    "realtime": "online real-time, pooled over computations",
    "realtime-first": "real-time, the day's first features all day",
}
STEPS = (
    ("a fresh model", "frozen", "batch"),
    ("a new day: its features, users without a vector", "batch", "realtime-first"),
    ("what changes within the day", "realtime-first", "realtime-versions"),
    ("all of real-time over batch", "batch", "realtime-versions"),
    ("waiting for the own inference", "async-versions", "realtime-versions"),
)
_PRECISE = 15.0
"""A share that is known no better, in percent, decides nothing."""
_PERCENT = Column(title="%", digits=0)
_POINTS = Column(title="points", signed=True)
AGES = (0, 3)
"""Of further frozen snapshots, as quarters of the days before the first that is followed."""


def measure(trial: Trial) -> Values:
    """The modes of one seed, and how a frozen snapshot ages."""
    setting, lab = trial.setting, trial.lab
    recipe = setting.user_models[UPSTREAM]
    consumer = replace(setting.consumers[CONSUMER], upstreams=(recipe.name,))
    days = promoted(lab, trial.towers(recipe))
    replayed = _Replays(trial, recipe, consumer, days)
    frozen = frozen_day(setting)
    found = replayed(tuple(TITLES), frozen=setting.days[frozen])
    first = setting.followed[0]
    stale = {first - frozen: _of_mode(found.modes[0])["next_day"]}
    for quarter in AGES:
        day = quarter * first // 4
        if day != frozen:
            stale[first - day] = _of_mode(replayed(("frozen",), frozen=setting.days[day]).modes[0])["next_day"]
    return {
        "modes": {one.mode.name: _of_mode(one) for one in found.modes},
        "frozen_days": {str(age): stale[age] for age in sorted(stale)},
        "frozen_age": first - frozen,
        "baseline_ne": found.baseline_ne,
        "requests": found.num_requests,
        "upstream_ne": trial.towers(recipe).ne["click"],
    }


def frozen_day(setting: Setting) -> int:
    """Of the frozen snapshot: half of the days before consumers follow, so that it has learnt before it ages."""
    return setting.followed[0] // 2


class _Replays:
    """Of one model and consumer, on the followed days."""

    def __init__(self, trial: Trial, recipe: Recipe, consumer: DownstreamRecipe, days: PromotedDays) -> None:
        self._trial, self._recipe, self._consumer, self._days = trial, recipe, consumer, days
        self._settings = trial.settings.model_copy(update={"lake_uri": str(trial.lab.lake.root)})
        self._done, self._all = 0, len(trial.setting.followed) * (1 + len(AGES))

    def __call__(self, modes: Sequence[str], *, frozen: date) -> Replayed:
        setting = self._trial.setting
        return replay(
            self._recipe,
            self._consumer,
            [setting.days[day] for day in setting.followed],
            settings=self._settings,
            config=ReplayConfig(modes=modes_named(modes), serving=self._recipe.serving),
            frozen=frozen,
            promoted=self._days,
            unscored=max(setting.num_settling, 1),
            say=self._say,
        )

    def _say(self, line: str) -> None:
        self._done += 1
        self._trial.progress(line, min(self._done / self._all, 1.0))


def _of_mode(one: ModeResult) -> Values:
    return {
        "next_day": one.next_day.diff_percent,
        "interval": list(one.next_day.interval),
        "online": one.online.diff_percent,
        "coverage": one.coverage,
        "fallback_rate": one.fallback_rate,
        "newest_age_hours": one.newest_age_hours,
        "mean_age_hours": one.mean_age_hours,
    }


def conclude(setting: Setting, results: Results) -> Finding:
    """Table 2 beside the paper's, what freshness brings step by step, and how a frozen model ages."""
    of = _Of(results)
    return Finding(
        name="table2",
        title="Table 2: serving modes",
        setting=setting.name,
        seeds=tuple(sorted(results)),
        tables=(_modes(of), _steps(of), _aging(of)),
        verdicts=tuple(_verdicts(of)),
        notes=_notes(setting, of),
    )


class _Of:
    """Numbers by seed."""

    def __init__(self, results: Results) -> None:
        self._results = results
        self.any: Values = next(iter(results.values()))["all"]

    def __call__(self, value: Callable[[Values], float]) -> Sequence[float]:
        return by_seed(self._results, lambda parts: value(parts["all"]))

    def users(self, name: str) -> str | None:
        """The interval of the first seed when its users are drawn anew; None where it was not kept."""
        interval = self.any["modes"][name].get("interval")
        return interval and f"{interval[0]:+.2f} … {interval[1]:+.2f}"

    def mode(self, name: str, key: str = "next_day") -> Sequence[float]:
        return self(lambda values: values["modes"][name][key])

    def share(self, mode: str) -> Estimate | None:
        """Of real-time's gain on the next day, in percent; None unless that gains with every seed."""
        return self.share_of(self.mode(mode))

    def share_of(self, gains: Sequence[float]) -> Estimate | None:
        """The same of any gains."""
        realtime = self.mode("realtime-versions")
        if max(realtime) >= 0:
            return None
        return estimate([100 * gain / whole for gain, whole in zip(gains, realtime, strict=True)])


def _modes(of: _Of) -> Table:
    papers = {mode: (value, 100 * value / PAPER["realtime"]) for mode, value in PAPER.items()}
    of_mode = {ours: papers[name] for name, ours in TABLE_2.items()}
    rows = [Row(name="baseline, no embeddings", cells=(0.0, None, 0.0, *[None] * 6))]
    for mode, title in TITLES.items():
        paper, share = of_mode.get(mode, (None, None))
        gains = estimate(of.mode(mode)), of.users(mode), of.share(mode), estimate(of.mode(mode, "online"))
        ages = estimate(of.mode(mode, "newest_age_hours")).mean, estimate(of.mode(mode, "mean_age_hours")).mean
        name = f"{title}, {of.any['frozen_age']} days old on the first day" if mode == "frozen" else title
        rows.append(Row(name=name, cells=(paper, share, *gains, 100 * estimate(of.mode(mode, "coverage")).mean, *ages)))
    return Table(
        title="NE difference to the consumer without embeddings, %",
        rows_are="serving",
        columns=(
            Column(title="paper", signed=True),
            Column(title="paper: of real-time's gain, %", digits=0),
            Column(title="next day", signed=True, drawn=True),
            Column(title="first seed, 95 % over users"),
            Column(title="of real-time's gain, %", digits=1, drawn=True),
            Column(title="online", signed=True),
            Column(title="served, %", digits=1),
            Column(title="newest, h", digits=1),
            Column(title="mean, h", digits=1),
        ),
        rows=tuple(rows),
    )


def _steps(of: _Of) -> Table:
    rows = []
    for title, before, after in STEPS:
        both = [difference(of.mode(after, key), of.mode(before, key)) for key in ("next_day", "online")]
        rows.append(Row(name=title, cells=(TITLES[before], TITLES[after], *both)))
    return Table(
        title="What freshness brings: differences of NE differences, paired by seed, percentage points",
        rows_are="step",
        columns=(
            Column(title="from"),
            Column(title="to"),
            Column(title="next day", signed=True, drawn=True),
            Column(title="online", signed=True),
        ),
        rows=tuple(rows),
    )


def _aging(of: _Of) -> Table:
    rows = []
    for age in of.any["frozen_days"]:
        gains = of(lambda values, age=age: values["frozen_days"][age])  # type: ignore[misc]
        rows.append(Row(name=age, cells=(estimate(gains), of.share_of(gains))))
    return Table(
        title="A frozen snapshot by its age on the first day that consumers follow; older ones have learnt less, too",
        rows_are="days",
        columns=(Column(title="next day, NE diff %", signed=True), Column(title="of real-time's gain, %", digits=1)),
        rows=tuple(rows),
    )


def _verdicts(of: _Of) -> list[Verdict]:
    return [
        _order(of),
        _kept(of, "batch", "Offline batch keeps two thirds of real-time's gain", paper=67),
        _kept(of, "async-versions", "Async keeps nine tenths of it", paper=89),
        _frozen(of),
        _within(of),
    ]


def _order(of: _Of) -> Verdict:
    names = list(pairwise(TABLE_2[mode] for mode in ("frozen", "batch", "async", "realtime")))
    steps = [difference(of.mode(after), of.mode(before)) for before, after in names]
    text = ", ".join(
        f"{TITLES[b]} over {TITLES[a]} {_POINTS.text(step)}" for (a, b), step in zip(names, steps, strict=True)
    )
    return Verdict(
        claim="Frozen, batch, async, real-time: each gains on the one before.",
        agrees=all_of(steps, sign=-1),
        why=f"{text}.",
    )


def _kept(of: _Of, mode: str, claim: str, *, paper: float) -> Verdict:
    share = of.share(mode)
    if share is None:
        return Verdict(claim=f"{claim} ({paper:.0f} %).", agrees=None, why="real-time does not gain with every seed.")
    known = share.half is not None and share.half < _PRECISE
    agrees = share.low <= paper <= share.high if known else None
    return Verdict(claim=f"{claim} ({paper:.0f} %).", agrees=agrees, why=f"{_PERCENT.text(share)} %.")


def _frozen(of: _Of) -> Verdict:
    """Never decided: no snapshot here has both the age of the paper's and a training behind it."""
    oldest = max(of.any["frozen_days"], key=int)
    share, aged = of.share("frozen"), of.share_of(of(lambda values: values["frozen_days"][oldest]))
    why = "real-time does not gain with every seed."
    if share is not None and aged is not None:
        why = (
            f"{_PERCENT.text(share)} % of a snapshot that is {of.any['frozen_age']} days old when consumers begin (the "
            f"paper's: a month). Of one that is {oldest} days old it is {_PERCENT.text(aged)} %, but that one had "
            "learnt one day: its age and what it never learnt cannot be told apart."
        )
    return Verdict(claim="A frozen model keeps a quarter of it (24 %).", agrees=None, why=why)


def _within(of: _Of) -> Verdict:
    realtime, batch = of.mode("realtime-versions"), of.mode("batch")
    within, whole = difference(realtime, of.mode("realtime-first")), difference(realtime, batch)
    more = difference(within.values, [0.5 * one for one in whole.values])
    return Verdict(
        claim="Real-time's advantage over batch is, by half at least, what changes within a day.",
        agrees=has_sign(more, -1) if whole.sign == -1 else None,
        why=f"{_POINTS.text(within)} of {_POINTS.text(whole)} points.",
    )


def _notes(setting: Setting, of: _Of) -> tuple[str, ...]:
    ne: Sequence[float] = of.any["upstream_ne"]
    frozen, first = frozen_day(setting), setting.followed[0]
    scored = len(setting.followed) - max(setting.num_settling, 1)
    baseline = Column(title="", digits=4).text(estimate(of(lambda values: values["baseline_ne"])))
    return (
        f"{scored} days scored, {of.any['requests']:,} requests a seed; baseline NE {baseline}. The frozen snapshot "
        f"has learnt {frozen + 1} days; it is {first - frozen} days old when consumers begin and "
        f"{setting.num_days - 1 - frozen} at the end. The user model's own NE (first seed): {ne[0]:.3f} on its first "
        f"day, {ne[frozen]:.3f} on the day of the frozen snapshot, {ne[-1]:.3f} on the last.",
        "Next day: the consumer has learnt the days before. Online: it learns in event time, and every batch is scored "
        "before it is learnt. Ages are of the features that a request's vectors were computed from.",
    )


STUDY = Study(name="table2", measure=measure, conclude=conclude)
