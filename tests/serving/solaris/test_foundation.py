"""A foundation model's pairs are what the model itself makes of the joined rows."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch

from features.batches import Encoder
from features.lake import Lake
from serving.solaris.catalogue import ItemCatalogue
from serving.solaris.foundation import PAIRS_PER_FORWARD, FoundationModel
from tests.trainer.planted import DAY, SCHEMA, commit_day, planted_examples, planted_recipe
from trainer.config import TrainingConfig
from trainer.model.sum_model import SumModel

RECIPE = planted_recipe()
ROWS = planted_examples(300, seed=1)
ITEM_DENSE = SCHEMA.dense_of("item")[0].name


@pytest.fixture(scope="module")
def model() -> SumModel:
    config = TrainingConfig.of(RECIPE)
    torch.manual_seed(1)
    made = SumModel(config, config.model)
    for parameter in made.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return made.eval()


@pytest.fixture(scope="module")
def foundation(model: SumModel) -> FoundationModel:
    return FoundationModel(model, RECIPE, version=3)


@pytest.mark.parametrize("num_pairs", [1, PAIRS_PER_FORWARD + 7], ids=["one", "more than a batch"])
def test_pairs_are_as_the_model_makes_them_of_joined_rows(
    model: SumModel, foundation: FoundationModel, num_pairs: int
) -> None:
    rng = np.random.default_rng(0)
    of_user, of_item = rng.integers(300, size=num_pairs), rng.integers(300, size=num_pairs)
    scored = foundation.score(ROWS, ROWS, of_user=of_user, of_item=of_item)
    item_side = [*(f.name for f in SCHEMA.sparse_of("item")), *(f.name for f in SCHEMA.dense_of("item"))]
    joined = ROWS.take(pa.array(of_user))
    for name in item_side:
        joined = joined.set_column(joined.schema.get_field_index(name), name, ROWS[name].take(pa.array(of_item)))
    with torch.no_grad():
        expected, _ = model.predict(Encoder(SCHEMA, tasks=("click", "buy")).encode(joined.combine_chunks()))
    np.testing.assert_allclose(scored.logits, expected.numpy(), rtol=1e-4, atol=1e-5)
    assert scored.vectors.shape == (num_pairs, foundation.width)
    heads = (
        scored.vectors @ model.mix_tower.output.weight.detach().numpy().T + model.mix_tower.output.bias.detach().numpy()
    )
    np.testing.assert_allclose(heads, scored.logits, rtol=1e-4, atol=1e-5)


def test_rows_of_pairs_are_represented_once_per_user(foundation: FoundationModel) -> None:
    distinct = np.unique(ROWS["user_id"].to_numpy(), return_index=True)[1][:5]
    users, items = np.array([4, 0, 0, 3, 4]), np.array([7, 7, 1, 2, 0])
    each = [ROWS.take(pa.array(distinct[users])), ROWS.take(pa.array(items))]
    expected = foundation.score(ROWS.take(pa.array(distinct)), ROWS, of_user=users, of_item=items).vectors
    np.testing.assert_allclose(foundation.represent(*each), expected, rtol=1e-4, atol=1e-5)
    assert (foundation.version, foundation.width) == (3, 32)
    assert foundation.represent(ROWS.slice(0, 0), ROWS.slice(0, 0)).shape == (0, 32)


def test_a_representation_that_is_not_finite_is_told_and_costs_no_other(foundation: FoundationModel) -> None:
    rows = ROWS.slice(0, 8)
    sound = foundation.represent(rows, rows)
    spoilt = np.where(np.arange(8) == 5, 3e38, rows[ITEM_DENSE].to_numpy()).astype(np.float32)
    items = rows.set_column(rows.schema.get_field_index(ITEM_DENSE), ITEM_DENSE, pa.array(spoilt))
    found = foundation.represent(rows, items)
    assert np.isfinite(found).all(axis=1).tolist() == [place != 5 for place in range(8)]
    np.testing.assert_allclose(np.delete(found, 5, axis=0), np.delete(sound, 5, axis=0), rtol=1e-4, atol=1e-5)
    each = np.arange(8)
    with pytest.raises(ValueError, match="pair 5 of 8 has a representation with NaN or inf"):
        foundation.score(rows, items, of_user=each, of_item=each)


def test_a_catalogue_knows_the_newest_features_of_the_days_it_was_given(tmp_path: Path) -> None:
    lake = Lake(str(tmp_path))
    days = [commit_day(lake, DAY.replace(day=number), num_rows=400) for number in (1, 2, 3)]
    catalogue = ItemCatalogue.of_days(lake, [days[1], days[0]], schema=SCHEMA, item="item")
    shown = [lake.read(day, columns=["item", "hour"]) for day in days[:2]]
    newest = {item: hour for day in shown for (item,), hour in zip(*(c.to_pylist() for c in day.columns), strict=True)}
    assert catalogue.ids.tolist() == sorted(newest)
    assert catalogue.rows()["hour"].to_pylist() == [newest[item] for item in sorted(newest)]
    some = np.array(sorted(newest))[[5, 0, 5]]
    assert catalogue.rows(some)["item"].to_pylist() == [[item] for item in some.tolist()]
    assert catalogue.known(np.array([some[0], 10_000])).tolist() == [True, False]
    with pytest.raises(ValueError, match="item 10000 is not among"):
        catalogue.rows(np.array([10_000]))


@pytest.mark.parametrize(
    ("item", "message"),
    [("recent_items", "no item-side feature"), ("hour", "no item-side feature")],
    ids=["of a user", "no ids"],
)
def test_a_catalogue_is_by_an_item_side_id(tmp_path: Path, item: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ItemCatalogue.of_days(Lake(str(tmp_path)), [], schema=SCHEMA, item=item)
