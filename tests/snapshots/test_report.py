from __future__ import annotations

from dataclasses import replace
from html.parser import HTMLParser

import pytest

from infra.settings import Settings
from snapshots.diagnosis import Cause
from snapshots.promotion import hold
from snapshots.registry import Registry
from snapshots.report import read_report, write_report
from snapshots.report.findings import find
from snapshots.report.html import render_page
from snapshots.report.render import render
from snapshots.shift.rows import ShiftRow
from tests.snapshots.days import FAR, judged_day, promoted_day
from tests.snapshots.world import DAYS, newest
from trainer import tracking
from trainer.recipe import Recipe

NASTY = "<script>alert('x')</script> | & \"quoted\""


class _Outline(HTMLParser):
    """The headings of a page, its plots, and what it would load or run."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.headings: list[str] = []
        self.plots = 0
        self.foreign: list[str] = []
        self._in_heading = False
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._in_heading = tag == "h2"
        self.plots += tag == "svg"
        if tag in ("script", "link", "img", "iframe") or any(name in ("src", "href") for name, _ in attrs):
            self.foreign.append(tag)

    def handle_data(self, data: str) -> None:
        if self._in_heading:
            self.headings.append(data)
            self._in_heading = False


def _headings(text: str) -> list[str]:
    return [line.removeprefix("## ") for line in text.splitlines() if line.startswith("## ")]


def test_the_report_tells_what_moved(recipe: Recipe, settings: Settings) -> None:
    for ds in range(3):
        promoted_day(recipe, ds, settings)
    report = write_report(recipe, DAYS[2], settings=settings)
    assert report.text == read_report(recipe, DAYS[2], settings=settings)
    assert report.text.startswith("# tiny 2026-01-03: PROMOTE")
    assert _headings(report.text) == ["What to do", "What moved", "Whose", "What it learnt", "Where to look"]
    assert "| as consumers see it, pooled over 3 | cosine_mean | 1.0000 | 1.0000 |" in report.text
    assert "| click | 0.9000 | 0.9000 | 0.0000 |" in report.text
    assert "| **roll back** | as of version 2 of 2026-01-02 |" in report.text
    outline = _Outline(report.page)
    assert outline.headings == [
        "The gate's rules", "What a decision changes", "What moved", "By dimension", "Whose", "What went in",
        "The days before", "What it learnt", "Where it comes from",
    ]  # fmt: skip
    assert outline.plots == 4 + 2 + 6 + 3, "histograms, dimensions, bands, what was learnt"
    assert not outline.foreign, "self-contained"
    client = Registry(settings).client
    found = {artifact.path for artifact in client.list_artifacts(newest(settings, DAYS[2]).run_id, "report")}
    assert found == {"report/report.html", "report/report.md"}
    trend = tracking.find_run(client, tracking.experiment(client, "tiny"), {"kind": "trend"})
    assert {name.partition("/")[0] for name in trend.data.metrics} == {
        "ne", "calibration", "auc", "shift same_inputs", "shift consecutive_days",
    }  # fmt: skip
    assert len(trend.data.metrics) == 3 + 2 * 2 * 2, "two statistics of two embeddings, by model alone and pooled"
    description = client.get_model_version("tiny", "3").description
    for words in ("from version 2 of 2026-01-02", "The gate says **promote**", "| click | 0.9000 | +0.0000 |"):
        assert words in description


def test_usual_is_the_median_of_the_promoted_days(recipe: Recipe, settings: Settings) -> None:
    for ds in range(2):
        promoted_day(recipe, ds, settings)
    judged_day(recipe, 2, settings, noise=FAR)
    hold(recipe, DAYS[2], settings=settings)
    judged_day(recipe, 3, settings)
    findings = find(recipe, DAYS[3], settings=settings)
    assert [day.version.ds for day in findings.past] == DAYS[:3]
    name = "shift consecutive_days/cosine_mean 0 pooling 3"
    (before,) = (row.value for row in findings.past[1].rows if row.name == name)
    assert findings.usual()[name].median == before, "the first day has none, the held one does not count"
    assert findings.visible is not None
    text = render(findings)
    assert "Consumers read 2026-01-02 (version 2), 2 days behind 2026-01-04." in text
    assert "stay on 2026-01-02, 2 days behind and one more each day" in text
    assert "| **promote** | move to 2026-01-04 | version 2 of 2026-01-02 → version 4 of 2026-01-04 |" in text


def test_the_first_day_has_little_to_say(recipe: Recipe, settings: Settings) -> None:
    judged_day(recipe, 0, settings)
    report = write_report(recipe, DAYS[0], settings=settings)
    assert "Nothing to compare with" in report.text
    assert "Nothing to compare with" in report.page
    assert "Consumers read nothing yet" in report.text
    assert "| **promote** | move to 2026-01-01 | none → version 1 of 2026-01-01 |" in report.text
    assert _Outline(report.page).plots == 3


def test_slices_and_a_cause_are_shown_where_there_are_any(recipe: Recipe, settings: Settings) -> None:
    for ds in range(2):
        promoted_day(recipe, ds, settings)
    found = find(recipe, DAYS[1], settings=settings)
    rows = [
        ShiftRow(
            version=2, kind="consecutive_days", metric="cosine_mean", embedding=0, pooling="3", users=users,
            value=value, num_users=num_users,
        )
        for users, value, num_users in (("new", 0.91, 7), ("heavy", 0.5, 3))
    ]  # fmt: skip
    found = replace(
        found, rows=[*found.rows, *rows], causes=(Cause(kind="broken-feature", sentence="Feature age: all zeros."),)
    )
    text, page = render(found), render_page(found, ())
    assert _headings(text)[:4] == ["Probable cause", "What to do", "What moved", "Whose"]
    lines = text.splitlines()
    assert [line.split(" | ")[:2] for line in lines if line.startswith(("| all", "| new", "| heavy"))] == [
        ["| all", "39"], ["| heavy", "3"], ["| new", "7"],
    ]  # fmt: skip
    assert {"Probable cause", "Whose"} <= set(_Outline(page).headings)


def test_what_people_wrote_stays_text(recipe: Recipe, settings: Settings) -> None:
    promoted_day(recipe, 0, settings)
    found = find(recipe, DAYS[0], settings=settings)
    nasty = replace(
        found,
        decision=replace(found.decision, verdict="hold", reasons=(NASTY,)),
        causes=(Cause(kind="unknown", sentence=NASTY),),
        version=replace(found.version, run_id=NASTY),
    )
    page = render_page(nasty, ())
    assert not _Outline(page).foreign
    assert page.count("&lt;script&gt;") == 3, "reason, cause, run"
    text = render(nasty)
    (reason,) = (line for line in text.splitlines() if line.startswith("- &lt;"))
    assert reason == "- &lt;script>alert('x')&lt;/script> \\| &amp; \"quoted\""


def test_a_comparison_that_could_not_be_made_says_why(recipe: Recipe, settings: Settings) -> None:
    for ds in range(2):
        promoted_day(recipe, ds, settings)
    found = find(recipe, DAYS[1], settings=settings)
    row = ShiftRow(
        version=2, kind="same_inputs", metric="predecessor", embedding=None, pooling="none", value=0.0, num_users=0,
        note="version 1 reads ['height'], which the day lacks",
    )  # fmt: skip
    found = replace(found, rows=[row])
    for shown in (render(found), render_page(found, ())):
        assert "same_inputs could not be measured: version 1 reads [" in shown


@pytest.mark.parametrize("pooling_versions", [1, 3])
def test_what_follows_a_promotion(recipe: Recipe, settings: Settings, pooling_versions: int) -> None:
    recipe = replace(recipe, pooling_versions=pooling_versions)
    judged_day(recipe, 0, settings)
    text = read_report(recipe, DAYS[0], settings=settings)
    assert ("the next 2 days are pooled with it" in text) == (pooling_versions == 3)
