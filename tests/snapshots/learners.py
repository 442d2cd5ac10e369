"""The tiny user model and consumers that learn it before it serves: days to be promoted, a step at a time."""

from __future__ import annotations

import shutil
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime
from pathlib import Path

import pyarrow as pa
import pytest

from features.arrow import examples_schema
from features.fingerprint import fingerprint
from features.lake import Lake
from infra.settings import Settings
from snapshots.inference import infer
from snapshots.promotion import promote, rollback, take_back
from snapshots.registry import Registry
from snapshots.release import Released, release
from tests.snapshots.world import DAYS, TinySource, commit_users, make_tower, publish_day, tiny_recipe
from trainer.downstream.retrain import retrain_on
from trainer.downstream.tracking import log_day
from trainer.recipe import DownstreamRecipe, Recipe
from trainer.recipes import DOWNSTREAM_MODELS
from trainer.serving import Mode, Serving

READY = DAYS[:4]


def learning_recipe(mode: Mode = "async") -> Recipe:
    return replace(tiny_recipe(), serving=Serving(mode=mode, after="learning"))


def consumer(name: str) -> DownstreamRecipe:
    return DownstreamRecipe(
        name=name, upstreams=("tiny",), task="click", user_features=("age",), embedding_dim=4, hidden=(4,),
        batch_size=64,
    )  # fmt: skip


def commit_examples(lake: Lake, ds: date) -> None:
    """One of each of the users 0-39."""
    noon = datetime(ds.year, ds.month, ds.day, 12, tzinfo=UTC)
    rows = [
        {"user_id": user, "event_time": noon, "liked": [], "seen": [1], "place": [2], "age": 30.0, "click": user % 2}
        for user in range(40)
    ]
    data = pa.Table.from_pylist(rows, schema=examples_schema(TinySource().schema))
    lake.commit("examples/tiny", ds, data, fingerprint=fingerprint("learners", ds))


def make_ready(settings: Settings) -> None:
    """Four days published and embedded as versions 1 to 4, of users 0-39; and the examples of the days."""
    model, lake = tiny_recipe(), Lake(settings.lake)
    for number, ds in enumerate(READY):
        commit_users(lake, ds, range(40))
        publish_day(model, ds, make_tower(model, noise=0.1 * number), settings=settings)
        infer(model, ds, settings=settings)
        commit_examples(lake, ds)


def learn(settings: Settings, ds: date, name: str, *, register: bool = True) -> None:
    """The consumer trains on the day with what is promoted."""
    promoted = {"tiny": Registry(settings).promoted_embeddings("tiny", before=ds)}
    day = retrain_on(consumer(name), [tiny_recipe()], ds, settings=settings, promoted=promoted)
    if register:
        log_day(day, settings=settings)


@dataclass(frozen=True, kw_only=True)
class Learners:
    """One home. Days are counted from 0; the version of day i is i + 1."""

    settings: Settings
    monkeypatch: pytest.MonkeyPatch

    @property
    def registry(self) -> Registry:
        return Registry(self.settings)

    def consume(self, *names: str) -> None:
        """From now on these consume the model."""
        for name in names:
            self.monkeypatch.setitem(DOWNSTREAM_MODELS, name, lambda name=name: consumer(name))

    def release(self) -> Released:
        return release(learning_recipe(), settings=self.settings)

    def run(self, *steps: str) -> None:
        """`promote I`, `older I`, `learn I NAME…`, `release`, `rollback`, `take_back I`, `consume NAME…`."""
        model, of = learning_recipe(), self.settings
        for step in steps:
            word, *rest = step.split()
            if word in ("promote", "older"):
                promote(model, DAYS[int(rest[0])], settings=of, by="test", allow_older=word == "older")
            elif word == "learn":
                for name in rest[1:]:
                    learn(of, DAYS[int(rest[0])], name)
            elif word == "release":
                self.release()
            elif word == "rollback":
                rollback(model, settings=of, by="test")
            elif word == "take_back":
                take_back(model, DAYS[int(rest[0])], settings=of, by="test")
            else:
                assert word == "consume", step
                self.consume(*rest)
            champion = self.registry.alias("tiny", "champion")
            assert champion is None or champion.may_serve, f"after {step!r}, version {champion.number} serves"

    @property
    def state(self) -> tuple[int | None, int | None, dict[int, tuple[str, ...]]]:
        """Champion, previous, and of each promoted version the consumers it waits for."""
        aliases = self.registry.aliases("tiny")
        waits = {v.number: v.waits_for for v in self.registry.versions("tiny") if v.decision == "promoted"}
        return aliases.get("champion"), aliases.get("previous"), waits


def copied(made: Settings, folder: Path) -> Settings:
    """A copy of a home and its MLflow, to be changed."""
    shutil.copytree(made.home, folder / "home")
    shutil.copy(made.home.parent / "mlflow.db", folder / "mlflow.db")
    return Settings(home=folder / "home", mlflow_uri=f"sqlite:///{folder}/mlflow.db", _env_file=None)
