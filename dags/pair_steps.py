"""The steps of SOLARIS: pairs that are represented before they are asked for. As light to import as `dags.steps`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from dags.steps import resolve
from snapshots.summary import plain

if TYPE_CHECKING:
    from infra.settings import Settings


def enqueue_pairs(recipe: str, ds: str, *, budget: int, item: str | None = None) -> Any:
    """The pairs that are likeliest on the day after `ds` onto the queue of precomputation; what became of them."""
    config, day, settings = resolve(recipe, ds)
    from serving.solaris.day import item_of, likely_after
    from serving.solaris.refresh import enqueue_likely

    store, named = _pairs_of(settings, config.name), item_of(config.schema, item)
    return dict(enqueue_likely(store, likely_after(config, day, settings=settings, item=named, budget=budget)))


def mirror_pairs(recipe: str, ds: str) -> Any:
    """What readers were served on the day as a partition of `served_pairs/<recipe>`; None: nothing was logged."""
    config, day, settings = resolve(recipe, ds)
    from features.lake import Lake
    from serving.solaris.mirror import mirror

    store, starts = _pairs_of(settings, config.name), config.source.day_starts_at
    return plain(mirror(store, Lake(settings.lake), day, day_starts_at=starts))


def view_pairs(recipe: str, user: int) -> Any:
    """What the feature store holds of the user's pairs, and how long the queue is."""
    from infra.settings import get_settings
    from serving.solaris.view import view_pairs
    from trainer.recipes import get_recipe

    return plain(view_pairs(_pairs_of(get_settings(), get_recipe(recipe).name), user))


def _pairs_of(settings: Settings, model: str) -> Any:
    """The store of the model's pairs, as its workers announced it."""
    from serving.solaris.store import PairStore, announced
    from serving.store import store_of

    store = store_of(settings)
    if (found := announced(store.redis).get(model)) is None:
        raise ValueError(f"no worker has served pairs of {model} yet; start `usermodel serving solaris work`")
    return PairStore(store.redis, found, store.keys)
