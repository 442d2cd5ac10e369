"""The day's report for the person on call: the verdict first, then what moved, then what to do."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING

from features.lake import Lake
from infra.settings import Settings
from snapshots.gate import Decision, gate
from snapshots.registry import Registry, Version, partition_from
from snapshots.runs import log_files
from snapshots.shift.consecutive_days import day_movements
from snapshots.shift.pair import compared
from snapshots.shift.rows import EVERYONE, ShiftRow, read_rows

if TYPE_CHECKING:
    from trainer.recipe import Recipe

HEADLINES = {
    "promote": "PROMOTE: every rule is kept",
    "hold": "HOLD: a person decides",
    "reject": "REJECT: not fit for consumers",
}
KINDS = {
    "same_inputs": "the model alone (same inputs)",
    "consecutive_days": "consecutive days",
}


@dataclass(frozen=True, kw_only=True)
class Report:
    """text: Markdown. plot: a PNG of how far each user moved; None on a day without a predecessor."""

    text: str
    path: Path
    plot: Path | None


@dataclass(frozen=True, kw_only=True)
class Findings:
    """All that the report says, read from the registry and the lake."""

    recipe: Recipe
    version: Version
    decision: Decision
    champion: Version | None
    parent: Version | None
    previous: Version | None
    rows: Sequence[ShiftRow]
    rows_before: Sequence[ShiftRow]


def read_report(recipe: Recipe, ds: date, *, settings: Settings) -> str:
    """The day's report, as Markdown. ValueError names the step that has not run."""
    return render(find(recipe, ds, settings=settings))


def write_report(recipe: Recipe, ds: date, *, settings: Settings) -> Report:
    """The report and its plot, under `<home>/reports/<model>` and with the version's run in MLflow."""
    registry, lake = Registry(settings), Lake(settings.lake)
    findings = find(recipe, ds, settings=settings)
    folder = settings.home / "reports" / recipe.name
    folder.mkdir(parents=True, exist_ok=True)
    report = Report(text=render(findings), path=folder / f"{ds}.md", plot=None)
    report.path.write_text(report.text, encoding="utf-8")
    moved = {
        f"embedding {k}, pooling {recipe.pooling_versions if prefix == 'pooled' else 'none'}": found
        for (prefix, k), found in day_movements(recipe, compared(recipe, ds, registry=registry, lake=lake), lake)
        if found.num_users
    }
    if moved:
        from snapshots.plot import plot_movements

        plot = folder / f"{ds}.png"
        plot_movements(moved, plot, title=f"{recipe.name} {ds}: movement since the last promoted day")
        report = Report(text=report.text, path=report.path, plot=plot)
    log_files(registry, findings.version, [f for f in (report.path, report.plot) if f], folder="report")
    return report


def find(recipe: Recipe, ds: date, *, settings: Settings) -> Findings:
    """Gather what the report says."""
    registry, lake = Registry(settings), Lake(settings.lake)
    decision = gate(recipe, ds, settings=settings)
    version = registry.get(recipe.name, ds)
    shift = partition_from(version.tags, "shift", ds)
    promoted = registry.promoted(recipe.name, before=ds)
    previous = promoted[0] if promoted else None
    shift_before = partition_from(previous.tags, "shift", previous.ds) if previous else None
    return Findings(
        recipe=recipe,
        version=version,
        decision=decision,
        champion=registry.alias(recipe.name, "champion"),
        parent=None if version.parent is None else registry.number(recipe.name, version.parent),
        previous=previous,
        rows=read_rows(lake, shift) if shift else (),
        rows_before=read_rows(lake, shift_before) if shift_before else (),
    )


def render(findings: Findings) -> str:
    """Markdown."""
    sections = (_verdict, _moved, _learnt, _what_to_do, _lineage)
    return "\n".join(line for section in sections for line in (*section(findings), ""))


def _verdict(findings: Findings) -> Iterator[str]:
    version, decision, champion = findings.version, findings.decision, findings.champion
    yield f"# {version.model} {version.ds}: {HEADLINES[decision.verdict]}"
    yield ""
    champion_text = "there is no champion yet" if champion is None else f"the champion is {champion.described()}"
    yield f"Version {version.number}, decision: **{version.decision}**; {champion_text}."
    yield ""
    if decision.reasons:
        yield from (f"- {reason}" for reason in decision.reasons)
    else:
        yield f"All {len(decision.checks)} rules are kept."


def _moved(findings: Findings) -> Iterator[str]:
    yield "## What moved"
    yield ""
    if findings.previous is None:
        yield "Nothing to compare with: no earlier day is promoted."
        return
    yield (
        f"Against {findings.previous.ds}; mean over the users (5th … 95th percentile). "
        "Before: the mean of the promoted day before."
    )
    yield ""
    yield "| compared | embedding | pooling | cosine | before | norm change | before | users |"
    yield "|---|---|---|---|---|---|---|---|"
    before = {_key(row): row.value for row in findings.rows_before if row.users == EVERYONE}
    rows = {_key(row): row for row in findings.rows if row.users == EVERYONE}
    groups = {_key(row)[:3]: row for row in rows.values() if row.embedding is not None and row.kind in KINDS}
    for group, any_row in groups.items():
        cells: list[object] = []
        for metric in ("cosine", "norm_change"):
            mean, low, high = (rows[*group, f"{metric}_{name}"].value for name in ("mean", "p05", "p95"))
            cells += [f"{mean:.3f} ({low:.3f} … {high:.3f})", before.get((*group, f"{metric}_mean"))]
        yield _row(KINDS[any_row.kind], any_row.embedding, any_row.pooling, *cells, any_row.num_users)


def _key(row: ShiftRow) -> tuple[str, int | None, str, str]:
    return row.kind, row.embedding, row.pooling, row.metric


def _learnt(findings: Findings) -> Iterator[str]:
    before = findings.parent.metrics if findings.parent else {}
    yield "## What it learnt"
    yield ""
    yield "| task | NE | version before | change | calibration | AUC |"
    yield "|---|---|---|---|---|---|"
    for task, values in sorted(findings.version.metrics.items()):
        ne, ne_before = values.get("ne"), before.get(task, {}).get("ne")
        change = None if ne is None or ne_before is None else ne - ne_before
        yield _row(task, ne, ne_before, change, values.get("calibration"), values.get("auc"))


def _what_to_do(findings: Findings) -> Iterator[str]:
    model, ds = findings.version.model, findings.version.ds
    champion = findings.champion.ds if findings.champion else "no day"
    day = f"--recipe {model} --ds {ds}"
    yield "## What to do"
    yield ""
    if findings.version.decision == "promoted":
        yield f"Consumers read {ds}. To undo: `usermodel snapshots rollback --recipe {model}`, seconds."
        return
    yield f"Until somebody decides, nothing changes for consumers: they stay on {champion}."
    yield ""
    yield f"1. NE up, or calibration off: look at the day's rejected rows, `usermodel features build {day}`."
    yield "2. The model alone moved (same inputs): the training went astray; compare NE, then reject."
    yield "3. Only the consecutive days moved: the users did (an event, a broken feature); see the features."
    yield "4. Decide:"
    yield ""
    yield "| to | run | what it does |"
    yield "|---|---|---|"
    if findings.champion is not None and findings.champion.ds > ds:
        yield f"| promote | `usermodel snapshots promote {day} --allow-older` | consumers see it; the champion stays |"
    else:
        yield f"| promote | `usermodel snapshots promote {day}` | champion and consumers move to {ds} |"
    yield f"| keep on hold | `usermodel snapshots hold {day}` | consumers stay on {champion} |"
    yield f"| refuse | `usermodel snapshots reject {day}` | consumers stay on {champion}, for good |"
    yield f"| undo | `usermodel snapshots rollback --recipe {model}` | the champion before, in seconds |"


def _lineage(findings: Findings) -> Iterator[str]:
    tags = findings.version.tags
    yield "## Where it comes from"
    yield ""
    parent = findings.parent.described() if findings.parent else "none"
    yield f"- parent: {parent}"
    for name in ("examples", "user_features", "embeddings", "shift"):
        partition = partition_from(tags, name, findings.version.ds)
        if partition is not None:
            yield f"- {name}: `{partition.table}`, version {partition.version} ({partition.fingerprint})"
    yield f"- snapshot: `{findings.version.path}`, manifest SHA-256 {tags['manifest_sha256']}"
    yield f"- code: {tags['code_version']}"


def _row(*cells: object) -> str:
    texts = ("" if c is None else f"{c:.4f}" if isinstance(c, float) else str(c) for c in cells)
    return f"| {' | '.join(texts)} |"
