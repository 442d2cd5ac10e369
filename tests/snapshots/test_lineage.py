"""Late data, gaps and backfills: what the lineage says of each, and what is never touched."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from datetime import date
from pathlib import Path

import pyarrow as pa
import pytest
from typer.testing import CliRunner

from features.arrow import examples_schema
from features.fingerprint import file_sha256, fingerprint
from features.lake import Lake, Partition
from features.selection import Selection
from infra.commands import cli
from infra.commands.lineage import print_lineage
from infra.settings import Settings, get_settings
from snapshots.lineage import Lineage, lineage
from snapshots.publish import publish_tower
from snapshots.registry import Registry
from tests.snapshots.world import DAYS, GOOD, TinySource, make_tower
from trainer.carryover.summary import CarriedOver, Change
from trainer.checkpoint import Base, partial_path, seal
from trainer.increments.form import Stored
from trainer.recipe import Recipe
from trainer.trained import DOCUMENT, TrainedDay, checkpoint_path, find_trained, to_json, trained_days


def commit(lake: Lake, ds: date, salt: str = "", *, model: str = "tiny") -> Partition:
    data = pa.Table.from_pylist([], schema=examples_schema(TinySource().schema))
    return lake.commit(f"examples/{model}", ds, data, fingerprint=fingerprint("examples", ds, salt))


def train(
    settings: Settings,
    ds: date,
    *,
    parent: TrainedDay | None = None,
    carried: CarriedOver | None = None,
    model: str = "tiny",
    where: tuple[Selection, ...] = (),
) -> TrainedDay:
    """Seal a checkpoint as training the day's examples of now from `parent` would, without the weights."""
    examples = Lake(settings.lake).get(f"examples/{model}", ds)
    key = fingerprint("trained", ds, examples.fingerprint, parent and parent.fingerprint)
    path = checkpoint_path(settings, model, ds, key)
    before = find_trained(settings, model, ds)
    trained = TrainedDay(
        model=model,
        ds=ds,
        fingerprint=key,
        parent_fingerprint=parent.fingerprint if parent else None,
        parent_ds=parent.ds if parent else None,
        examples=examples,
        num_examples=1000,
        metrics={"click": dict(GOOD)},
        seconds=1.0,
        ranks=2,
        revision=before.revision + 1 if before else 0,
        path=path,
        gap_days=(ds - parent.ds).days - 1 if parent else 0,
        carried_over=carried,
        where=where,
    )
    partial = partial_path(path, token="t")  # noqa: S106
    partial.mkdir(parents=True)
    seal(partial, path, documents={DOCUMENT: to_json(trained)})
    return trained


def chain(settings: Settings, *days: date) -> list[TrainedDay]:
    """Each day trained from the one before it in the list."""
    trained: list[TrainedDay] = []
    for ds in days:
        commit(Lake(settings.lake), ds)
        trained.append(train(settings, ds, parent=trained[-1] if trained else None))
    return trained


def of(settings: Settings) -> Lineage:
    return lineage("tiny", "examples/tiny", settings=settings)


def stale(found: Lineage) -> dict[date, str]:
    return {link.ds: link.stale for link in found.links if link.stale is not None}


def test_a_plain_chain_has_nothing_to_say(settings: Settings) -> None:
    first, second = chain(settings, *DAYS[:2])
    found = of(settings)
    assert [(link.ds, link.parent_fingerprint, link.gap_days) for link in found.links] == [
        (DAYS[0], None, 0),
        (DAYS[1], first.fingerprint, 0),
    ]
    assert found.links[1].fingerprint == second.fingerprint
    assert found.links[1].examples == second.examples
    assert (stale(found), found.missing, found.registry) == ({}, (), None)
    assert all(link.late is None and link.registered is None and not link.superseded for link in found.links)


def test_late_data_is_shown_until_the_day_and_those_after_it_are_trained_again(settings: Settings) -> None:
    first, second, third = chain(settings, *DAYS[:3])
    commit(Lake(settings.lake), DAYS[0], "late rows")
    late = {link.ds: link.late for link in of(settings).links}
    assert late == {
        DAYS[0]: "the lake holds other examples of it since (was table version 1)",
        DAYS[1]: None,
        DAYS[2]: None,
    }
    assert stale(of(settings)) == {}

    again = train(settings, DAYS[0])
    assert (again.revision, again.path != first.path) == (1, True)
    found = of(settings)
    assert [(link.ds, link.revision, link.superseded, link.late) for link in found.links] == [
        (DAYS[0], 0, True, None),
        (DAYS[0], 1, False, None),
        (DAYS[1], 0, False, None),
        (DAYS[2], 0, False, None),
    ]
    assert stale(found) == {
        DAYS[1]: "its parent 2026-01-01 was trained anew (revision 1)",
        DAYS[2]: "its parent 2026-01-02 is stale",
    }

    second_again = train(settings, DAYS[1], parent=again)
    assert stale(of(settings)) == {DAYS[2]: "its parent 2026-01-02 was trained anew (revision 1)"}
    train(settings, DAYS[2], parent=second_again)
    assert stale(of(settings)) == {}
    assert [day.revision for day in trained_days(settings, "tiny")] == [1, 1, 1]
    assert all(day.path.is_dir() for day in (first, second, third)), "what was sealed is kept"


def test_it_says_what_was_learnt_and_when_that_changed(settings: Settings, capsys: pytest.CaptureFixture[str]) -> None:
    (first,) = chain(settings, DAYS[0])
    commit(Lake(settings.lake), DAYS[1])
    words, where = "learns from place in [0], its parent from all examples", (Selection(column="place", values=(0,)),)
    carried = CarriedOver(num_carried=3, other_examples=words)
    train(settings, DAYS[1], parent=first, carried=carried, where=where)
    found = of(settings)
    assert [(link.where, link.changes) for link in found.links] == [((), ()), (where, (words,))]
    print_lineage(found, {2: {"tiny_ctr": (found.links[0].ds, found.links[-1].ds)}})
    printed = capsys.readouterr().out
    assert "learnt from the examples where place in [0]" in printed
    assert f"{DAYS[1]} r0 {words}" in printed
    assert f"version 2 was there to join for tiny_ctr {DAYS[0]}..{DAYS[1]}" in printed


def test_a_gap_is_explicit_and_a_backfilled_day_makes_the_next_stale(settings: Settings) -> None:
    first, _ = chain(settings, DAYS[0], DAYS[3])
    commit(Lake(settings.lake), DAYS[2])
    found = of(settings)
    assert found.links[1].gap_days == 2
    assert [(day.ds, day.has_examples) for day in found.missing] == [(DAYS[1], False), (DAYS[2], True)]
    assert stale(found) == {}
    train(settings, DAYS[2], parent=first)
    found = of(settings)
    assert [day.ds for day in found.missing] == [DAYS[1]]
    assert stale(found) == {DAYS[3]: "its parent is 2026-01-01, and 2026-01-03 is trained now"}


def test_a_day_before_the_first_makes_the_cold_start_stale(settings: Settings) -> None:
    chain(settings, DAYS[1])
    commit(Lake(settings.lake), DAYS[0])
    train(settings, DAYS[0])
    assert stale(of(settings)) == {DAYS[1]: "a cold start, and 2026-01-01 is trained now"}


def files(folder: Path) -> dict[str, str]:
    return {str(path): file_sha256(path) for path in sorted(folder.rglob("*")) if path.is_file()}


def test_late_data_makes_a_new_version_and_leaves_the_published_one_alone(settings: Settings, recipe: Recipe) -> None:
    registry = Registry(settings)
    (day,) = chain(settings, DAYS[0])
    first = publish_tower(recipe, day, lambda: make_tower(recipe), settings=settings)
    registry.set_alias("tiny", "champion", first.number)
    first = registry.decide(first, "promoted", by="test", note="")
    sealed = files(day.path) | files(first.path)

    commit(Lake(settings.lake), DAYS[0], "late rows")
    again = train(settings, DAYS[0])
    second = publish_tower(recipe, again, lambda: make_tower(recipe, seed=1), settings=settings)

    assert second.number != first.number
    assert second.path != first.path
    assert registry.get("tiny", DAYS[0]) == second
    assert registry.number("tiny", first.number) == first, "tags, decision and path are those of before"
    assert registry.aliases("tiny") == {"champion": first.number, "candidate": second.number}
    assert files(day.path) | files(first.path) == sealed
    shown = [(link.revision, link.registered) for link in of(settings).links]
    assert [(revision, v and (v.number, v.decision, v.aliases)) for revision, v in shown] == [
        (0, (first.number, "promoted", ("champion",))),
        (1, (second.number, "pending", ("candidate",))),
    ]


def test_no_day_is_a_clear_error(settings: Settings) -> None:
    with pytest.raises(ValueError, match=r"tiny has no trained day under .*trainer train --recipe tiny"):
        of(settings)


def test_without_mlflow_it_is_still_printed(settings: Settings) -> None:
    chain(settings, *DAYS[:2])
    found = of(settings.model_copy(update={"mlflow_uri": "http://127.0.0.1:9"}))
    assert len(found.links) == 2
    assert found.registry is not None
    assert "does not answer" in found.registry


def test_the_command_prints_a_table_and_json(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    change = Change(outcome="fresh", why="the table is new", num_tensors=1, tensors=("user_place",))
    carried = CarriedOver(num_carried=80, num_fresh=1, changes=(change,))
    for ds in (DAYS[0], DAYS[2], DAYS[3]):
        commit(Lake(settings.lake), ds, model="demo")
    first = train(settings, DAYS[0], model="demo")
    train(settings, DAYS[2], parent=first, carried=carried, model="demo")
    train(settings, DAYS[3], parent=first, model="demo")
    monkeypatch.setenv("USERMODEL_HOME", str(settings.home))
    monkeypatch.setenv("USERMODEL_MLFLOW_URI", str(settings.mlflow_uri))
    get_settings.cache_clear()
    shown = CliRunner().invoke(cli, ["trainer", "lineage", "--recipe", "demo"])
    assert shown.exit_code == 0, shown.output
    for words in ("2026-01-02", "missing", "after a gap", "STALE", "fresh: the table is new: user_place", "to repair"):
        assert words in " ".join(shown.stdout.split())
    as_json = CliRunner().invoke(cli, ["trainer", "lineage", "--recipe", "demo", "--json"])
    document = json.loads(as_json.stdout)
    assert [link["gap_days"] for link in document["links"]] == [0, 1, 2]
    assert document["missing"] == [{"ds": "2026-01-02", "has_examples": False}]


def test_it_says_which_form_a_day_is_stored_in(settings: Settings, caplog: pytest.LogCaptureFixture) -> None:
    first, second = chain(settings, *DAYS[:2])
    stored = Stored(base_ds=first.ds, why_full="", num_bytes=10, full_bytes=100, touched={"user_topics": 0.1})
    shutil.rmtree(second.path)
    partial = partial_path(second.path, token="t")  # noqa: S106
    partial.mkdir()
    documents = {DOCUMENT: to_json(replace(second, stored=stored))}
    seal(partial, second.path, documents=documents, base=Base.of(first.path))
    assert [link.stored for link in of(settings).links] == ["full", f"increment of ds={first.ds}"]
    shutil.rmtree(first.path)
    with pytest.raises(ValueError, match="has no trained day"):
        of(settings)
    assert f"is an increment of {first.path}, which is missing" in caplog.text
