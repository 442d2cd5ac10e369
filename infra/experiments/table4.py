"""Table 4: what pooling is worth to a consumer, in training and on the next day, which a new version has embedded.

A consumer learns from the examples of day d with the embeddings of day d - 1 (version d - 1). It is scored on day
d + 1 with those of day d, and no version but d - 1 and earlier has it seen. Option 1 of section 5.2 serves on day d
what version d - 1 makes of the features of day d, while version d is learnt from.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from infra.experiments.finding import Cell, Column, Finding, Row, Table, Verdict
from infra.experiments.following import Joined, Losses, follow
from infra.experiments.lab import Computed
from infra.experiments.setting import Setting
from infra.experiments.statistics import Estimate, difference, estimate
from infra.experiments.study import Results, Study, Trial, Values, by_seed
from infra.experiments.verdicts import has_sign
from infra.experiments.versions import NONE, OPTION_1, PAPERS_TURN, TURNED, TURNED_ONCE, Days, variants
from snapshots.movement import movement
from trainer.downstream.arms import BASELINE, Shape, shape_of
from trainer.recipe import DownstreamRecipe

PAPER = {NONE: (-0.081, -0.014), "pooling 3": (-0.109, -0.127)}
"""Train and eval NE difference in percent."""
POOR, RICH = "ctr_a", "ctr_a, own user features"
FEW = (NONE, "pooling 3", OPTION_1, TURNED_ONCE, f"{TURNED_ONCE}, pooling 3", f"{TURNED_ONCE}, option 1")
"""What the consumer that knows its users is given."""


def consumer_of(setting: Setting, part: str) -> DownstreamRecipe:
    """The CTR model of domain a, without a user feature, or with all that the user model has."""
    consumer = setting.consumers[POOR]
    if part == POOR:
        return consumer
    schema = setting.source.schema
    features = (*(of.name for of in schema.sparse_of("user")), *(of.name for of in schema.dense_of("user")))
    return replace(consumer, name=f"{consumer.name}_rich", user_features=features)


def measure(trial: Trial) -> Values:
    """By arm: NE differences in percent in training and evaluation, the 95 % interval over users of the latter, and
    the mean cosine of the same users on consecutive days."""
    consumer = consumer_of(trial.setting, trial.unit.part)
    role = consumer.only_upstream
    towers, lab, first = trial.towers(trial.setting.user_models[role]), trial.lab, trial.setting.num_settling
    num, dim = shape_of(towers.recipe.user_tower)
    arms, cosines = {}, {}
    for name, variant in variants(lab, towers, seed=trial.seed).items():
        if trial.unit.part == RICH and name not in FEW:
            continue
        shape: Shape = (num if variant.only is None else 1, dim)
        trained = Days(lab=lab, of_day=variant.trained, only=variant.only)
        evaluated = variant.evaluated and Days(lab=lab, of_day=variant.evaluated, only=variant.only)
        cosines[name] = _cosine([(trained.of(day - 1), trained.of(day)) for day in _pairs(trial.setting)])
        arms[name] = Joined(
            shapes=(shape,), trained=trained.newest, evaluated=None if evaluated is None else evaluated.newest
        )
    losses = follow(lab, consumer, trial.setting.followed, arms, progress=trial.progress)
    alone = [(lab.computed(towers, day, version=day - 1), lab.computed(towers, day)) for day in _pairs(trial.setting)]
    return {
        "arms": {name: {**_scores(losses, name, first), "cosine": cosines[name]} for name in arms},
        "model_alone": _cosine(alone),
        "baseline": {kind: losses.ne(BASELINE, kind=kind, first=first) for kind in ("train", "eval")},
    }


def _pairs(setting: Setting) -> range:
    """The later days of the pairs of consecutive days that consumers are scored between."""
    return range(setting.followed[0] + setting.num_settling, setting.num_days - 1)


def _cosine(pairs: Sequence[tuple[Computed, Computed]]) -> float:
    """Mean over embeddings, users of both days, and pairs of days."""
    found = []
    for before, after in pairs:
        _, a, b = np.intersect1d(before.user_ids, after.user_ids, assume_unique=True, return_indices=True)
        moved = [movement(before.vectors[a, k], after.vectors[b, k]) for k in range(after.vectors.shape[1])]
        found.append(np.mean([of.cosine for of in moved]))
    return float(np.mean(found))


def _scores(losses: Losses, arm: str, first: int) -> Values:
    found: dict[str, object] = {kind: losses.diff_percent(arm, kind=kind, first=first) for kind in ("train", "eval")}
    return {**found, "interval": losses.interval(arm, first=first)}


def conclude(setting: Setting, results: Results) -> Finding:
    """Beside the paper's numbers."""
    parts = sorted({part for of_seed in results.values() for part in of_seed})
    seeds = tuple(sorted(results))
    scored = setting.num_followed - setting.num_settling
    return Finding(
        name="table4",
        title="Table 4: a consumer with and without average pooling",
        setting=setting.name,
        seeds=seeds,
        tables=tuple(_table(results, part) for part in parts),
        verdicts=(
            *(verdict for part in parts for verdict in _verdicts(_Numbers(results=results, part=part))),
            _why_less_is_lost(results),
        ),
        notes=(
            f"NE against the same consumer without embeddings, in percent, over the last {scored} of "
            f"{setting.num_followed} days followed. Train: progressive. Eval: the day after, before it is learnt from. "
            "Lost: the share of the gain in training, where it is certain, that is missing on the day after.",
            "`option 1`: evaluated with what the newest version that the consumer has trained on makes of the newest "
            "features. `turned to c`: the embedding space turns every day so that each vector has cosine c with itself "
            "of the day before, beyond the model's own movement; it holds the same as before. `blurred to c`: noise of "
            "each user's own, with that cosine between days.",
        ),
    )


@dataclass(frozen=True, kw_only=True)
class _Numbers:
    """A consumer's, over the seeds."""

    results: Results
    part: str

    @property
    def arms(self) -> list[str]:
        arms: Mapping[str, Values] = next(iter(self.results.values()))[self.part]["arms"]
        return list(arms)

    def of(self, arm: str, kind: str) -> Estimate:
        return estimate(by_seed(self.results, lambda parts: parts[self.part]["arms"][arm][kind]))

    def lost(self, arm: str) -> Estimate | None:
        """Percent of the gain in training; None where the seeds leave open whether there is one."""
        train, evaluation = self.of(arm, "train"), self.of(arm, "eval")
        if train.high >= 0:
            return None
        return estimate([100 * (1 - b / a) for a, b in zip(train.values, evaluation.values, strict=True)])

    def lost_text(self, arm: str) -> str:
        """Its mean, in words of a report."""
        lost = self.lost(arm)
        return "nothing certain" if lost is None else f"{lost.mean:.1f} %"

    def over_users(self, arm: str) -> str:
        """The interval of eval NE, of the one seed."""
        (of_seed,) = self.results.values()
        low, high = of_seed[self.part]["arms"][arm]["interval"]
        return f"{low:+.2f} … {high:+.2f}"

    def beyond(self, arm: str, other: str, kind: str) -> Estimate:
        """`arm` less `other`, paired."""
        return difference(self.of(arm, kind).values, self.of(other, kind).values)


def _table(results: Results, part: str) -> Table:
    numbers = _Numbers(results=results, part=part)
    columns: tuple[Column, ...] = (
        Column(title="cosine", digits=2),
        Column(title="train NE %, paper", signed=True, marks=True),
        Column(title="train NE %", signed=True, digits=2, drawn=True),
        Column(title="eval NE %, paper", signed=True, marks=True),
        Column(title="eval NE %", signed=True, digits=2, drawn=True),
        Column(title="eval against no pooling", signed=True, digits=2),
        Column(title="lost %, paper", digits=0, marks=True),
        Column(title="lost %", digits=1, drawn=True),
    )
    rows, one_seed = [], len(results) == 1
    if one_seed:
        columns = (*columns, Column(title="eval NE %, 95 % over users"))
    for arm in numbers.arms:
        paper = PAPER.get(arm)
        cells: tuple[Cell, ...] = (
            numbers.of(arm, "cosine"),
            paper and paper[0], numbers.of(arm, "train"), paper and paper[1], numbers.of(arm, "eval"),
            None if arm == NONE else numbers.beyond(arm, NONE, "eval"),
            paper and 100 * (1 - paper[1] / paper[0]), numbers.lost(arm),
        )  # fmt: skip
        rows.append(Row(name=arm, cells=(*cells, numbers.over_users(arm)) if one_seed else cells))
    return Table(title=f"Consumer {part}", rows_are="embeddings", columns=columns, rows=tuple(rows))


def _verdicts(numbers: _Numbers) -> Iterator[Verdict]:
    of = f"{numbers.part}: "
    gap = difference(numbers.of(NONE, "eval").values, numbers.of(NONE, "train").values)
    arms = {f"turned to {c}": c for c in TURNED}
    turned = ", ".join(f"{numbers.lost_text(arm)} at {arms[arm]}" for arm in numbers.arms if arm in arms)
    alone = estimate(by_seed(numbers.results, lambda parts: parts[numbers.part]["model_alone"]))
    lost = numbers.lost(NONE)
    blurred = f"blurred to {PAPERS_TURN}"
    noise = f" (noise of each user's own: {numbers.lost_text(blurred)})" if blurred in numbers.arms else ""
    yield Verdict(
        claim=of + "without pooling, a consumer gains less on the next day than in training.",
        agrees=has_sign(gap, +1),
        why=f"{_text(gap)} % NE.",
    )
    yield Verdict(
        claim=of + "most of the gain is lost then (the paper: 83 %).",
        agrees=None if lost is None or lost.half is None or lost.low < 50 < lost.high else lost.mean > 50,
        why=f"{numbers.lost_text(NONE)} is. Of the shift (cosine {numbers.of(NONE, 'cosine').mean:.2f}) the model "
        f"alone makes {alone.mean:.3f}; the rest is the users' features, which a new version does not make strange. "
        f"Were the space to turn further every day, {turned} would be lost{noise}.",
    )
    for kind in ("train", "eval"):
        better = numbers.beyond("pooling 3", NONE, kind)
        yield Verdict(
            claim=of + f"pooling three versions gains more, {kind} NE.",
            agrees=has_sign(better, -1),
            why=f"{_text(better)} % against no pooling.",
        )
    if "pooling 5" in numbers.arms:
        more = numbers.beyond("pooling 5", "pooling 3", "eval")
        yield Verdict(
            claim=of + "three versions are enough: five gain no more.",
            agrees=has_sign(more, +1),
            why=f"{_text(more)} % eval NE. An average also takes out the noise of a day's features; what it costs is "
            "age.",
        )
    rescued = numbers.beyond(f"{TURNED_ONCE}, pooling 3", TURNED_ONCE, "eval")
    yield Verdict(
        claim=of + f"pooling three versions mends what a space that turns to {PAPERS_TURN} a day breaks.",
        agrees=has_sign(rescued, -1),
        why=f"{_text(rescued)} % eval NE.",
    )
    option = numbers.beyond(OPTION_1, "pooling 3", "eval")
    yield Verdict(
        claim=of + "option 1 of section 5.2 (not measured in the paper) is worth less than pooling three versions.",
        agrees=has_sign(option, +1),
        why=f"{_text(option)} % eval NE against pooling; {_text(numbers.beyond(OPTION_1, NONE, 'eval'))} % against "
        f"neither; where the space turns to {PAPERS_TURN}, "
        f"{_text(numbers.beyond(f'{TURNED_ONCE}, option 1', TURNED_ONCE, 'eval'))} %.",
    )
    if "Embedding1 alone" in numbers.arms:
        yield from _alone(numbers, of)


def _why_less_is_lost(results: Results) -> Verdict:
    """Here than in the paper: the two consumers, as the space turns."""
    poor, rich = (_Numbers(results=results, part=part) for part in (POOR, RICH))
    ours, theirs = rich.lost(TURNED_ONCE), poor.lost(TURNED_ONCE)
    apart = None if ours is None or theirs is None else difference(ours.values, theirs.values)
    return Verdict(
        claim="The more a consumer knows of its users by itself, the larger the share of the gain that a turn costs it "
        "(the paper's consumers have hundreds of user features, gain a tenth of a percent, and lose most of it).",
        agrees=None if apart is None else has_sign(apart, +1),
        why=f"turned to {PAPERS_TURN}, {rich.lost_text(TURNED_ONCE)} is lost with user features of its own, "
        f"{poor.lost_text(TURNED_ONCE)} without; as the model moves by itself, {rich.lost_text(NONE)} and "
        f"{poor.lost_text(NONE)}.",
    )


def _alone(numbers: _Numbers, of: str) -> Iterator[Verdict]:
    """The paper's Embedding1 is the more stable; here either may be, by seed."""
    cosine, train = (
        np.array([numbers.of(f"Embedding{k} alone", kind).values for k in (0, 1)]) for kind in ("cosine", "train")
    )
    stable, seeds = cosine.argmax(axis=0), np.arange(cosine.shape[1])
    better = difference(train[stable, seeds].tolist(), train[1 - stable, seeds].tolist())
    wins = sum(value < 0 for value in better.values)
    yield Verdict(
        claim=of + "the more stable embedding alone gains more in training than the other alone.",
        agrees=has_sign(better, -1),
        why=f"{_text(better)} % train NE, the better one on {wins} of {len(better.values)} seeds, {stable.sum()} times "
        "Embedding1; nothing but the initial weights tells the two apart.",
    )
    on_top = difference(numbers.of(NONE, "train").values, train[stable, seeds].tolist())
    yield Verdict(
        claim=of + "the less stable one gains on top of it.",
        agrees=has_sign(on_top, -1),
        why=f"{_text(on_top)} % train NE.",
    )


def _text(found: Estimate) -> str:
    return Column(title="", digits=2, signed=True).text(found)


STUDY = Study(name="table4", measure=measure, conclude=conclude, parts=(POOR, RICH))
