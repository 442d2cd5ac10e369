"""A consumer of several user models: what is joined, what cannot leak, and what is learnt of it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from datetime import date, timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from deltalake import WriterProperties
from hypothesis import given, settings
from hypothesis import strategies as st

from features.columns import Ids
from features.lake import Lake, Partition
from features.selection import Selection
from infra.settings import Settings
from tests.trainer.downstream_world import SCHEMA, World, day, end_of
from tests.trainer.several_models import (
    BOTH,
    FIRST,
    MODELS,
    SECOND,
    commit_embeddings,
    commit_vectors,
    vectors_table,
    width,
)
from trainer.downstream.arms import with_and_without
from trainer.downstream.checkpoint import Checkpoints, days_that_joined
from trainer.downstream.day import parse, to_json
from trainer.downstream.explain import explain_downstream
from trainer.downstream.joined import NewestEmbeddings, NoEmbeddingsError, SideBySide, newest_embeddings, usable_of
from trainer.downstream.retrain import retrain_on
from trainer.recipe import Recipe
from trainer.recipes import DOWNSTREAM_MODELS, consumers_of, get_downstream, get_recipe, the_consumer

Promoted = dict[str, list[Partition]]
DAY = 3
USERS = np.arange(40, dtype=np.int64)


def joined(
    lake: Lake, model: Recipe, partitions: Sequence[Partition], ds: date, *, users: Ids = USERS
) -> NewestEmbeddings:
    return newest_embeddings(
        lake,
        partitions,
        ds=ds,
        day_starts_at=timedelta(hours=3),
        users=users,
        num_embeddings=model.user_tower.num_embeddings,
        dim=model.user_tower.dim,
    )


def side_by_side(lake: Lake, promoted: Promoted, ds: date) -> SideBySide:
    usable = zip(MODELS, usable_of(BOTH, ds, promoted=promoted), strict=True)
    return SideBySide(parts=tuple(joined(lake, model, partitions, ds) for model, partitions in usable))


@pytest.fixture(scope="module")
def six_days(tmp_path_factory: pytest.TempPathFactory) -> tuple[Lake, dict[tuple[str, int, int], Partition]]:
    """Two versions of six days of each model, of other users and vectors."""
    lake, rng = Lake(tmp_path_factory.mktemp("six_days")), np.random.default_rng(0)
    found = {}
    for model in MODELS:
        for index in range(6):
            for version in range(2):
                ids = rng.permutation(60)[: rng.integers(1, 40)].astype(np.int64)
                vectors = rng.normal(size=(len(ids), width(model.user_tower)))
                found[model.name, index, version] = commit_vectors(lake, model, day(index), ids, vectors, salt=version)
    return lake, found


CHOSEN = st.dictionaries(st.tuples(st.sampled_from(["first", "second"]), st.integers(0, 5)), st.integers(0, 1))


@settings(max_examples=20)
@given(chosen=CHOSEN, later=CHOSEN, order=st.permutations(list(range(len(USERS)))))
def test_nothing_of_the_day_or_later_is_ever_joined(
    six_days: tuple[Lake, dict[tuple[str, int, int], Partition]],
    chosen: dict[tuple[str, int], int],
    later: dict[tuple[str, int], int],
    order: list[int],
) -> None:
    """Whichever partitions of the day and of later days there are, and whatever they hold."""
    lake, partitions = six_days

    def promoted(of_later: dict[tuple[str, int], int]) -> Promoted:
        days = {key: version for key, version in chosen.items() if key[1] < DAY}
        days |= {key: version for key, version in of_later.items() if key[1] >= DAY}
        return {
            model.name: [partitions[(*key, version)] for key, version in days.items() if key[0] == model.name]
            for model in MODELS
        }

    if not any(promoted({}).values()):
        with pytest.raises(NoEmbeddingsError, match="first or user_embeddings/second"):
            side_by_side(lake, promoted(later), day(DAY))
        return
    found, without = (side_by_side(lake, promoted(of), day(DAY)) for of in (later, {}))
    asked = USERS[order]
    assert all(torch.equal(a, b) for a, b in zip(found.lookup(asked), without.lookup(asked), strict=True))


def test_shorter_vectors_end_in_zeros_and_each_model_has_its_flag(tmp_path: Path) -> None:
    lake = Lake(tmp_path)
    first = commit_vectors(lake, FIRST, day(0), np.array([7, 3]), np.full((2, 16), 2.0))
    second = commit_vectors(lake, SECOND, day(0), np.array([9, 3]), np.full((2, 4), 5.0))
    both = side_by_side(lake, {"first": [first], "second": [second]}, day(1))
    vectors, flags = both.lookup(np.array([3, 7, 9, 1], dtype=np.int64))
    assert vectors.shape == (4, 2 + 1, 8)
    assert flags.tolist() == [[1, 1], [1, 0], [0, 1], [0, 0]]
    twos, fives, zeros = [2.0] * 8, [5.0] * 4 + [0.0] * 4, [0.0] * 8
    assert vectors.tolist() == [[twos, twos, fives], [twos, twos, zeros], [zeros, zeros, fives], [zeros] * 3]


def test_vectors_of_row_groups_without_a_joined_user_are_not_read(tmp_path: Path) -> None:
    """So that memory follows the users who are joined: here such a vector would be refused, had it been read."""
    tower, lake = SECOND.user_tower, Lake(tmp_path)
    rows = vectors_table(tower, np.arange(100, dtype=np.int64), np.ones((100, 4)), end_of(day(0)))
    short = pa.array([[1.0] * 4] * 60 + [[1.0]] * 40, pa.list_(pa.float32()))
    table = rows.set_column(rows.schema.get_field_index("pooled_0"), "pooled_0", short)
    writer = WriterProperties(max_row_group_size=20)
    partition = lake.commit("user_embeddings/second", day(0), table, fingerprint="1" * 64, writer=writer)
    vectors, flags = side_by_side(lake, {"second": [partition]}, day(1)).lookup(USERS)
    assert vectors.sum() == 4 * len(USERS)
    assert flags.tolist() == [[0, 1]] * len(USERS)
    with pytest.raises(ValueError, match="pooled_0 is not a vector of 4 numbers"):
        newest_embeddings(
            lake,
            [partition],
            ds=day(1),
            day_starts_at=timedelta(hours=3),
            users=np.array([70]),
            num_embeddings=1,
            dim=4,
        )


def test_a_feature_of_the_day_in_one_model_is_refused(tmp_path: Path) -> None:
    lake, ids = Lake(tmp_path), np.array([1])
    promoted = {
        "first": [commit_vectors(lake, FIRST, day(0), ids, np.ones((1, 16)))],
        "second": [commit_vectors(lake, SECOND, day(0), ids, np.ones((1, 4)), late=timedelta(seconds=1))],
    }
    with pytest.raises(ValueError, match=r"user_embeddings/second ds=2026-01-01 holds features of .* would leak"):
        side_by_side(lake, promoted, day(1))


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[World, Promoted]:
    """Two days learnt from both models, of which the second one began a day later."""
    world = World(settings=Settings(home=tmp_path_factory.mktemp("both"), _env_file=None), examples_per_day=6_000)
    first = [commit_embeddings(world, FIRST, day(index)) for index in (0, 1, 2)]
    promoted = {"first": first, "second": [commit_embeddings(world, SECOND, day(index)) for index in (1, 2)]}
    for index in (1, 2, 3):
        world.commit_examples(day(index))
        retrain_on(BOTH, MODELS, day(index), settings=world.settings, promoted=promoted)
    return world, promoted


def test_both_models_are_joined_as_of_the_day_before(trained: tuple[World, Promoted]) -> None:
    world, promoted = trained
    first, second, last = Checkpoints(world.settings, BOTH.name).days()
    assert [(p.table, p.ds) for p in second.embeddings] == [
        ("user_embeddings/first", day(1)), ("user_embeddings/first", day(0)), ("user_embeddings/second", day(1)),
    ]  # fmt: skip
    assert {p.table for p in first.embeddings} == {"user_embeddings/first"}, "the second model had nothing yet"
    assert (first.coverage.users, second.coverage.users) == (0.8, 1.0)
    assert (first.coverage.by_model, second.coverage.by_model) == (
        {"first": 0.8, "second": 0.0}, {"first": 0.8, "second": 0.6},
    )  # fmt: skip
    assert last.evaluation is not None
    assert last.evaluation.everyone.interval is not None
    assert last.evaluation.everyone.interval[1] < 0
    assert last.evaluation.without_embedding is None
    assert days_that_joined(world.settings, "first", promoted["first"]) == (), "no recipe is registered of that name"


def test_each_model_is_ranked_alone_and_all_together(trained: tuple[World, Promoted]) -> None:
    world, promoted = trained
    world.commit_examples(day(4))
    found = explain_downstream(BOTH, MODELS, day(4), settings=world.settings, promoted=promoted, rows=3_000, repeats=2)
    increase = {of.feature.name: of.increase for of in found.rankings[0].importances}
    assert {name for name in increase if "user_embedding" in name} == {
        "first.user_embedding_0", "first.user_embedding_1", "first.user_embeddings",
        "second.user_embedding_0", "second.user_embeddings", "user_embeddings",
    }  # fmt: skip
    assert increase["user_embeddings"] > max(increase["first.user_embeddings"], increase["second.user_embeddings"])
    members = {of.feature.name: of.feature.members for of in found.rankings[0].importances}
    assert members["second.user_embeddings"] == ("second.user_embedding_0",)
    assert len(members["user_embeddings"]) == 3


def test_one_model_more_makes_another_training(trained: tuple[World, Promoted]) -> None:
    world, promoted = trained
    again = retrain_on(BOTH, MODELS, day(3), settings=world.settings, promoted=promoted)
    assert again.revision == 0, "known to the bit"
    alone = retrain_on(BOTH, MODELS, day(3), settings=world.settings, promoted={"first": promoted["first"]})
    assert alone.fingerprint != again.fingerprint


def test_a_document_of_one_user_model_is_read(trained: tuple[World, Promoted]) -> None:
    world, _ = trained
    (newest, *_) = Checkpoints(world.settings, BOTH.name).days()
    document = json.loads(to_json(newest))
    document["upstream"] = document.pop("upstreams")[0]
    assert parse(json.dumps(document).encode()) == replace(newest, upstreams=("first",))


def test_flags_and_vectors_of_all_models_reach_the_first_layer() -> None:
    arms = with_and_without(BOTH, SCHEMA, [(2, 8), (1, 4)]).arms
    num_vectors = arms["baseline"].model.layout.num_vectors
    assert arms["sum"].model.projection.shape == (3, 8, BOTH.embedding_dim)
    assert arms["sum"].model.join.in_features == 3 * (num_vectors + 3) + 2


def test_recipes_fit_their_source_and_their_user_models() -> None:
    for name in DOWNSTREAM_MODELS:
        consumer = get_downstream(name)
        upstreams = [get_recipe(upstream) for upstream in consumer.upstreams]
        assert consumer.name == name
        assert len({upstream.source for upstream in upstreams}) == 1
        layout = with_and_without(consumer, upstreams[0].source.schema, [(2, 32)] * len(upstreams)).arms["sum"]
        assert layout.model.layout.num_upstreams == len(upstreams)
        assert "user" not in consumer.user_features
    synthetic = [name for name in DOWNSTREAM_MODELS if name.startswith("demo_") and name != "demo_ctr"]
    real = [name for name in DOWNSTREAM_MODELS if name.startswith("globo_") and name != "globo_ctr"]
    assert (len(synthetic), len(real)) == (8, 5)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        pytest.param("demo_a_ctr_small", (Selection(column="item_domain", values=(0,)),), id="a domain"),
        pytest.param(
            "demo_b_cvr_small",
            (Selection(column="item_domain", values=(1,)), Selection(column="click", values=(1,))),
            id="post-click",
        ),
        pytest.param("globo_visit_large", (), id="all"),
    ],
)
def test_a_model_learns_its_domain(name: str, expected: tuple[Selection, ...]) -> None:
    assert get_downstream(name).examples == expected


def test_who_consumes_what() -> None:
    assert consumers_of("demo") == ["demo_ctr"], "infra/up retrains no more than that"
    assert "demo_a_ctr_large" in consumers_of("demo_b")
    assert the_consumer("globo").name == "globo_ctr"
    with pytest.raises(ValueError, match=r"demo_a has 2 downstream models .* name one of .*demo_a_ctr_small"):
        the_consumer("demo_a")
