"""The report as Markdown, short enough for 3 a.m.; the HTML page has the rest."""

from __future__ import annotations

from collections.abc import Iterator

from snapshots.diagnosis import RUNBOOKS
from snapshots.learnt import where_learnt
from snapshots.markdown import Raw, md_table, md_text
from snapshots.page.html import number
from snapshots.registry import partition_from
from snapshots.report.consequences import afterwards, choices, now
from snapshots.report.findings import Findings
from snapshots.report.tables import (
    Cell,
    Context,
    embedding_name,
    embeddings_of,
    input_table,
    measured,
    moved_table,
    slice_table,
)
from snapshots.shift.rows import EVERYONE, PREDECESSOR

HEADLINES = {
    "promote": "PROMOTE: every rule is kept",
    "hold": "HOLD: a person decides",
    "reject": "REJECT: not fit for consumers",
}
_SLICES_SHOWN = 8
_MADE_FROM = ("examples", "user_features", "embeddings")
_INPUTS_SHOWN = 8


def render(findings: Findings) -> str:
    """Markdown: the verdict and why; what moved, whose, what it learnt; what can be done; where to look further."""
    sections = (_verdict, _causes, _choices, _moved, _slices, _inputs, _learnt, _further)
    lines = [line for section in sections for line in (*section(findings), "")]
    return "\n".join(line for i, line in enumerate(lines) if line or (i and lines[i - 1])).rstrip() + "\n"


def _verdict(findings: Findings) -> Iterator[str]:
    version, decision = findings.version, findings.decision
    yield f"# {version.model} {version.ds}: {HEADLINES[decision.verdict]}"
    yield ""
    if decision.reasons:
        yield from (f"- {md_text(reason)}" for reason in decision.reasons)
        yield ""
    kept = sum(check.verdict == "promote" for check in decision.checks)
    text = (
        f"Version {version.number}, decision: **{version.decision}**; {kept} of {len(decision.checks)} rules are kept."
    )
    yield f"{text} {now(findings)}"


def _causes(findings: Findings) -> Iterator[str]:
    if findings.causes:
        yield "## Probable cause"
        yield ""
        yield from (f"{i}. {md_text(c.sentence)} See `{c.runbook}`." for i, c in enumerate(findings.causes, start=1))


def _choices(findings: Findings) -> Iterator[str]:
    yield "## What to do"
    yield ""
    rows = [(f"**{c.name}**", c.consumers, c.champion, f"`{c.command}`") for c in choices(findings)]
    yield from md_table(("to", "consumers then", "champion", "run"), [[Raw(cell) for cell in row] for row in rows])
    for line in afterwards(findings):
        yield ""
        yield line


def _moved(findings: Findings) -> Iterator[str]:
    yield "## What moved"
    yield ""
    for row in findings.rows:
        if row.metric == PREDECESSOR and row.note:
            yield f"- {row.kind} could not be measured: {md_text(row.note)}"
    if not (rows := measured(findings.rows)):
        yield "Nothing to compare with: no earlier day is promoted."
        return
    since = f"Since {findings.previous.ds}. " if findings.previous else ""
    yield f"{since}Usual: the median of the promoted days of the two weeks before."
    yield ""
    shown, found = (moved_table(rows, Context.of(findings), everything=every) for every in (False, True))
    columns = embeddings_of(row for row in rows if row.users == EVERYONE)
    headings = [f for k in columns for f in (embedding_name(k), "usual")]
    yield from md_table(
        ("compared", "metric", *headings, "users"),
        [
            (moved.compared, moved.metric, *(part for cell in moved.cells for part in _cells(cell)), moved.num_users)
            for moved in shown
        ],
    )
    if len(found) > len(shown):
        yield ""
        yield f"Bold: far from the usual, or held by the gate. {len(found) - len(shown)} more are in the page."


def _cells(cell: Cell) -> tuple[object, object]:
    """The value, pointed at where it is far from the usual."""
    return (Raw(f"**{number(cell.value)}**") if cell.far else cell.value), cell.usual


def _inputs(findings: Findings) -> Iterator[str]:
    far = [of for of in input_table(findings.rows, Context.of(findings)) if of.cell.far]
    if not far:
        return
    yield "## What went in, where it is unusual"
    yield ""
    yield from md_table(
        ("feature", "metric", "today", "usual"),
        [(of.feature or "the day", of.metric, *_cells(of.cell)) for of in far[:_INPUTS_SHOWN]],
    )
    if len(far) > _INPUTS_SHOWN:
        yield ""
        yield f"{len(far) - _INPUTS_SHOWN} more are in the page with plots."


def _slices(findings: Findings) -> Iterator[str]:
    columns, slices = slice_table(findings.rows)
    if not slices:
        return
    yield "## Whose"
    yield ""
    headings = [f"{metric} {'' if k is None else k}" for metric, k in columns]
    yield from md_table(
        ("users", "how many", *headings), [(of.users, of.num_users, *of.values) for of in slices[: 1 + _SLICES_SHOWN]]
    )
    if len(slices) > 1 + _SLICES_SHOWN:
        yield ""
        yield f"{len(slices) - 1 - _SLICES_SHOWN} more slices moved less; they are in the page with plots."


def _learnt(findings: Findings) -> Iterator[str]:
    before = findings.parent.metrics if findings.parent else {}
    usual = {task: of.median for task, of in findings.usual_ne().items()}
    yield "## What it learnt"
    yield ""
    rows = []
    for task, values in sorted(findings.version.metrics.items()):
        ne, ne_before = values.get("ne"), before.get(task, {}).get("ne")
        change = None if ne is None or ne_before is None else ne - ne_before
        rows.append((task, ne, ne_before, change, usual.get(task), values.get("calibration"), values.get("auc")))
    yield from md_table(("task", "NE", "parent's NE", "change", "usual NE", "calibration", "AUC"), rows)


def _further(findings: Findings) -> Iterator[str]:
    version, links = findings.version, findings.links
    yield "## Where to look"
    yield ""
    if links.report:
        yield f"- [this report with plots]({links.report}), [the version]({links.version}), [the trend]({links.trend})"
    else:
        yield f"- with plots: artifact `report/report.html` of MLflow run {version.run_id}"
    runbooks = dict.fromkeys(f"{RUNBOOKS}/{check.about}.md" for check in findings.decision.grave)
    yield from (f"- runbook: `{path}`" for path in runbooks)
    if findings.parent is not None:
        compare = f"usermodel snapshots compare {findings.parent.number} {version.number} --recipe {version.model}"
        yield f"- against its parent, {findings.parent.described()}: `{compare}`"
    tables = {name: partition_from(version.tags, name, version.ds) for name in _MADE_FROM}
    where = {"examples": where_learnt(version)}
    read = ", ".join(
        f"`{of.table}` at version {of.version}{where.get(name, '')}" for name, of in tables.items() if of is not None
    )
    yield f"- made from {read}; code {version.tags['code_version'][:12]}"
