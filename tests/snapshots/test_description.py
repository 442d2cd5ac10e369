from __future__ import annotations

from dataclasses import replace
from datetime import date
from pathlib import Path

import pytest

from snapshots.description import describe
from snapshots.gate import Decision
from snapshots.metrics import metrics_tags
from snapshots.registry import Version
from snapshots.runs import Links

METRICS = {"click": {"ne": 0.1 + 0.2, "auc": None, "examples": 60_000.0}, "like": {"ne": 1e-17}}
VERSION = Version(
    model="tiny",
    number=2,
    ds=date(2026, 1, 2),
    fingerprint="f",
    parent=None,
    path=Path("/snapshots/tiny"),
    run_id="r",
    decision="pending",
    tags={"code_version": "0123456789abcdef", "plan": "2 ranks on 1 host (cpu), tables: 8 table_wise"}
    | metrics_tags(METRICS),
)


def test_metrics_are_short_tags_and_exact() -> None:
    assert VERSION.metrics == METRICS
    assert VERSION.tags["metrics.like"] == "ne=1e-17"


def test_metrics_of_an_older_version_are_read() -> None:
    assert replace(VERSION, tags={"metrics": '{"click": {"ne": 0.5}}'}).metrics == {"click": {"ne": 0.5}}


@pytest.mark.parametrize(
    ("parent", "tags", "words"),
    [
        pytest.param(None, {}, "a cold start", id="cold start"),
        pytest.param(None, {"parent_ds": "2026-01-01"}, "from 2026-01-01, which is not published", id="unpublished"),
        pytest.param(replace(VERSION, number=1), {}, "from version 1 of 2026-01-02", id="parent"),
    ],
)
def test_where_it_comes_from(parent: Version | None, tags: dict[str, str], words: str) -> None:
    text = describe(replace(VERSION, tags={**VERSION.tags, **tags}), parent, links=Links())
    assert words in text.splitlines()[0]
    assert "- plan: 2 ranks on 1 host (cpu), tables: 8 table_wise" in text
    assert "The gate says" not in text, "nobody has judged it"
    assert "](" not in text, "a store without pages has no links"


def test_a_long_verdict_is_cut_and_linked() -> None:
    reasons = tuple(f"reason {i} | <b>" + "x" * 2_000 for i in range(30))
    decision = Decision(model="tiny", ds=VERSION.ds, version=2, verdict="hold", reasons=reasons, checks=())
    links = Links(report="http://m/report", trend="http://m/trend", run="http://m/run")
    text = describe(VERSION, None, links=links, decision=decision)
    assert len(text) <= 5_000
    assert "The gate says **hold**:" in text
    assert "- and 24 more, in the report" in text
    assert "[Report with plots](http://m/report)" in text
    assert "<b>" not in text
