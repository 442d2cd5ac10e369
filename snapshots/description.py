"""What MLflow shows at the head of a version's page: what a person asks first, in Markdown."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from snapshots.learnt import where_learnt
from snapshots.markdown import Raw, md_table, md_text
from snapshots.registry import Version, partition_from
from snapshots.runs import Links

if TYPE_CHECKING:
    from snapshots.gate import Decision

_MOST_CHARACTERS = 5_000  # MLflow's own limit
_REASONS_SHOWN = 6


def describe(version: Version, parent: Version | None, *, links: Links, decision: Decision | None = None) -> str:
    """Day, parent, verdict and why, metrics, what it was made from, and links. Short enough for MLflow."""
    parts = (_origin(version, parent), _verdict(decision), _links(links), _metrics(version, parent), _lineage(version))
    return "\n".join(line for part in parts for line in (*part, "")).strip()[:_MOST_CHARACTERS]


def _origin(version: Version, parent: Version | None) -> Iterator[str]:
    if parent is not None:
        yield f"**{version.ds}**, from version {parent.number} of {parent.ds}."
    elif before := version.tags.get("parent_ds"):
        yield f"**{version.ds}**, from {before}, which is not published."
    else:
        yield f"**{version.ds}**, a cold start."


def _verdict(decision: Decision | None) -> Iterator[str]:
    if decision is None:
        return
    yield f"The gate says **{decision.verdict}**" + (":" if decision.reasons else ": every rule is kept.")
    if decision.reasons:
        yield ""
        yield from (f"- {md_text(reason)[:300]}" for reason in decision.reasons[:_REASONS_SHOWN])
        if len(decision.reasons) > _REASONS_SHOWN:
            yield f"- and {len(decision.reasons) - _REASONS_SHOWN} more, in the report"


def _metrics(version: Version, parent: Version | None) -> Iterator[str]:
    before = parent.metrics if parent else {}
    rows = []
    for task, of in sorted(version.metrics.items()):
        ne, ne_before = of.get("ne"), before.get(task, {}).get("ne")
        change = None if ne is None or ne_before is None else Raw(f"{ne - ne_before:+.4f}")
        rows.append((task, ne, change, of.get("calibration"), of.get("auc"), f"{of.get('examples') or 0:,.0f}"))
    yield from md_table(("task", "NE", "against the parent", "calibration", "AUC", "examples"), rows)


def _lineage(version: Version) -> Iterator[str]:
    yield "Made from:"
    yield ""
    for name in ("examples", "user_features", "embeddings", "shift"):
        partition = partition_from(version.tags, name, version.ds)
        if partition is not None:
            where = where_learnt(version) if name == "examples" else ""
            yield f"- {name}: `{partition.table}`, version {partition.version}{where}"
    yield from (
        f"- {name}: {md_text(version.tags[name])}"
        for name in ("alignment", "checkpoint", "plan")
        if name in version.tags
    )
    yield f"- code `{version.tags['code_version'][:12]}`, snapshot `{version.reference}`"


def _links(links: Links) -> Iterator[str]:
    if links.report:
        yield f"[Report with plots]({links.report}) · [trend over the days]({links.trend}) · [run]({links.run})"
