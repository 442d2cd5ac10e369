"""A user model that learns some of the examples of its source, as recipe, in training and from one day to the next."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from features.lake import Lake
from features.schema import Managed, Table
from features.selection import Selection
from infra.settings import Settings
from tests.trainer.planted import DAY, commit_day, planted_recipe
from trainer.carryover.compare import compare
from trainer.carryover.document import ModelDocument
from trainer.carryover.summary import as_table, summarise
from trainer.config import TrainingConfig
from trainer.identities import read_maps
from trainer.job import day_fingerprint, train
from trainer.recipe import Recipe
from trainer.recipes import UNSCHEDULED, USER_MODELS, get_recipe
from trainer.trained import read_trained

FEW = (Selection(column="topic", values=(0, 1)),)
MANAGED = Table(name="user", num_rows=121, ids=Managed())


def test_a_selected_day_is_learnt_and_its_ids_own_the_rows(tmp_path: Path) -> None:
    settings, recipe = (
        Settings(home=tmp_path, ranks=1, checkpoint_seconds=0, _env_file=None),
        planted_recipe(examples=(*FEW, Selection(column="click", values=(1,))), tables=(MANAGED,)),
    )
    lake = Lake(settings.lake)
    examples = commit_day(lake, DAY, num_rows=900)
    rows = lake.read(examples)
    kept = np.isin(rows["topic"].combine_chunks().flatten(), [0, 1]) & (rows["click"].to_numpy() == 1)
    assert 0 < kept.sum() < 450

    trained = train(recipe, DAY, settings=settings)
    assert (trained.num_examples, trained.where) == (kept.sum(), recipe.examples)
    assert read_trained(trained.path) == trained
    assert trained.metrics["buy"]["examples"] == trained.metrics["click"]["positives"] == kept.sum()
    owners = read_maps(trained.path, recipe.schema)["user"].owning.ids
    assert owners.tolist() == sorted(set(rows["user_id"].to_numpy()[kept].tolist()))
    user = next(use for use in trained.tables if use.table == "user")
    assert user.num_lookups == kept.sum()


def test_a_day_of_which_nothing_is_selected_fails_before_a_job_starts(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path, ranks=1, _env_file=None)
    commit_day(Lake(settings.lake), DAY, num_rows=50)
    recipe = planted_recipe(examples=(Selection(column="topic", values=(63,)),))
    with pytest.raises(ValueError, match=r"examples/planted ds=2026-01-01 has no rows where topic in \[63\]"):
        train(recipe, DAY, settings=settings)
    assert not (settings.logs / "training").exists()


def test_another_selection_is_another_training(tmp_path: Path) -> None:
    examples = commit_day(Lake(tmp_path), DAY, num_rows=10)
    recipes = [planted_recipe(examples=where) for where in ((), FEW, (Selection(column="topic", values=(0,)),))]
    assert len({day_fingerprint(TrainingConfig.of(recipe), examples, None) for recipe in recipes}) == 3


def documents(*recipes: Recipe) -> tuple[ModelDocument, ...]:
    return tuple(ModelDocument(config=TrainingConfig.of(recipe)) for recipe in recipes)


def test_a_changed_selection_loses_no_weight_and_is_told() -> None:
    before, after = documents(planted_recipe(), planted_recipe(examples=FEW))
    found = compare(before, after)
    assert found.is_unchanged
    words = "learns from topic in [0, 1], its parent from all examples: NE of the two days is of different examples"
    assert found.other_examples == words
    assert list(as_table(summarise(found)))[1:] == [words]
    assert compare(after, after).other_examples == ""
    assert ModelDocument(config=after.config).to_json().count('"topic"') > 0


def test_a_selection_that_the_source_cannot_make_is_refused() -> None:
    with pytest.raises(ValueError, match=r"recipe tiny selects examples by \['hour'\]"):
        planted_recipe(examples=(Selection(column="hour", values=(1,)),))


def test_user_models_of_one_source_share_it_and_nothing_else() -> None:
    """Two that made other partitions of the same tables would replace each other's for ever."""
    recipes = [get_recipe(name) for name in (*USER_MODELS, *UNSCHEDULED)]
    sources = {recipe.source.name: recipe.source for recipe in recipes}
    assert all(recipe.source == sources[recipe.source.name] for recipe in recipes)
    assert {recipe.name for recipe in recipes} == {*USER_MODELS, *UNSCHEDULED}
    daily = [get_recipe(name) for name in USER_MODELS]
    learnt = {(recipe.source.name, recipe.examples, recipe.tasks) for recipe in daily}
    assert len(learnt) == len(daily), "no two learn the same every day"


def test_the_user_models_of_the_two_domains_learn_different_halves() -> None:
    a, b = get_recipe("demo_a"), get_recipe("demo_b")
    assert [one.values for one in a.examples + b.examples] == [(0,), (1,)]
    assert replace(a, name="demo_b", tasks=b.tasks, examples=b.examples) == b
