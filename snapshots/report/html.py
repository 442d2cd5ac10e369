"""The report as one self-contained HTML page with plots."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from snapshots.judgement.check import SEVERITY
from snapshots.learnt import where_learnt
from snapshots.movement import Movement
from snapshots.page.html import Html, bar, folded, number, page, section, table, tag
from snapshots.page.svg import Line, column_plot, histogram, line_plot
from snapshots.registry import Version, partition_from
from snapshots.report.consequences import afterwards, choices, now
from snapshots.report.findings import Findings
from snapshots.report.render import HEADLINES
from snapshots.report.sample import Sampled
from snapshots.report.tables import (
    Cell,
    Context,
    Input,
    Moved,
    embedding_name,
    embeddings_of,
    input_table,
    kind_of,
    measured,
    moved_table,
    slice_table,
)
from snapshots.shift.rows import EVERYONE, PREDECESSOR

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_BANDED = ("cosine", "norm_change")
_HISTOGRAMS: Mapping[str, Callable[[Movement], NDArray[np.float64]]] = {
    "cosine to the last promoted day": lambda moved: moved.cosine,
    "relative change of the norm": lambda moved: moved.norm_change,
}


def render_page(findings: Findings, sampled: Sequence[Sampled]) -> str:
    """The document. sampled: of users since the last promoted day; none without one."""
    version = findings.version
    return page(
        f"{version.model} {version.ds}: {findings.decision.verdict}",
        *_head(findings),
        _rules(findings),
        _choices(findings),
        _moved(findings, sampled),
        _dimensions(sampled),
        _slices(findings),
        _inputs(findings),
        _days(findings),
        _learnt(findings),
        _lineage(findings),
    )


def _head(findings: Findings) -> Iterator[Html]:
    version, decision = findings.version, findings.decision
    badge = tag("span", decision.verdict, class_=f"badge {decision.verdict}")
    yield tag("h1", badge, f" {version.model} {version.ds}, version {version.number}")
    yield tag("p", f"{HEADLINES[decision.verdict]}. When this was written it was {version.decision}. {now(findings)}")
    if decision.reasons:
        yield tag("ul", *(tag("li", reason) for reason in decision.reasons))
    if findings.causes:
        items = [tag("li", cause.sentence, " ", tag("code", cause.runbook)) for cause in findings.causes]
        yield section("Probable cause", tag("ol", *items))


def _rules(findings: Findings) -> Html:
    checks = sorted(findings.decision.checks, key=lambda check: -SEVERITY[check.verdict])
    return section(
        "The gate's rules",
        table(
            ("what", "value", "usual", "threshold", "rule", "asks for", "runbook"),
            [(c.name, c.value, c.usual, c.threshold, c.rule, c.verdict, f"{c.about}.md") for c in checks],
            classes=[check.verdict for check in checks],
        ),
    )


def _choices(findings: Findings) -> Html:
    rows = [(c.name, c.consumers, c.champion, tag("code", c.command)) for c in choices(findings)]
    lines = [tag("p", line.replace("`", "")) for line in afterwards(findings)]
    return section("What a decision changes", table(("to", "consumers then", "champion", "run"), rows), *lines)


def _moved(findings: Findings, sampled: Sequence[Sampled]) -> Html:
    notes = [
        tag("p", f"{row.kind} could not be measured: {row.note}")
        for row in findings.rows
        if row.metric == PREDECESSOR and row.note
    ]
    rows = measured(findings.rows)
    if not rows:
        return section("What moved", *notes, tag("p", "Nothing to compare with: no earlier day is promoted."))
    columns = embeddings_of(row for row in rows if row.users == EVERYONE)
    headings = [f for k in columns for f in (embedding_name(k), "usual")]
    moved, everything = (moved_table(rows, Context.of(findings), everything=every) for every in (False, True))
    return section(
        "What moved",
        *notes,
        *_histograms(findings, sampled),
        _moved_rows(moved, headings),
        folded(f"every metric: {len(everything)}", _moved_rows(everything, headings))
        if len(everything) > len(moved)
        else None,
    )


def _moved_rows(moved: Sequence[Moved], headings: Sequence[str]) -> Html:
    return table(
        ("compared", "metric", *headings, "users"),
        [(m.compared, m.metric, *(part for cell in m.cells for part in _cells(cell)), m.num_users) for m in moved],
    )


def _cells(cell: Cell) -> tuple[object, object]:
    """The value, pointed at where it is far from the usual."""
    return (tag("td", tag("b", number(cell.value)), class_="num far") if cell.far else cell.value), cell.usual


def _inputs(findings: Findings) -> Html | None:
    found = input_table(findings.rows, Context.of(findings))
    if not found:
        return None
    far = [of for of in found if of.cell.far or not of.feature]
    return section("What went in", _input_rows(far), folded(f"every feature: {len(found)} numbers", _input_rows(found)))


def _input_rows(found: Sequence[Input]) -> Html:
    return table(
        ("feature", "metric", "today", "usual"),
        [(of.feature or "the day", of.metric, *_cells(of.cell)) for of in found],
    )


def _histograms(findings: Findings, sampled: Sequence[Sampled]) -> Iterator[Html]:
    if not sampled:
        return
    since = findings.previous.ds if findings.previous else "the last promoted day"
    num_users = sampled[0].movement.num_users
    yield tag("p", f"{num_users:,} users, a sample of those of both {since} and {findings.ds}.", class_="dim")
    plots = [
        histogram(
            f"{title}, {'pooled' if pooled else 'as computed'}",
            {embedding_name(of.embedding): values(of.movement) for of in sampled if of.pooled == pooled},
        )
        for pooled in (True, False)
        for title, values in _HISTOGRAMS.items()
    ]
    yield tag("div", *plots, class_="plots")


def _sampled_name(of: Sampled) -> str:
    return f"{embedding_name(of.embedding)}, {'pooled' if of.pooled else 'as computed'}"


def _dimensions(sampled: Sequence[Sampled]) -> Html | None:
    if not sampled:
        return None
    plots = [
        column_plot(
            f"embedding {k}", {_sampled_name(of): of.dimensions.tolist() for of in sampled if of.embedding == k}
        )
        for k in sorted({of.embedding for of in sampled})
    ]
    return section(
        "By dimension",
        tag("p", "Mean absolute change of each dimension, in standard deviations over the users before.", class_="dim"),
        tag("div", *plots, class_="plots"),
    )


def _slices(findings: Findings) -> Html | None:
    columns, slices = slice_table(findings.rows)
    if not slices:
        return None
    everyone = max(of.num_users for of in slices) or 1
    headings = [f"{metric} {'' if k is None else k}" for metric, k in columns]
    rows = [(of.users, of.num_users, bar(of.num_users / everyone), *of.values) for of in slices]
    return section("Whose", table(("users", "how many", "share", *headings), rows))


def _days(findings: Findings) -> Html | None:
    """Mean and the band of 5 % to 95 % of the users, over the trailing days."""
    days = [*((day.version, day.rows) for day in findings.past), (findings.version, findings.rows)]
    groups = dict.fromkeys(
        (row.kind, row.pooling, statistic)
        for _, rows in days
        for row in measured(rows)
        for statistic in _BANDED
        if row.metric == f"{statistic}_mean" and row.users == EVERYONE
    )
    if len(days) < 2 or not groups:
        return None
    labels = [f"{version.ds:%m-%d}" for version, _ in days]
    by_name = [
        {(r.kind, r.pooling, r.metric, r.embedding): r.value for r in rows if r.users == EVERYONE} for _, rows in days
    ]
    plots = []
    for kind, pooling, statistic in sorted(groups, key=lambda g: (g[2], g[0], g[1] == "none")):
        lines = []
        for k in embeddings_of(row for row in findings.rows if row.metric == f"{statistic}_mean"):
            series = {
                part: [of.get((kind, pooling, f"{statistic}_{part}", k)) for of in by_name]
                for part in ("mean", "p05", "p95")
            }
            lines.append(Line(name=embedding_name(k), values=series["mean"], low=series["p05"], high=series["p95"]))
        plots.append(line_plot(f"{statistic}, {kind_of(kind, pooling)}", lines, labels))
    return section(
        "The days before",
        tag("p", "Mean over the users; the band holds 90 % of them.", class_="dim"),
        tag("div", *plots, class_="plots"),
    )


def _learnt(findings: Findings) -> Html:
    versions = [*(day.version for day in findings.past), findings.version]
    tasks = sorted({task for version in versions for task in version.metrics})
    labels = [f"{version.ds:%m-%d}" for version in versions]
    low, high = findings.recipe.gate.calibration
    plots = [
        line_plot(
            title,
            [Line(name=task, values=[_metric(version, task, metric) for version in versions]) for task in tasks],
            labels,
            limits=limits,
        )
        for title, metric, limits in (
            ("NE, progressive", "ne", ()),
            ("calibration", "calibration", (low, high)),
            ("AUC", "auc", ()),
        )
    ]
    rows = [
        (task, *(of.get(name) for name in ("ne", "calibration", "auc", "ctr", "positives", "examples")))
        for task, of in sorted(findings.version.metrics.items())
    ]
    return section(
        "What it learnt",
        table(("task", "NE", "calibration", "AUC", "rate", "positives", "examples"), rows),
        tag("div", *plots, class_="plots"),
    )


def _metric(version: Version, task: str, metric: str) -> float | None:
    return version.metrics.get(task, {}).get(metric)


def _lineage(findings: Findings) -> Html:
    version = findings.version
    parent = findings.parent.described() if findings.parent else "none: a cold start"
    rows: list[tuple[object, object]] = [("parent", parent)]
    for name in ("examples", "user_features", "embeddings", "shift"):
        partition = partition_from(version.tags, name, version.ds)
        if partition is not None:
            where = where_learnt(version) if name == "examples" else ""
            rows.append((name, f"{partition.table}, version {partition.version} ({partition.fingerprint}){where}"))
    rows += [
        ("snapshot", tag("code", version.reference)),
        ("manifest SHA-256", tag("code", version.tags["manifest_sha256"])),
        *((name, version.tags[name]) for name in ("checkpoint", "plan", "code_version") if name in version.tags),
        ("MLflow run", version.run_id),
    ]
    return section("Where it comes from", table(("", ""), rows))
