from __future__ import annotations

import os
from dataclasses import replace
from datetime import date, timedelta
from pathlib import Path

import pytest

from features.lake import Lake
from infra.settings import Settings
from snapshots.embeddings import candidates_table_of, table_of
from snapshots.inference import infer
from snapshots.promotion import promote, reject
from snapshots.registry import Registry, Version
from snapshots.retention import pointers, prune
from snapshots.seal import DamagedError, verify
from snapshots.shift.measure import check_shift
from tests.snapshots.world import DAYS, commit_users, make_tower, newest, publish_day
from trainer.recipe import Recipe
from trainer.serving import Serving


def _version(number: int, ds: int, *, parent: int | None = None, decision: str = "promoted") -> Version:
    return Version(
        model="tiny",
        number=number,
        ds=date(2026, 1, 1) + timedelta(days=ds),
        fingerprint=str(number),
        parent=parent,
        path=Path("gone"),
        run_id="run",
        decision=decision,
    )


CHAIN = [_version(1, 0), _version(2, 1, parent=1), _version(3, 40, parent=2), _version(4, 41, parent=3)]


@pytest.mark.parametrize(
    ("versions", "aliases", "kept"),
    [
        pytest.param(CHAIN, {}, {2, 3, 4}, id="the parent of a kept one is measured against"),
        pytest.param(CHAIN, {"previous": 1}, {1, 2, 3, 4}, id="an alias"),
        pytest.param([*CHAIN, _version(5, 2, decision="held")], {}, {2, 3, 4, 5}, id="a person has to decide"),
        pytest.param([*CHAIN, _version(5, 2, decision="pending")], {}, {2, 3, 4, 5}, id="under way"),
        pytest.param([*CHAIN, _version(5, 2, decision="rejected")], {}, {2, 3, 4}, id="rejected and old"),
        pytest.param([*CHAIN, _version(5, 30, decision="rejected")], {}, {2, 3, 4, 5}, id="rejected and new"),
        pytest.param([], {}, set(), id="nothing yet"),
    ],
)
def test_what_points_to_a_version(versions: list[Version], aliases: dict[str, int], kept: set[int]) -> None:
    assert set(pointers(versions, aliases, keep_days=14)) == kept


def _aged(lake: Lake, table: str) -> None:
    """As if every file had been written long ago."""
    for path in Path(lake.uri(table)).rglob("*.parquet"):
        os.utime(path, (0, 0))


def test_old_ones_go_and_what_is_pointed_to_stays(recipe: Recipe, settings: Settings, lake: Lake) -> None:
    days = [DAYS[0], DAYS[1], DAYS[0] + timedelta(days=40)]
    versions = []
    for index, ds in enumerate(days):
        commit_users(lake, ds, range(30))
        publish_day(recipe, ds, make_tower(recipe, noise=0.001 * index), settings=settings)
        infer(recipe, ds, settings=settings)
        check_shift(recipe, ds, settings=settings)
        versions.append(newest(settings, ds))
    promote(recipe, days[0], settings=settings, by="gate")
    reject(recipe, days[1], settings=settings, by="alice")
    promote(recipe, days[2], settings=settings, by="gate")
    Registry(settings).drop_alias("tiny", "previous")
    consumers = lake.read(newest(settings, days[0]).visible)
    for table in (candidates_table_of("tiny"), table_of("tiny")):
        _aged(lake, table)
    orphan = Path(lake.uri(table_of("tiny")), f"ds={days[0]}", "part-orphan.parquet")
    orphan.write_bytes(b"left by a writer that was killed")
    os.utime(orphan, (0, 0))

    planned = prune(recipe, settings=settings, keep_days=14, dry_run=True)
    assert planned.removed == (1, 2)
    frozen = replace(recipe, serving=Serving(mode="frozen"))
    assert prune(frozen, settings=settings, keep_days=14, dry_run=True).removed == (2,), "what serves stays"
    assert versions[0].path.exists()
    assert orphan.exists()

    done = prune(recipe, settings=settings, keep_days=14)
    assert (done.removed, [kept.number for kept in done.kept]) == ((1, 2), [3])
    assert done.kept[0].why == ("alias candidate", "alias champion", "of the newest 14 days")
    assert [version.path.exists() for version in versions] == [False, False, True]
    assert lake.days(candidates_table_of("tiny")) == [days[2]]
    assert not list(Path(lake.uri(candidates_table_of("tiny")), f"ds={days[1]}").glob("*.parquet"))
    assert not orphan.exists()
    assert lake.days(table_of("tiny")) == [days[0], days[2]], "what consumers see stays"
    assert Lake(settings.lake).read(newest(settings, days[0]).visible).equals(consumers)
    verify(versions[2].path, manifest_sha256=versions[2].tags["manifest_sha256"])
    with pytest.raises(DamagedError, match="is gone"):
        verify(versions[0].path)

    again = prune(recipe, settings=settings, keep_days=14)
    assert again.removed == ()
    assert sum(len(swept.files) for swept in again.swept) == 0


def test_a_file_that_may_be_committed_any_moment_stays(recipe: Recipe, settings: Settings, lake: Lake) -> None:
    commit_users(lake, DAYS[0], range(30))
    publish_day(recipe, DAYS[0], make_tower(recipe), settings=settings)
    infer(recipe, DAYS[0], settings=settings)
    young = Path(lake.uri(candidates_table_of("tiny")), f"ds={DAYS[0]}", "part-young.parquet")
    young.write_bytes(b"a shard that is finished, and not committed yet")
    prune(recipe, settings=settings, keep_days=14)
    assert young.exists()


def test_fewer_days_than_pooling_looks_back_are_refused(recipe: Recipe, settings: Settings) -> None:
    with pytest.raises(ValueError, match="keep_days is 3; pooling and consumers look back 14 days"):
        prune(recipe, settings=settings, keep_days=3)
