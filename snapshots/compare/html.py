"""The comparison as one self-contained HTML page with plots."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from snapshots.page.html import Html, bar, page, section, table, tag
from snapshots.page.svg import interval_plot
from snapshots.report.tables import Context, embedding_name, embeddings_of, measured, moved_table
from snapshots.shift.distribution import QUANTILES

if TYPE_CHECKING:
    from snapshots.compare.compare import Comparison, Side
    from snapshots.compare.scores import Difference
    from snapshots.shift.rows import ShiftRow


def render_page(found: Comparison) -> str:
    """The document."""
    title = f"{found.model}: version {found.a.number} of {found.a.ds} → version {found.b.number} of {found.b.ds}"
    return page(
        f"{found.model} {found.a.number} → {found.b.number}",
        tag("h1", title),
        tag("p", "Differences are of the second version less the first.", class_="dim"),
        tag("ul", *(tag("li", note) for note in found.notes)) if found.notes else None,
        _scores(found),
        _as_trained(found),
        _shift(found),
        _features(found),
        _changed(found),
    )


def _scores(found: Comparison) -> Html:
    if found.on is None:
        return section("Scores on the same examples", tag("p", "Not compared: see above."))
    on = found.on
    learnt = "which neither has learnt" if on.held_out else "which the newer one has learnt"
    said = f"{on.num_examples:,} examples of {on.num_users:,} users of {on.ds}, {learnt}. Intervals: users drawn anew."
    return section(
        "Scores on the same examples",
        tag("p", said, class_="dim"),
        tag("div", *_plots(found), class_="plots"),
        table(
            ("task", "metric", "users", "A", "B", "B - A", "95 % interval", "examples", "positives", "how many users"),
            [
                (
                    s.task,
                    s.metric,
                    s.users,
                    s.a,
                    s.b,
                    s.difference,
                    interval_text(s),
                    s.num_examples,
                    s.num_positives,
                    s.num_users,
                )
                for s in found.scores
            ],
            classes=["hold" if is_worse(s) else "" for s in found.scores],
        ),
    )


def _plots(found: Comparison) -> Iterator[Html]:
    for metric in ("ne", "auc"):
        rows = [
            (f"{s.task}, {s.users}", s.interval[0], s.difference, s.interval[1])
            for s in found.scores
            if s.metric == metric and s.interval is not None and s.difference is not None
        ]
        if rows:
            yield interval_plot(f"{metric}: B - A, with 95 % interval", rows)


def interval_text(of: Difference) -> str:
    """`-0.0100 … +0.0100`."""
    return "" if of.interval is None else f"{of.interval[0]:+.4f} … {of.interval[1]:+.4f}"


def is_worse(of: Difference) -> bool:
    """Whether B is worse by more than chance."""
    if not of.is_sure or of.difference is None:
        return False
    return of.difference > 0 if of.metric == "ne" else of.metric == "auc" and of.difference < 0


def _as_trained(found: Comparison) -> Html:
    def rows(side: Side) -> Iterator[tuple[object, ...]]:
        for task, of in sorted(side.metrics.items()):
            yield (
                side.number,
                str(side.ds),
                task,
                *(of.get(name) for name in ("ne", "calibration", "auc", "examples")),
            )

    return section(
        "As trained",
        tag("p", "Progressive metrics, each on its own day: of different examples.", class_="dim"),
        table(("version", "day", "task", "NE", "calibration", "AUC", "examples"), [*rows(found.a), *rows(found.b)]),
    )


def _shift(found: Comparison) -> Html | None:
    rows = measured(found.shift)
    if not rows and not found.moved:
        return None
    parts: list[Html] = []
    if rows:
        headings = [embedding_name(k) for k in embeddings_of(rows)]
        said = f"The active users of {found.b.ds} through both; a line holds 90 % of them, its dot is the median."
        parts += [tag("p", said, class_="dim"), tag("div", *_ranges(rows), class_="plots")]
        parts.append(
            table(
                ("metric", *headings, "users"),
                [
                    (moved.metric, *(cell.value for cell in moved.cells), moved.num_users)
                    for moved in moved_table(rows, Context(usual={}, min_days=1), everything=True)
                ],
            )
        )
    if found.moved:
        most = max(1 - m.cosine_mean for m in found.moved) or 1.0
        parts.append(tag("p", "By slice: the users of the scored examples, each once.", class_="dim"))
        parts.append(
            table(
                ("users", "embedding", "how many", "cosine_mean", "turned", "norm_change_mean"),
                [
                    (
                        m.users,
                        m.embedding,
                        m.num_users,
                        m.cosine_mean,
                        bar((1 - m.cosine_mean) / most),
                        m.norm_change_mean,
                    )
                    for m in found.moved
                ],
            )
        )
    return section("Shift: the same inputs through both", *parts)


def _ranges(rows: Sequence[ShiftRow]) -> Iterator[Html]:
    by_name = {(row.metric, row.embedding): row.value for row in rows}
    for statistic in ("cosine", "norm_change"):
        found = []
        for k in embeddings_of(rows):
            names = [(f"{statistic}_{part}", k) for part in QUANTILES]
            cuts = [by_name[name] for name in names if name in by_name]
            if len(cuts) == len(QUANTILES):
                found.append((embedding_name(k), cuts[0], cuts[1], cuts[2]))
        if found:
            yield interval_plot(statistic, found, zero=False)


def _features(found: Comparison) -> Html | None:
    if not found.features or found.on is None:
        return None
    tasks = [task for swapped in found.features[:1] for task in swapped.ne_change]
    most = max((1 - s.cosine for s in found.features if s.cosine is not None), default=0.0) or 1.0
    return section(
        "By feature",
        tag(
            "p",
            f"Each feature's table taken from B into A alone, on {found.on.num_feature_examples:,} of the examples: "
            "what becomes of A's embeddings (cosine 1: nothing) and of its NE. Row change: the mean relative change of "
            "the rows that are looked up.",
            class_="dim",
        ),
        table(
            ("feature", "table", "row change", "cosine", "effect", *(f"NE {task}" for task in tasks), ""),
            [
                (
                    s.feature, s.table, s.row_change, s.cosine,
                    bar(0.0 if s.cosine is None else (1 - s.cosine) / most),
                    *(s.ne_change.get(task) for task in tasks), s.note,
                )
                for s in found.features
            ],
        ),
    )  # fmt: skip


def _changed(found: Comparison) -> Html:
    if not found.changed:
        return section("Made with", tag("p", "Nothing that is known differs."))
    rows = [(c.part, tag("code", c.name), c.a or "none", c.b or "none") for c in found.changed]
    return section("Made with", table(("", "what", f"A: {found.a.number}", f"B: {found.b.number}"), rows))
