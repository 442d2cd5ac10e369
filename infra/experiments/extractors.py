"""What each feature extractor of the user tower is worth, and the residual (Eq. 1): the tower without it.

Upstream in the user model's own NE, and where it counts: in the NE of the models that read the embeddings.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

import numpy as np

from infra.experiments.finding import Column, Finding, Verdict
from infra.experiments.joins import served_by
from infra.experiments.setting import Setting
from infra.experiments.study import Results, Study, Trial, Values
from infra.experiments.variants import estimates, gain_of, measure_variants, names_asked, variants_table
from infra.experiments.verdicts import text
from trainer.recipes.towers import small_user_tower
from trainer.towers import DeepCross, DotCompression, Mlp, MlpMixer, UserTower

ALL = "all"


def without_residual(tower: UserTower) -> UserTower:
    """The tower without the Residual Module of Eq. 1."""
    return replace(tower, modules=tuple(replace(module, residual=None) for module in tower.modules))


VARIANTS: Mapping[str, Callable[[UserTower], UserTower]] = {
    ALL: lambda tower: tower,
    "without MLP": lambda tower: tower.without(Mlp),
    "without dot compression": lambda tower: tower.without(DotCompression),
    "without deep cross net": lambda tower: tower.without(DeepCross),
    "without MLP-mixer": lambda tower: tower.without(MlpMixer),
    "without residual": without_residual,
}


def towers_of(tower: UserTower) -> dict[str, UserTower]:
    """The variants of the small recipes' modules, with the tower's K and D; a recipe may do without some extractor."""
    whole = replace(tower, modules=small_user_tower().modules)
    return {name: change(whole) for name, change in VARIANTS.items()}


def measure(trial: Trial) -> Values:
    """`gains` of the towers, their `upstream NE` (progressive), `CPU seconds` of training a day."""
    recipe, joins, ne, seconds = trial.setting.user_models["a"], {}, {}, {}
    for name, tower in towers_of(recipe.user_tower).items():
        towers = trial.towers(replace(recipe, user_tower=tower))
        joins[name] = served_by(trial.lab, towers)
        ne[name] = float(np.mean(towers.ne["click"][-trial.setting.num_followed :]))
        seconds[name] = float(np.mean(towers.cpu_seconds[1:]))
    gains = measure_variants(trial, joins, reference=ALL)
    return {"gains": gains, "upstream NE": ne, "CPU seconds": seconds}


def conclude(setting: Setting, results: Results) -> Finding:
    """Which extractors are worth their cost."""
    names = list(VARIANTS)
    seconds = estimates(results, "CPU seconds", names)

    table = variants_table(
        setting,
        results,
        variants=names,
        reference=ALL,
        rows_are="user tower",
        costs=(
            (Column(title="upstream NE, click", digits=4), estimates(results, "upstream NE", names)),
            (Column(title="training, CPU s a day", digits=2), [one.mean for one in seconds]),
        ),
    )
    return Finding(
        name=STUDY.name,
        title="The user tower without each extractor",
        setting=setting.name,
        seeds=tuple(sorted(results)),
        tables=(table,),
        verdicts=tuple(_verdict(setting, results, name) for name in names if name != ALL),
    )


def _verdict(setting: Setting, results: Results, variant: str) -> Verdict:
    """Worth something: without it the embeddings of some consumer are worse, and of none better."""
    found = {name: gain_of(results, name, variant, "against") for name in names_asked(setting)}
    signs = {one.sign for one in found.values()}
    agrees = False if -1 in signs else True if 1 in signs else None
    why = "; ".join(f"{name} {text(one)} %" for name, one in found.items())
    part = variant.removeprefix("without ")
    return Verdict(claim=f"The {part} earns something downstream.", agrees=agrees, why=f"NE without it: {why}.")


STUDY = Study(name="extractors", measure=measure, conclude=conclude)
