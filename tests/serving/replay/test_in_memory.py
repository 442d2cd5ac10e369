"""Days of an experiment are replayed as if they had been published: the same vectors, to the bit."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from features.batches import Encoder
from features.lake import Lake
from infra.experiments.lab import Lab
from infra.experiments.served_days import TowerEmbedder, promoted
from infra.experiments.towers import DailyTowers, read_users
from infra.settings import Settings
from serving.replay.modes import Latency, ReplayConfig
from serving.replay.replay import replay
from serving.replay.snapshots import PromotedDays
from snapshots.embedder import Embedder
from snapshots.export import export_day
from snapshots.registry import Registry
from tests.serving.replay.world import CTR, REPLAYED
from tests.snapshots.days import STILL
from tests.snapshots.world import DAYS, make_tower, tiny_recipe


def in_memory(settings: Settings, folder: Path) -> PromotedDays:
    """The towers that `trained` published, without what was published."""
    recipe, lake, days = tiny_recipe(), Lake(settings.lake), tuple(DAYS[:3])
    users = tuple(read_users(recipe.source, ds, lake) for ds in days)
    lab = Lab(source=recipe.source, days=days, lake=lake, folder=folder, users=users)
    towers = [make_tower(recipe, noise=STILL * day) for day in range(3)]
    return promoted(lab, DailyTowers(recipe=recipe, users=users, towers=towers))


def test_a_tower_in_memory_computes_what_its_sealed_graph_does(trained: Settings, tmp_path: Path) -> None:
    recipe, lake = tiny_recipe(), Lake(trained.lake)
    tower = make_tower(recipe)
    for parameter in tower.parameters():
        parameter.requires_grad_(True)  # as after training
    settings = trained.model_copy(update={"home": tmp_path})
    folder, _ = export_day(
        recipe, DAYS[0], fingerprint="f" * 64, make_tower=lambda: tower, maps={}, settings=settings
    )  # fmt: skip
    rows = lake.read(lake.get("user_features/tiny", DAYS[0])).combine_chunks()
    sealed, in_memory = Embedder(folder), TowerEmbedder(tower, Encoder(recipe.schema, sides=("user",)))
    assert in_memory.columns == sealed.columns
    for some in (rows, rows.slice(0, 1), rows.slice(3, 7), rows.slice(0, 0)):
        assert in_memory.embed(some).tobytes() == sealed.embed(some).tobytes()


def test_a_day_in_memory_holds_what_its_partition_does(trained: Settings, tmp_path: Path) -> None:
    recipe, lake = tiny_recipe(), Lake(trained.lake)
    sealed = PromotedDays.of("tiny", "tiny", registry=Registry(trained), lake=lake, before=REPLAYED[-1])
    shape = {"num_embeddings": recipe.user_tower.num_embeddings, "dim": recipe.user_tower.dim}
    for one, other in zip(sealed.days, in_memory(trained, tmp_path).days, strict=True):
        assert (one.ds, one.user_features) == (other.ds, other.user_features)
        users, times, vectors = one.load(lake, **shape)
        order = np.argsort(users)
        found = other.load(lake, **shape)
        assert [users[order].tolist(), times[order].tolist()] == [found[0].tolist(), found[1].tolist()]
        assert vectors[order].tobytes() == found[2].tobytes()


@pytest.mark.slow
def test_a_replay_of_days_in_memory_is_that_of_published_ones(trained: Settings, tmp_path: Path) -> None:
    config = ReplayConfig(latency=Latency(median_ms=10, p99_ms=60))
    one, other = (
        replay(tiny_recipe(), CTR, REPLAYED, settings=trained, config=config, promoted=days, say=lambda line: None)
        for days in (None, in_memory(trained, tmp_path))
    )
    assert one.modes == other.modes
