"""The control: Tables 1 and 4, arm by arm, in a world whose labels are shuffled within each day.

There is nothing to learn but the rate, so nothing can gain. An arm that did would know of labels what no feature tells.
An arm may lose: embeddings are inputs to fit noise with. Everything else, features and who meets which item, is the
same to the bit.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np

from features.sources.synthetic import SyntheticWorld
from infra.experiments.finding import Column, Finding, Row, Table, Verdict
from infra.experiments.setting import Setting
from infra.experiments.statistics import Estimate, estimate
from infra.experiments.studies import get_study
from infra.experiments.study import Results, Study, Trial, Values, by_seed

CONTROLLED = {"table1": "the user models' embeddings", "table4": "pooling"}
SEPARATOR = ": "
GAIN = -0.5
"""NE difference in percent: the smallest gain that would be called one."""
BY_CHANCE = 0.025
"""An interval of 95 % lies below what it estimates so often."""


def permuted(setting: Setting) -> Setting:
    """The same world with shuffled labels. ValueError where labels are as they are."""
    source = setting.source
    if not isinstance(source, SyntheticWorld):
        raise ValueError(
            f"setting {setting.name}: the labels of {source.name} are not shuffled; take a synthetic world"
        )
    shuffled = replace(source, name=f"permuted_{source.name}", permuted_labels=True)
    models = {
        role: replace(recipe, name=f"permuted_{recipe.name}", source=shuffled)
        for role, recipe in setting.user_models.items()
    }
    return replace(setting, source=shuffled, user_models=models)


def measure(trial: Trial) -> Values:
    """What another study measures, of shuffled labels: NE differences in percent by arm."""
    study, part = trial.unit.part.split(SEPARATOR)
    unit = replace(trial.unit, study=study, setting=permuted(trial.setting), part=part)
    return dict(gains(get_study(study).measure(replace(trial, unit=unit))))


def gains(values: Values, *names: str) -> Iterator[tuple[str, float]]:
    """By a name, the NE differences among the values of Table 1 (`gain …`) or Table 4 (`train` and `eval`)."""
    for name, value in values.items():
        if isinstance(value, Mapping) and name != "baseline":
            yield from gains(value, *names, *([] if name == "arms" else [name]))
        elif name in ("train", "eval") or name.startswith("gain "):  # not the baseline's own NE, and no cosines
            yield ", ".join((*names, name.removeprefix("gain "))), float(value)


def conclude(setting: Setting, results: Results) -> Finding:
    """Every arm with its interval; the verdict is on all together, for of so many intervals some miss by chance."""
    numbers = _Numbers(results=results)
    return Finding(
        name="control",
        title="Control: shuffled labels",
        setting=setting.name,
        seeds=tuple(sorted(results)),
        tables=tuple(_table(numbers, study) for study in CONTROLLED),
        verdicts=tuple(_verdict(numbers, study) for study in CONTROLLED),
        notes=(
            "A loss, where there is one, is what an arm pays for inputs that tell nothing: it fits the noise of the "
            "days before. Percent of the baseline's NE; arms of one seed share their labels and are not independent.",
        ),
    )


@dataclass(frozen=True, kw_only=True)
class _Numbers:
    results: Results

    def arms(self, study: str) -> dict[str, Estimate]:
        """By part and arm."""
        found = {}
        first = next(iter(self.results.values()))
        for part in first:
            for arm in first[part] if part.startswith(f"{study}{SEPARATOR}") else ():
                values = by_seed(self.results, lambda parts, part=part, arm=arm: parts[part][arm])  # type: ignore[misc]
                found[f"{part.split(SEPARATOR)[1]}, {arm}"] = estimate(values)
        return found


def _table(numbers: _Numbers, study: str) -> Table:
    rows = [
        Row(name=arm, cells=(one, {-1: "below", 0: "around", 1: "above"}[one.sign]))
        for arm, one in numbers.arms(study).items()
    ]
    columns = (Column(title="NE diff %", signed=True, drawn=True), Column(title="interval and 0"))
    return Table(
        title=f"The arms of {study} ({CONTROLLED[study]}), labels shuffled", rows_are="arm", columns=columns,
        rows=tuple(rows),
    )  # fmt: skip


def _verdict(numbers: _Numbers, study: str) -> Verdict:
    arms = numbers.arms(study)
    together = estimate(np.mean([one.values for one in arms.values()], axis=0).tolist())
    below, above = (sum(one.sign == sign for one in arms.values()) for sign in (-1, 1))
    return Verdict(
        claim=f"With shuffled labels no arm of {study} gains.",
        agrees=False if below > _at_most_by_chance(len(arms)) else no_gain(together),
        why=f"mean over {len(arms)} arms {Column(title='', signed=True).text(together)} %, where less than {GAIN} % "
        f"were a gain; {below} intervals lie below zero, {above} above, {len(arms) - below - above} contain it; "
        f"{BY_CHANCE * len(arms):.1f} would lie below by chance, were arms independent.",
    )


def no_gain(found: Estimate) -> bool | None:
    """True where the whole interval lies above the smallest gain, False where it lies below zero, otherwise None: an
    interval that holds both tells nothing."""
    if found.sign == -1:
        return False
    return True if found.half is not None and found.low > GAIN else None


def _at_most_by_chance(num: int) -> float:
    """So many of `num` may lie below zero with a probability of 1 %, were they independent."""
    from scipy.stats import binom

    return float(binom.ppf(0.99, num, BY_CHANCE))


STUDY = Study(
    name="control",
    measure=measure,
    conclude=conclude,
    parts=tuple(f"{study}{SEPARATOR}{part}" for study in CONTROLLED for part in get_study(study).parts),
)
