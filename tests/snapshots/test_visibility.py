"""What a reader of the consumers' table meets: promoted vectors, the same bytes as were judged, and nothing else."""

from __future__ import annotations

import hashlib
from pathlib import Path

import polars
import pytest

from features.lake import Lake
from infra.settings import Settings
from snapshots import promotion
from snapshots.embeddings import candidates_table_of, table_of
from snapshots.gate import gate
from snapshots.inference import infer
from snapshots.promotion import hold, promote, reject, rollback
from snapshots.registry import Registry, Version
from snapshots.shift.measure import check_shift
from tests.snapshots.world import DAYS, commit_users, make_tower, newest, publish_day
from trainer.recipe import Recipe

TABLE = table_of("tiny")


def _day(recipe: Recipe, ds: int, settings: Settings, *, noise: float = 0.0, salt: str = "") -> Version:
    commit_users(Lake(settings.lake), DAYS[ds], range(40))
    parent = newest(settings, DAYS[ds - 1]) if ds else None
    publish_day(recipe, DAYS[ds], make_tower(recipe, noise=noise), settings=settings, parent=parent, salt=salt)
    infer(recipe, DAYS[ds], settings=settings)
    check_shift(recipe, DAYS[ds], settings=settings)
    gate(recipe, DAYS[ds], settings=settings)
    return newest(settings, DAYS[ds])


def _visible(lake: Lake) -> dict[str, str]:
    """SHA-256 of every file that the newest version of the consumers' table names."""
    if (delta := lake.open(TABLE)) is None:
        return {}
    found = (Path(uri.removeprefix("file://")) for uri in delta.file_uris())
    return {f"{path.parent.name}/{path.name}": hashlib.sha256(path.read_bytes()).hexdigest() for path in found}


def _versions(lake: Lake) -> set[int]:
    """By a reader that knows nothing of us."""
    return set(polars.read_delta(lake.uri(TABLE))["version"].to_list())


def test_nothing_is_visible_until_it_is_promoted(recipe: Recipe, settings: Settings, lake: Lake) -> None:
    _day(recipe, 0, settings)
    assert lake.open(TABLE) is None
    promote(recipe, DAYS[0], settings=settings, by="gate")
    first = _visible(lake)
    assert _versions(lake) == {1}
    for ds, withhold in ((1, hold), (2, reject)):
        _day(recipe, ds, settings, noise=0.01 * ds)
        withhold(recipe, DAYS[ds], settings=settings)
        assert _visible(lake) == first
    assert lake.days(candidates_table_of("tiny")) == DAYS[:3], "a person can look at what was held"
    promote(recipe, DAYS[1], settings=settings, by="alice")
    assert _versions(lake) == {1, 2}


def test_what_is_promoted_is_what_was_judged(recipe: Recipe, settings: Settings, lake: Lake) -> None:
    version = _day(recipe, 0, settings)
    shown = promote(recipe, DAYS[0], settings=settings, by="gate").embeddings
    assert version.embeddings is not None
    assert (shown.table, shown.fingerprint) == (TABLE, version.embeddings.fingerprint)
    judged = sorted(Path(uri).read_bytes() for uri in lake.files(version.embeddings))
    assert sorted(Path(uri).read_bytes() for uri in lake.files(shown)) == judged
    assert lake.read(shown).equals(lake.read(version.embeddings))
    metadata = {field.name: field.metadata for field in lake.open(TABLE).schema().fields}
    assert metadata["pooled_0"]["usermodel.dim"] == "8"


def test_a_rollback_restores_the_bytes_of_before(recipe: Recipe, settings: Settings, lake: Lake) -> None:
    _day(recipe, 0, settings)
    promote(recipe, DAYS[0], settings=settings, by="gate")
    before = _visible(lake)
    _day(recipe, 1, settings, noise=0.01)
    promoted = promote(recipe, DAYS[1], settings=settings, by="gate")
    assert set(_visible(lake)) > set(before)
    restored = rollback(recipe, settings=settings, by="alice")
    assert (restored.ds, restored.version) == (DAYS[0], 1)
    assert _visible(lake) == before
    assert _versions(lake) == {1}
    assert lake.read(promoted.embeddings).num_rows == 40, "whoever pinned the version can still read what they read"
    again = promote(recipe, DAYS[1], settings=settings, by="alice")
    assert _versions(lake) == {1, 2}
    assert lake.read(again.embeddings).equals(lake.read(promoted.embeddings))


def test_a_rollback_within_a_day_restores_its_earlier_version(recipe: Recipe, settings: Settings, lake: Lake) -> None:
    _day(recipe, 0, settings)
    promote(recipe, DAYS[0], settings=settings, by="gate")
    before = _visible(lake)
    _day(recipe, 0, settings, noise=0.01, salt="trained anew")
    promote(recipe, DAYS[0], settings=settings, by="gate")
    assert _versions(lake) == {2}
    rollback(recipe, settings=settings, by="alice")
    assert _visible(lake) == before
    assert [p.ds for p in Registry(settings).promoted_embeddings("tiny", before=DAYS[1])] == [DAYS[0]]


@pytest.mark.parametrize("step", ["show", "withdraw"])
def test_killed_before_consumers_see_the_change(
    recipe: Recipe, settings: Settings, lake: Lake, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    _day(recipe, 0, settings)
    promote(recipe, DAYS[0], settings=settings, by="gate")
    before = _visible(lake)
    _day(recipe, 1, settings)
    if step == "withdraw":
        promote(recipe, DAYS[1], settings=settings, by="gate")

    def change() -> None:
        if step == "show":
            promote(recipe, DAYS[1], settings=settings, by="gate")
        else:
            rollback(recipe, settings=settings, by="alice")

    def die(*_args: object, **_kwargs: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(promotion, step, die)
        with pytest.raises(KeyboardInterrupt):
            change()
    change()
    assert (_visible(lake) == before) is (step == "withdraw")
    assert _versions(lake) == ({1, 2} if step == "show" else {1})
