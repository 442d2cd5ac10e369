"""A version that learnt some of a day's examples says which, and is judged by those; every user is embedded."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pyarrow as pa
import pytest

from features.arrow import examples_schema
from features.lake import Lake
from features.selection import Selection
from infra.settings import Settings
from snapshots.description import describe
from snapshots.export import CONTRACT, read_contract
from snapshots.gate import gate
from snapshots.inference import infer
from snapshots.judgement.values import count_values
from snapshots.learnt import num_learnt, where_learnt
from snapshots.publish import publish_tower
from snapshots.registry import Registry, Version
from snapshots.report import read_report, write_report
from snapshots.runs import Links
from snapshots.shift.measure import check_shift
from tests.snapshots.world import DAYS, TinySource, commit_users, make_tower, newest, tiny_recipe, trained_day

MORNING = (Selection(column="place", values=(0, 1)),)
"""`place` is the hour's quarter of the day: the examples before noon."""
DS = DAYS[0]


@pytest.fixture
def version(settings: Settings, lake: Lake) -> Version:
    """240 examples, ten an hour, of which 120 were learnt; a third of them are positive."""
    recipe = replace(tiny_recipe(), examples=MORNING, slices=("place",))
    commit_users(lake, DS, range(40))
    trained = trained_day(DS, settings=settings)
    start = datetime(DS.year, DS.month, DS.day, tzinfo=UTC)
    rows = [
        {"user_id": i % 40, "event_time": start + timedelta(minutes=6 * i), "liked": [], "seen": [],
         "place": [i // 60], "age": 1.0, "click": int(i % 3 == 0)}
        for i in range(240)
    ]  # fmt: skip
    table = pa.Table.from_pylist(rows, schema=examples_schema(TinySource().schema))
    examples = lake.commit("examples/tiny", DS, table, fingerprint="e" * 20)
    trained = replace(trained, examples=examples, num_examples=120, where=MORNING)
    publish_tower(recipe, trained, lambda: make_tower(recipe), settings=settings)
    infer(recipe, DS, settings=settings)
    check_shift(recipe, DS, settings=settings)
    return newest(settings, DS)


def test_it_says_what_it_learnt(version: Version, settings: Settings) -> None:
    assert num_learnt(version) == 120
    assert where_learnt(version) == " where place in [0, 1]"
    at = version.tags["examples.table_version"]
    assert f"- examples: `examples/tiny`, version {at} where place in [0, 1]" in describe(version, None, links=Links())
    assert read_contract(version.path).examples == MORNING
    assert json.loads((version.path / CONTRACT).read_text())["examples"] == [{"column": "place", "values": [0, 1]}]
    run = Registry(settings).client.get_run(version.run_id)
    assert run.data.params["examples"] == "place in [0, 1]"


def test_the_gate_and_its_report_are_about_what_was_learnt(version: Version, settings: Settings, lake: Lake) -> None:
    recipe = replace(tiny_recipe(), examples=MORNING)
    counts = {value.metric: value.value for value in count_values(version, lake)}
    assert counts == {"users": 40, "examples": 120, "coverage": 1}
    shift = {row.metric: row.value for row in check_shift(recipe, DS, settings=settings).rows if row.kind == "inputs"}
    assert (shift["num_examples"], shift["positives_click"], shift["num_users"]) == (120, 40, 40)
    assert shift["span_hours"] == pytest.approx(11.9)
    gate(recipe, DS, settings=settings)
    write_report(recipe, DS, settings=settings)
    at = version.tags["examples.table_version"]
    report = read_report(recipe, DS, settings=settings)
    assert f"`examples/tiny` at version {at} where place in [0, 1], `user_features/tiny`" in report

    tags = {
        name: tag for name, tag in version.tags.items() if not name.startswith(("examples.learnt", "examples.where"))
    }
    old = replace(version, tags=tags)
    assert (num_learnt(old), where_learnt(old)) == (None, "")
    assert {value.metric: value.value for value in count_values(old, lake)}["examples"] == 240, "of its partition"
