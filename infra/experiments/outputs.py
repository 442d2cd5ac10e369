"""The value of K, the number of embeddings that a user model gives (section 5.3: K = 2 has good ROI)."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from infra.experiments.finding import Column, Finding, Verdict
from infra.experiments.joins import served_by
from infra.experiments.setting import Setting
from infra.experiments.statistics import difference
from infra.experiments.study import Results, Study, Trial, Values
from infra.experiments.variants import estimates, gain_of, measure_variants, names_asked, variants_table
from infra.experiments.verdicts import is_below_zero, text

NUMBERS = (1, 2, 4)
_FP16_BYTES = 2
REFERENCE = "K = 2"


def measure(trial: Trial) -> Values:
    """`gains` of user models of K embeddings of the same D, `upstream NE` and `bytes` per user."""
    recipe, joins, bytes_of, ne = trial.setting.user_models["a"], {}, {}, {}
    for number in NUMBERS:
        name, tower = f"K = {number}", replace(recipe.user_tower, num_embeddings=number)
        towers = trial.towers(replace(recipe, user_tower=tower))
        joins[name] = served_by(trial.lab, towers)
        bytes_of[name] = _FP16_BYTES * number * tower.dim
        ne[name] = float(np.mean(towers.ne["click"][-trial.setting.num_followed :]))
    return {"gains": measure_variants(trial, joins, reference=REFERENCE), "bytes": bytes_of, "upstream NE": ne}


def conclude(setting: Setting, results: Results) -> Finding:
    """What each further embedding brings and costs."""
    names = [f"K = {number}" for number in NUMBERS]

    table = variants_table(
        setting,
        results,
        variants=names,
        reference=REFERENCE,
        rows_are="embeddings of a user",
        costs=(
            (Column(title="bytes a user, fp16", digits=0), [one.mean for one in estimates(results, "bytes", names)]),
            (Column(title="upstream NE, click", digits=4), estimates(results, "upstream NE", names)),
        ),
    )
    return Finding(
        name=STUDY.name,
        title="The value of K",
        setting=setting.name,
        seeds=tuple(sorted(results)),
        tables=(table,),
        verdicts=tuple(verdict for name in names_asked(setting) for verdict in _verdicts(results, name)),
    )


def _verdicts(results: Results, consumer: str) -> tuple[Verdict, Verdict]:
    """K = 2 pays where the second embedding brings more than the third and fourth, for half the bytes."""
    one, two, four = (gain_of(results, consumer, f"K = {number}") for number in NUMBERS)
    second, others = difference(two.values, one.values), difference(four.values, two.values)
    more = difference(second.values, others.values)
    return (
        is_below_zero(f"{consumer}: the second embedding brings something (K = 2 less K = 1).", second),
        Verdict(
            claim=f"{consumer}: K = 2 has good return: the second embedding brings more than the next two.",
            agrees={-1: True, 1: False, 0: None}[more.sign],
            why=f"the second {text(second)}, the next two {text(others)} points of NE diff %.",
        ),
    )


STUDY = Study(name="outputs", measure=measure, conclude=conclude)
