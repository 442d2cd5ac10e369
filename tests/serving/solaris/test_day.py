"""What the lake gives the online half, and the whole way: predicted, represented by a trained model, served."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch

from features.arrow import examples_schema
from features.lake import Lake, MissingPartitionError
from infra.settings import Settings
from serving.compute.statistics import Statistics
from serving.features import FeatureCodec
from serving.solaris.day import catalogue_of, foundation_of, item_of, likely_after
from serving.solaris.foundation import FoundationModel
from serving.solaris.levels import Level
from serving.solaris.model import PairModel
from serving.solaris.precompute import Precompute
from serving.solaris.reader import PairReader
from serving.solaris.refresh import enqueue_likely
from serving.solaris.statistics import WORKER
from serving.solaris.store import PairStore
from serving.solaris.worker import Worker
from snapshots.embedder import one_thread
from tests.serving.servers import Server, in_thread, until
from tests.serving.solaris.world import NOW_MS, QUICK, queue_of
from tests.snapshots.tiny import DAYS, TinySource, tiny_recipe
from trainer.config import Sum, TrainingConfig
from trainer.model.sum_model import SumModel

RECIPE = tiny_recipe()
CODEC = FeatureCodec(RECIPE.schema)
USERS, PLACES = range(1, 9), (10, 20, 30)


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """Three days on which every user saw some places."""
    made = Settings(home=tmp_path_factory.mktemp("home"), _env_file=None)
    lake = Lake(made.lake)
    for number, ds in enumerate(DAYS[:3]):
        drawn = np.random.default_rng(number)
        rows = [
            {
                "user_id": user, "event_time": datetime(ds.year, ds.month, ds.day, 1 + user, tzinfo=UTC),
                "liked": [user], "seen": [1, 2], "age": 30.0, "place": [int(drawn.choice(PLACES))], "click": user % 2,
            }
            for user in [*USERS, *USERS]
        ]  # fmt: skip
        table = pa.Table.from_pylist(rows, schema=examples_schema(TinySource().schema))
        lake.commit("examples/tiny", ds, table, fingerprint=f"{number + 1:x}")
    return made


def test_the_item_side_says_what_tells_items_apart() -> None:
    assert (item_of(RECIPE.schema, None), item_of(RECIPE.schema, "place")) == ("place", "place")
    with pytest.raises(ValueError, match="liked tells items apart"):
        item_of(RECIPE.schema, "liked")


def test_a_day_that_is_not_trained(settings: Settings) -> None:
    with pytest.raises(ValueError, match="tiny has no checkpoint of 2026-01-02"):
        foundation_of(RECIPE, DAYS[1], settings=settings)


def test_only_days_up_to_the_one_that_is_named_are_known(settings: Settings) -> None:
    assert set(catalogue_of(RECIPE, DAYS[2], settings=settings, item="place").ids.tolist()) == set(PLACES)
    with pytest.raises(ValueError, match="2025-12-31"):
        catalogue_of(RECIPE, DAYS[0].replace(year=2025, month=12, day=31), settings=settings, item="place")


def test_the_day_itself_is_built_and_older_days_are_the_calendars(settings: Settings, tmp_path: Path) -> None:
    """Nothing is predicted from older days in the name of one that is missing; a gap reaches no further back."""
    lake, table, last = Lake(tmp_path / "lake"), "examples/tiny", DAYS[0] + timedelta(days=7)
    given = Settings(home=tmp_path, _env_file=None)
    earlier = Lake(settings.lake)
    for place, ds in enumerate((DAYS[0], DAYS[0] + timedelta(days=1), last)):
        rows = earlier.read(earlier.get(table, DAYS[place]))
        kept = rows.set_column(
            rows.schema.get_field_index("place"),
            rows.schema.field("place"),
            pa.array([[100 + place]] * len(rows), rows.schema.field("place").type),
        )
        lake.commit(table, ds, kept, fingerprint=f"{place:x}")
    assert set(catalogue_of(RECIPE, last, settings=given, item="place").ids.tolist()) == {101, 102}
    with pytest.raises(MissingPartitionError, match="2026-01-07"):
        list(likely_after(RECIPE, last - timedelta(days=1), settings=given, item="place", budget=3))


def test_what_is_predicted_is_served_as_the_model_represents_it(
    settings: Settings, server: Server, store: PairStore
) -> None:
    torch.manual_seed(0)
    config = TrainingConfig.of(RECIPE)
    assert isinstance(config.model, Sum)
    foundation = FoundationModel(SumModel(config, config.model), RECIPE, version=7)
    catalogue = catalogue_of(RECIPE, DAYS[2], settings=settings, item="place")
    model = PairModel(name="tiny", source="tiny", width=foundation.width, deadline_ms=5_000.0)
    pairs, features = PairStore(store.redis, model), CODEC.encode({"liked": [3], "seen": [1, 2], "age": 30.0})
    for user in USERS:
        pairs.redis.set(pairs.keys.keys.features("tiny", user), NOW_MS.to_bytes(8, "little") + features)
    likely = list(likely_after(RECIPE, DAYS[2], settings=settings, item="place", budget=10))
    assert [one.priority for one in likely] == sorted((one.priority for one in likely), reverse=True)
    assert enqueue_likely(pairs, likely) == {"queued": 10}
    statistics = Statistics(WORKER)
    precompute = Precompute(foundation, catalogue, CODEC, statistics)
    worker = Worker(queue_of(pairs), pairs, precompute, options=QUICK, statistics=statistics)
    with one_thread(), in_thread(worker):
        until(lambda: statistics.total("written") == 10, seconds=20)
        assert enqueue_likely(pairs, likely) == {"fresh": 10}
        with PairReader(server.url, model) as reader:
            answers = {one.user: reader.read(one.user, PLACES) for one in likely}
    user = likely[0].user
    expected = foundation.represent(
        CODEC.decode([user] * 3, [features] * 3), catalogue.rows(np.array(PLACES))
    )  # fmt: skip
    places = [PLACES.index(one.item) for one in likely if one.user == user]
    assert (answers[user].levels[places] == Level.EXACT).all()
    np.testing.assert_allclose(answers[user].vectors[places], expected[places], rtol=2e-3, atol=1e-4)
    served = {(one.user, one.item) for one in likely}
    for who, answer in answers.items():
        assert [level == Level.EXACT for level in answer.levels] == [(who, place) in served for place in PLACES]
