"""The gain in a user model's own domain against another (section 6.2: "the need for a Instagram SUM model to bridge the
domain discrepancy"): user models that differ in nothing but the domain whose clicks they learn.

And why: how much of the users' true tastes each one's embeddings hold, in the dimensions that both domains read alike
and in those that the second reads another way. A user model can serve another domain as well as its own only if it
holds what the other needs.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from features.sources.synthetic import SyntheticWorld
from features.sources.synthetic_draws import LATENT, Floats
from features.sources.synthetic_world import World
from infra.experiments.consumers import SMALL, consumer_of
from infra.experiments.finding import Column, Finding, Row, Table
from infra.experiments.following import follow
from infra.experiments.joins import served_by
from infra.experiments.setting import Setting
from infra.experiments.statistics import difference, estimate
from infra.experiments.study import Results, Study, Trial, Values
from infra.experiments.towers import DailyTowers
from infra.experiments.verdicts import is_below_zero
from trainer.recipe import Recipe
from trainer.recipes.demo import DOMAINS

BOTH = "a and b"
MODELS = (*DOMAINS, BOTH)
ALIKE, ANOTHER = "read alike", "read another way"
_RIDGE = 1e-3


def user_models(setting: Setting) -> dict[str, Recipe]:
    """Of clicks alone, by domain, and of both domains' (twice the examples)."""
    if not isinstance(setting.source, SyntheticWorld):
        raise ValueError(f"setting {setting.name} has one domain; domains are those of the synthetic world")
    a = setting.user_models["a"]
    of_domains = {name: replace(a, examples=(domain,)) for name, domain in DOMAINS.items()}
    return {**of_domains, BOTH: replace(a, examples=())}


def measure(trial: Trial) -> Values:
    """`gains` by user model and domain of the CTR model, percent; `tastes` by user model: the share of their variance
    that its vectors explain, in the dimensions that the domains read alike and in the others."""
    first, followed = trial.setting.num_settling, trial.setting.followed
    towers = {name: trial.towers(recipe) for name, recipe in user_models(trial.setting).items()}
    joins = {name: served_by(trial.lab, of) for name, of in towers.items()}
    gains: dict[str, dict[str, float]] = {name: {} for name in MODELS}
    for done, domain in enumerate(DOMAINS):

        def progress(line: str, share: float, done: int = done) -> None:
            trial.progress(line, (done + share) / len(DOMAINS))

        consumer = consumer_of(trial.setting, "ctr", SMALL, domain=domain)
        losses = follow(trial.lab, consumer.recipe, followed, joins, progress=progress)
        for name in MODELS:
            gains[name][domain] = losses.diff_percent(name, kind="eval", first=first)
    return {"gains": gains, "tastes": {name: _tastes(trial, of) for name, of in towers.items()}}


def _tastes(trial: Trial, towers: DailyTowers) -> dict[str, float]:
    source, day = trial.setting.source, trial.setting.followed[-1]
    assert isinstance(source, SyntheticWorld)
    served = trial.lab.served(towers, day, versions=towers.recipe.pooling_versions)
    tastes = World(source).tastes(served.user_ids, trial.lab.days[day].toordinal())
    explained = explained_share(served.vectors.reshape(len(tastes), -1).astype(np.float64), tastes)
    half = LATENT // 2
    return {ALIKE: float(explained[:half].mean()), ANOTHER: float(explained[half:].mean())}


def explained_share(vectors: Floats, values: Floats) -> Floats:
    """[Z]: of each column of `values` [U, Z] the share of variance that a linear map of `vectors` [U, N] explains,
    fitted to the users in even places and judged on the others."""
    x = (vectors - vectors.mean(axis=0)) / (vectors.std(axis=0) + 1e-9)
    x = np.concatenate([x, np.ones((len(x), 1))], axis=1)
    fitted, judged = x[::2], x[1::2]
    gram = fitted.T @ fitted + _RIDGE * len(fitted) * np.eye(x.shape[1])
    weights = np.linalg.solve(gram, fitted.T @ values[::2])
    residual = ((values[1::2] - judged @ weights) ** 2).mean(axis=0)
    share: Floats = 1 - residual / values[1::2].var(axis=0)
    return share


def conclude(setting: Setting, results: Results) -> Finding:
    """Own domain against the other, and what the embeddings hold."""
    seeds = sorted(results)

    def of(kind: str, model: str, what: str) -> list[float]:
        return [results[seed]["all"][kind][model][what] for seed in seeds]

    columns = [Column(title=f"NE diff %, CTR of domain {domain}", signed=True, drawn=True) for domain in DOMAINS]
    columns += [Column(title=f"tastes explained, dimensions {kind}") for kind in (ALIKE, ANOTHER)]
    rows = []
    for model in MODELS:
        gains = [estimate(of("gains", model, domain)) for domain in DOMAINS]
        tastes = [estimate(of("tastes", model, kind)) for kind in (ALIKE, ANOTHER)]
        rows.append(Row(name=f"clicks of {model}", cells=(*gains, *tastes)))
    a_a, a_b, b_a, b_b = (of("gains", model, domain) for model in DOMAINS for domain in DOMAINS)
    own_less_other = [(aa + bb - ab - ba) / 2 for aa, ab, ba, bb in zip(a_a, a_b, b_a, b_b, strict=True)]
    claim = "Models gain more in their own domain, however hard the domains are (a in a and b in b, less the others)."
    verdicts = [is_below_zero(claim, estimate(own_less_other))]
    for own, other in (("a", "b"), ("b", "a")):
        by_own, by_other, by_both = (of("gains", model, own) for model in (own, other, BOTH))
        claim = f"CTR of domain {own} gains more by its own domain's clicks than by those of {other}."
        verdicts.append(is_below_zero(claim, difference(by_own, by_other)))
        claim = f"CTR of domain {own} gains more by one user model of both domains than by its own domain's."
        verdicts.append(is_below_zero(claim, difference(by_both, by_own)))
    return Finding(
        name=STUDY.name,
        title="A user model's own domain against another",
        setting=setting.name,
        seeds=tuple(seeds),
        tables=(Table(title="Small CTR models", rows_are="user model", columns=tuple(columns), rows=tuple(rows)),),
        verdicts=tuple(verdicts),
        notes=(
            "Users' tastes are the same in both domains, and both need every dimension: domain b reads half of them "
            "another way (decision 029). So what a model of one domain holds can serve the other to the extent of the "
            "last two columns, and a gap must come from what it holds less of. The paper's domains differ in users and "
            "content too, which this world does not plant.",
        ),
    )


STUDY = Study(name="domains", measure=measure, conclude=conclude)
