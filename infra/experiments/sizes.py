"""Small against large downstream models (section 6.2: "on those small models like Messenger inbox with low model
complexity and feature count, the benefits are more salient").

Size is three things, and each is varied alone: how many of the user's features the model has of its own, how wide its
vectors are, onto which it projects the embeddings it joins, and how wide its layers are.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from features.schema import Schema
from infra.experiments.consumers import LARGE, SMALL, consumer_of
from infra.experiments.finding import Column, Finding, Row, Table
from infra.experiments.following import Joined, follow
from infra.experiments.importance import importance_of, num_ranked
from infra.experiments.joins import served_by
from infra.experiments.setting import Setting
from infra.experiments.statistics import Estimate, difference, estimate
from infra.experiments.study import Results, Study, Trial, Values
from infra.experiments.verdicts import is_below_zero
from trainer.downstream.arms import BASELINE, Arms
from trainer.recipe import DownstreamRecipe

SHARES = (0.0, 0.25, 0.5, 0.75, 1.0)
USER = "user"
"""The user's id, which no downstream model of the recipes has."""
ARM = "a"
WIDE, NARROW = "wide", "narrow"
WITH_ID = f"{WIDE}, all and the id"
MIXED = {"wide vectors, narrow layers": (LARGE, SMALL), "narrow vectors, wide layers": (SMALL, LARGE)}
"""The size whose vectors, and whose layers, a model has."""
MIXED_SHARES = (SHARES[0], SHARES[-1])
WHY = (
    "A model projects the embeddings that it joins onto vectors as wide as its own, and compares those with "
    "its item's. What narrow ones cannot hold is lost to it, whatever else it lacks; layers take nothing "
    "away."
)


def own_features(schema: Schema, share: float) -> tuple[str, ...]:
    """The first of the user's id lists and of the user's values, so large a share of either, rounded; not the id."""
    lists = [feature.name for feature in schema.sparse_of("user") if feature.name != USER]
    values = [feature.name for feature in schema.dense_of("user")]
    return (*lists[: round(share * len(lists))], *values[: round(share * len(values))])


def name_of(width: str, share: float) -> str:
    """Of a row."""
    return f"{width}, {share:.0%}"


def sizes_of(setting: Setting) -> dict[str, DownstreamRecipe]:
    """CTR models of user model a's domain by widths and share of the user's features; one with the id too."""
    schema, found = setting.source.schema, {}
    like = {size: consumer_of(setting, "ctr", size).recipe for size in (LARGE, SMALL)}
    for width, size in ((WIDE, LARGE), (NARROW, SMALL)):
        for share in SHARES:
            found[name_of(width, share)] = replace(like[size], user_features=own_features(schema, share))
    for width, (vectors, layers) in MIXED.items():
        for share in MIXED_SHARES:
            found[name_of(width, share)] = replace(
                like[layers], embedding_dim=like[vectors].embedding_dim, user_features=own_features(schema, share)
            )
    found[WITH_ID] = replace(like[LARGE], user_features=(USER, *own_features(schema, 1.0)))
    return found


def measure(trial: Trial) -> Values:
    """By size the `gain` of a's embeddings, that of the `last` day and the `training gain`, percent, the `baseline NE`,
    the `rank` of the embeddings and of how many it is, and the number of its own user `features`."""
    joined = served_by(trial.lab, trial.towers(trial.setting.user_models[ARM]))
    found = {}
    sizes = sizes_of(trial.setting)
    for done, (name, recipe) in enumerate(sizes.items()):

        def progress(line: str, share: float, done: int = done) -> None:
            trial.progress(line, (done + share) / len(sizes))

        found[name] = _measure_size(trial, recipe, joined, progress)
    return found


def _measure_size(
    trial: Trial, recipe: DownstreamRecipe, joined: Joined, progress: Callable[[str, float], None]
) -> dict[str, float]:
    followed, first = trial.setting.followed, trial.setting.num_settling
    ranks = []

    def before(day: int, model: Arms) -> None:
        if day == followed[-1]:
            ranks.append(importance_of(trial.lab, recipe, model, arm=ARM, day=day, joined=joined).rank)

    losses = follow(trial.lab, recipe, followed, {ARM: joined}, progress=progress, before=before)
    return {
        "gain": losses.diff_percent(ARM, kind="eval", first=first),
        "last": losses.diff_percent(ARM, kind="eval", first=len(followed) - 1),
        "training gain": losses.diff_percent(ARM, kind="train", first=first),
        "baseline NE": losses.ne(BASELINE, kind="eval", first=first),
        "features": len(recipe.user_features),
        "rank": ranks[0],
        "ranked": num_ranked(trial.lab, recipe),
    }


def conclude(setting: Setting, results: Results) -> Finding:
    """Gain by size."""
    seeds = sorted(results)

    def of(name: str, quantity: str) -> Estimate:
        return estimate([results[seed]["all"][name][quantity] for seed in seeds])

    rows = [
        Row(
            name=name,
            cells=(
                of(name, "features").mean,
                of(name, "baseline NE").mean,
                of(name, "training gain"),
                of(name, "gain"),
                of(name, "last"),
                of(name, "rank").mean,
                of(name, "ranked").mean,
            ),
        )
        for name in sizes_of(setting.of(seeds[0]))
    ]
    columns = (
        Column(title="own user features", digits=0),
        Column(title="baseline NE", digits=4),
        Column(title="training NE diff %", signed=True),
        Column(title="NE diff %", signed=True, drawn=True),
        Column(title="on the last day", signed=True),
        Column(title="FI", digits=1),
        Column(title="of features", digits=0),
    )
    none, full = (of(name_of(WIDE, share), "gain").values for share in (0.0, 1.0))

    def gains(width: str, shares: Sequence[float] = SHARES) -> list[float]:
        return _mean([of(name_of(width, share), "gain").values for share in shares])

    wide = gains(WIDE, MIXED_SHARES)
    narrow_layers, narrow_vectors = (difference(gains(width, MIXED_SHARES), wide) for width in MIXED)
    return Finding(
        name=STUDY.name,
        title="Small against large downstream models",
        setting=setting.name,
        seeds=tuple(seeds),
        tables=(Table(title="CTR, user model a's domain", rows_are="model", columns=columns, rows=tuple(rows)),),
        verdicts=(
            is_below_zero("Models with few features of their own gain more (none less all).", difference(none, full)),
            is_below_zero(
                "Models of low complexity gain more (narrow less wide, mean over the shares).",
                difference(gains(NARROW), gains(WIDE)),
            ),
            is_below_zero("Models of narrow vectors gain more (these with wide layers, less wide).", narrow_vectors),
            is_below_zero("Models of narrow layers gain more (these over wide vectors, less wide).", narrow_layers),
            is_below_zero(
                "A model that has every feature of the user, and the id, still gains.",
                of(WITH_ID, "gain"),
                unit="NE diff %",
            ),
        ),
        notes=(WHY,),
    )


def _mean(of_shares: Sequence[Sequence[float]]) -> list[float]:
    """By seed."""
    return [sum(of_seed) / len(of_seed) for of_seed in zip(*of_shares, strict=True)]


STUDY = Study(name="sizes", measure=measure, conclude=conclude)
