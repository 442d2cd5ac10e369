"""Table 1 in a small world: what was planted ranks first, claims are read off the rows, and every study concludes."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from infra.experiments.consumers import Consumer, consumers_of
from infra.experiments.domains import explained_share, user_models
from infra.experiments.finding import Finding
from infra.experiments.following import Joined, follow
from infra.experiments.importance import importance_of
from infra.experiments.joins import beside, served_by
from infra.experiments.lab import Lab
from infra.experiments.precision import REFERENCE, STORAGES, stored
from infra.experiments.setting import get_setting
from infra.experiments.statistics import Estimate
from infra.experiments.studies import get_study
from infra.experiments.study import Results, Trial
from infra.experiments.table1 import ARMS, PAPER, claims
from infra.settings import Settings
from tests.trainer.downstream_world import CTR, TASTES, UPSTREAM, World, day
from trainer.downstream.arms import Arms
from trainer.downstream.joined import NewestEmbeddings

QUICK = get_setting("quick", num_seeds=1, num_days=4)


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """Where the studies share days and towers."""
    torch.set_num_threads(1)
    return Settings(home=tmp_path_factory.mktemp("experiments"), _env_file=None)


def measured(name: str, settings: Settings) -> Results:
    study = get_study(name)
    return {0: {unit.part: study.measure(Trial(unit=unit, settings=settings)) for unit in study.units(QUICK)}}


def finding_of(name: str, settings: Settings) -> Finding:
    return get_study(name).conclude(QUICK, measured(name, settings))


def planted(world: World, *, noise: bool) -> Joined:
    """Every user's true taste; or numbers that say nothing, and are others every day, or else they would be an id."""
    order = np.argsort(world.user_ids)

    def on(of: int) -> NewestEmbeddings:
        values = np.random.default_rng(of).normal(size=world.tastes.shape) if noise else world.tastes
        return NewestEmbeddings(
            user_ids=world.user_ids[order],
            vectors=values[order][:, None].astype(np.float16),
            age_days=np.ones(len(order), dtype=np.int64),
        )

    return Joined(shapes=((1, TASTES),), trained=on)


def test_planted_tastes_rank_first_and_noise_does_not(settings: Settings) -> None:
    world = World(settings=settings, examples_per_day=5_000)
    days = tuple(day(index) for index in range(3))
    for ds in days:
        world.commit_examples(ds)
    lab = Lab(source=UPSTREAM.source, days=days, lake=world.lake, folder=settings.home, users=())
    joins = {"taste": planted(world, noise=False), "noise": planted(world, noise=True)}
    found = {}

    def before(of: int, model: Arms) -> None:
        if of == 2:
            for arm, joined in joins.items():
                found[arm] = importance_of(lab, CTR, model, arm=arm, day=of, joined=joined)

    losses = follow(lab, CTR, range(3), joins, progress=lambda *_: None, before=before)
    assert (found["taste"].rank, found["taste"].verdict) == (1, "helps")
    assert found["noise"].increase < 0.1 * found["taste"].increase
    assert losses.diff_percent("taste", kind="eval", first=2, reference="noise") < -10


def rows(**gains: float) -> dict[Consumer, dict[str, float]]:
    """Every consumer alike, but for what is given by task, domain and size."""
    found = {}
    for one in consumers_of(get_setting("synthetic").of(0)):
        extra = sum(value for key, value in gains.items() if key in (one.task.replace("-", "_"), one.domain, one.size))
        found[one] = {"gain a": -1 + extra, "gain b": -1.5, "gain both": -2.0, "rank": 3.0}
    return found


@pytest.mark.parametrize(
    ("claim", "gains", "difference"),
    [
        pytest.param("CTR gains more than post-click CVR", {"CTR": -1.0}, -1.0, id="ctr"),
        pytest.param("Small models gain more than large ones", {"small": -0.5}, -0.5, id="small"),
        pytest.param("Small models gain more than large ones", {"large": -0.5}, 0.5, id="not-so"),
        pytest.param(
            "Model a gains more in its own domain than in the other (the Instagram remark)", {"a": -2.0}, -2.0, id="own"
        ),
        pytest.param("Model b gains more in its own domain than in the other", {"a": -2.0}, 0.0, id="b-is-not-a"),
        pytest.param(
            "Models gain more in their own domain, however hard the domains are (a in a and b in b, less a in b and "
            "b in a)",
            {"a": -2.0},
            -1.0,
            id="own-of-either",
        ),
        pytest.param("Both user models bring more than b", {}, -0.5, id="both"),
        pytest.param("The embeddings rank higher in CTR than in post-click CVR models", {}, 0.0, id="rank"),
    ],
)
def test_claims(claim: str, gains: dict[str, float], difference: float) -> None:
    assert claims(rows(**gains))[claim] == pytest.approx(difference)


def test_claims_that_the_rows_cannot_tell_are_left_out() -> None:
    only_a = {one: row for one, row in rows().items() if one.domain == "a"}
    assert len(claims(only_a)) == len(claims(rows())) - 3
    assert not any("own domain" in claim for claim in claims(only_a))


def test_user_models_stand_side_by_side() -> None:
    ids = np.arange(3, dtype=np.int64)

    def user_model(num: int) -> Joined:
        vectors = np.full((3, num, 4), num, np.float16)
        found = NewestEmbeddings(user_ids=ids, vectors=vectors, age_days=ids)
        return Joined(shapes=((num, 4),), trained=lambda day: found)

    one, two = user_model(1), user_model(2)
    both = beside(one, two)
    vectors, flags = both.trained(0).lookup(np.array([1, 9]))
    assert both.shapes == ((1, 4), (2, 4))
    assert vectors[:, :, 0].tolist() == [[1, 2, 2], [0, 0, 0]]
    assert flags.tolist() == [[1, 1], [0, 0]]


def test_what_vectors_explain() -> None:
    rng = np.random.default_rng(0)
    vectors, noise = rng.normal(size=(2, 4_000, 3))
    values = np.stack([vectors @ [1.0, 2.0, 3.0], noise[:, 0], vectors[:, 0] + noise[:, 1]], axis=1)
    assert explained_share(vectors, values) == pytest.approx([1.0, 0.0, 0.5], abs=0.05)


def test_real_clicks_have_one_domain() -> None:
    with pytest.raises(ValueError, match=r"setting globo has one domain"):
        user_models(get_setting("globo").of(0))


def test_table_1(settings: Settings) -> None:
    found = finding_of("table1", settings)
    ours, paper = found.tables
    assert len(ours.rows) == 12
    assert [row.cells for row in paper.rows] == [(one.ne_diff, one.rank) for one in PAPER]
    assert ours.cell("CTR, a, small", "paper: NE diff %") == -0.35
    for row in ours.rows:
        assert all(isinstance(cell, Estimate) for cell in row.cells[: len(ARMS)])
    assert {verdict.agrees for verdict in found.verdicts} == {None}, "one seed decides nothing"


@pytest.mark.parametrize(
    ("name", "names"),
    [
        pytest.param("domains", ["clicks of a", "clicks of b", "clicks of a and b"], id="domains"),
        pytest.param("outputs", ["K = 1", "K = 2", "K = 4"], id="K"),
        pytest.param("extractors", ["all", "without MLP"], id="extractors"),
        pytest.param("sizes", ["wide, 0%", "wide, 25%"], id="sizes"),
        pytest.param("capacity", ["user tower, a user"], id="capacity"),
    ],
)
def test_what_the_paper_leaves_open(name: str, names: list[str], settings: Settings) -> None:
    found = finding_of(name, settings)
    assert [row.name for row in found.tables[0].rows][: len(names)] == names
    assert found.markdown().startswith(f"## {found.title}\n")


def test_precision(settings: Settings) -> None:
    results = measured("precision", settings)
    for of_consumer in results[0]["all"]["gains"].values():
        assert of_consumer[REFERENCE]["against"] == 0
        assert of_consumer["int4"]["against"] != 0
    table, *_ = get_study("precision").conclude(QUICK, results).tables
    assert [row.name for row in table.rows][:3] == ["fp32", "fp16", "int8"]


def test_the_arm_of_fp16_is_what_is_served_to_the_bit_and_user_models_differ(settings: Settings) -> None:
    (unit,) = get_study("precision").units(QUICK)
    trial = Trial(unit=unit, settings=settings)
    a, b = (trial.towers(trial.setting.user_models[role]) for role in ("a", "b"))
    day = trial.setting.followed[-1]
    ids = trial.lab.users[day - 1].ids
    (of_a, _), (of_b, _) = (served_by(trial.lab, towers).trained(day).lookup(ids) for towers in (a, b))
    (fp16, _), (int8, _) = (stored(trial.lab, a, STORAGES[name]).trained(day).lookup(ids) for name in ("fp16", "int8"))
    assert of_a.any()
    assert torch.equal(fp16, of_a)
    assert not torch.equal(int8, of_a)
    assert (of_a != of_b).flatten(1).any(dim=1).float().mean() > 0.9, "of nearly every user"
