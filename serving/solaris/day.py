"""What the lake gives the online half: the foundation model of a day, the items, and the pairs that are likely."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import date, timedelta

from features.lake import Lake, Partition
from features.schema import Schema
from infra.settings import Settings
from serving.solaris.catalogue import ItemCatalogue
from serving.solaris.foundation import FoundationModel
from serving.solaris.impressions import Impressions
from serving.solaris.interfaces import Likely
from serving.solaris.predictor import PairPredictor
from trainer.recipe import Recipe
from trainer.trained import find_trained, on_disk

DAYS = 7
"""Of the calendar, that the catalogue and the predictor look back on; those that were never built are left out."""


def item_of(schema: Schema, named: str | None) -> str:
    """The feature whose one id tells items apart: the one that is named, or the first of the item side."""
    names = [feature.name for feature in schema.sparse_of("item")]
    if not names or (named is not None and named not in names):
        raise ValueError(f"{named or 'nothing'} tells items apart; the item side has the lists {names}")
    return named or names[0]


def foundation_of(recipe: Recipe, ds: date, *, settings: Settings) -> FoundationModel:
    """The model as it was after the day. ValueError: the day is not trained."""
    trained = find_trained(settings, recipe.name, ds)
    if trained is None:
        raise ValueError(f"{recipe.name} has no checkpoint of {ds}; train the day first")
    return FoundationModel.of_day(recipe, on_disk(settings, trained))


def catalogue_of(recipe: Recipe, ds: date, *, settings: Settings, item: str) -> ItemCatalogue:
    """The items of the day and those before it."""
    lake = Lake(settings.lake)
    return ItemCatalogue.of_days(lake, _examples(lake, recipe, ds), schema=recipe.schema, item=item)


def likely_after(recipe: Recipe, ds: date, *, settings: Settings, item: str, budget: int) -> Iterator[Likely]:
    """The `budget` pairs that are likeliest to be asked for on the day after, the likeliest first, some in memory."""
    lake = Lake(settings.lake)
    days = [Impressions.read(lake, examples, item=item) for examples in _examples(lake, recipe, ds)]
    for part in PairPredictor.fit(days).stream(budget):
        yield from part


def _examples(lake: Lake, recipe: Recipe, ds: date) -> list[Partition]:
    """Oldest first, up to the day. MissingPartitionError: the day itself is not built; what older days alone say of the
    day after would look like an answer."""
    table = f"examples/{recipe.source.name}"
    before = lake.find_all(table, [ds - timedelta(days=days) for days in reversed(range(1, DAYS))])
    return [*before.values(), lake.get(table, ds)]
