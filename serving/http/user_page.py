"""The page of one user: what is kept per user model, how old, by which version, how far it moved, what comes next."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from serving.http.heat import scale_of, strip
from serving.record import KEPT
from serving.times import moment
from snapshots.movement import movement
from snapshots.page.html import Html, join, page, section, tag

if TYPE_CHECKING:
    from serving.client.answer import Reason
    from serving.client.model import Model
    from serving.http.kept import Kept
    from serving.record import Record
    from serving.served import Served

CSS = """
svg.strip { width: 100%; min-width: 16rem; height: 14px; border-radius: 2px; margin: 3px 0; }
td.vectors { width: 45%; min-width: 17rem; } tr.mean td { background: var(--soft); font-weight: 600; }
tr.left-out td { opacity: .55; } td.num small { display: block; }
.facts { display: flex; flex-wrap: wrap; gap: .3rem 2.2rem; margin: .3rem 0 .6rem; }
.facts div { min-width: 7rem; } .facts b { display: block; font-size: 1.05rem; }
.facts span { color: var(--dim); font-size: .82rem; }
.next { border-left: 4px solid var(--c0); background: var(--soft); padding: .4rem .8rem; margin: .5rem 0; }
.next.default { border-color: var(--c1); } form { margin: .4rem 0 0; }
input { font: inherit; padding: .2rem .4rem; width: 13rem; }
header { display: flex; flex-wrap: wrap; gap: .2rem 2rem; align-items: baseline; justify-content: space-between; }
small { color: var(--dim); font-weight: 400; white-space: nowrap; } a { color: var(--c0); }
@media (max-width: 40rem) { td:first-child { min-width: 0; } td small.date { display: none; }
  td, th { padding: .25rem .4rem; }
  td.vectors { min-width: 11rem; } svg.strip { min-width: 10rem; } }
"""


def user_page(user: int, kept: Sequence[Kept]) -> str:
    """The document."""
    known = sum(one.record is not None for one in kept)
    models = "user model" if len(kept) == 1 else "user models"
    title = f"User {user}"
    return page(
        f"{title} · usermodel",
        tag("style", Html(CSS)),
        tag("header", tag("h1", title), _other_user()),
        tag(
            "p",
            f"Kept for {known} of {len(kept)} {models}; as of {_moment(kept[0].now_ms)}, the store's clock.",
            class_="dim",
        ),
        *(_model(one) for one in kept),
    )


def index_page(models: Mapping[str, Model], served: Mapping[str, Served] | None) -> str:
    """What is served, and a field for a user's id. served: None where the store cannot be reached."""
    rows = [
        tag("tr", *(tag("td", cell) for cell in _index_row(model, (served or {}).get(model.name))))
        for model in models.values()
    ]
    headings = tag("tr", *(tag("th", h) for h in ("user model", "mode", "version", "day", "embeddings", "features of")))
    note = "The feature store cannot be reached: every answer is a default now." if served is None else None
    return page(
        "usermodel serving",
        tag("style", Html(CSS)),
        tag("header", tag("h1", "User embeddings, served"), _other_user()),
        None if note is None else tag("p", note, class_="next default"),
        tag("div", tag("table", tag("thead", headings), tag("tbody", *rows)), class_="scroll"),
        tag("p", *_links(), class_="dim"),
    )


def _links() -> list[object]:
    paths = ("/openapi.json", "/metrics", "/healthz", "/readyz")
    return [part for path in paths for part in (tag("a", path, href=path), "  ")]


def _index_row(model: Model, served: Served | None) -> tuple[object, ...]:
    version, day = (f"v{served.version}", served.ds) if served else ("-", "-")
    return model.name, model.serving.mode, version, day, f"{model.num_embeddings} x {model.dim}", model.source


def _other_user() -> Html:
    field = tag("input", name_="id", placeholder="user id", inputmode="numeric", pattern="[0-9]+", required="")
    return tag("form", field, " ", tag("button", "show"), action="/users", method="get")


def _model(kept: Kept) -> Html:
    entries = None if kept.record is None else _entries(kept, kept.record)
    return section(kept.model.name, _facts(kept), _next(kept), entries)


def _facts(kept: Kept) -> Html:
    model, served, policy = kept.model, kept.served, kept.model.serving
    facts = {
        "mode": policy.mode,
        "serves": f"v{served.version}, day {served.ds}" if served else "nothing yet",
        "embeddings": f"{model.num_embeddings} x {model.dim}",
        "vectors kept": f"{0 if kept.record is None else len(kept.record.entries)} of {KEPT}",
        "expires in": "-" if kept.ttl_seconds is None else span(kept.ttl_seconds),
        "features known": "none" if kept.features_ms is None else f"{_age(kept.now_ms, kept.features_ms)} old",
        "direct cache": span(policy.direct_seconds) if policy.direct_seconds else "off",
    }
    return tag("div", *(tag("div", tag("b", of), tag("span", name)) for name, of in facts.items()), class_="facts")


def _next(kept: Kept) -> Html:
    answer = kept.answer
    if answer.is_default:
        words = f"A request now gets the default, zeros marked so: {_WHY[answer.reason]}."
    else:
        one, several = f"the vector of v{answer.versions[0]}", f"the mean of {answer.num_pooled} vectors"
        mean = one if answer.num_pooled == 1 else several
        words = f"A request now gets {mean}; its newest features are {_age(kept.now_ms, answer.feature_ms[0])} old."
    return tag("p", f"{words} {_computation(kept)}", class_="next default" if answer.is_default else "next")


_WHY: dict[Reason, str] = {
    "cold": "nothing is kept of this user",
    "withdrawn": "every version that computed for this user was taken back",
    "expired": "what is kept is too old",
    "reshaped": "what is kept is of another shape than what is served",
    "damaged": "what is kept is damaged",
}


def _computation(kept: Kept) -> str:
    policy = kept.model.serving
    if kept.answer.computation == "off":
        return f"Nothing is computed on request in mode {policy.mode}."
    if kept.answer.computation == "skipped":
        return f"Nothing is computed: the newest vector was written less than {span(policy.direct_seconds)} ago."
    if kept.features_ms is None:
        return "Nothing can be computed before a request brings features."
    if kept.is_queued:
        return "An earlier request waits to be computed; this one would join it."
    if policy.mode == "realtime":
        return f"It would wait for its own computation first, for {policy.window_ms:g} ms at most."
    return "Its own computation comes after it, for later requests."


def _entries(kept: Kept, record: Record) -> Html:
    entries = record.entries
    scale = scale_of(entries["vectors"])
    named = (f"vectors, {-scale:.2g} to {scale:.2g}", "norm", "cosine", "norm change")
    head = tag("tr", *(tag("th", h) for h in ("version", "features of", "computed")), *(tag("th", h) for h in named))
    older = [*entries["vectors"][1:], None]
    rows = [_entry(kept, entry, scale, before) for entry, before in zip(entries, older, strict=True)]
    if not kept.answer.is_default:
        mean = tag("td", "mean, as served", colspan=3)
        rows.append(tag("tr", mean, *_vectors(kept.answer.vectors, scale, None), class_="mean"))
    note = "A line per embedding. Cosine and relative change of the norm: from the vector below to this one."
    body = tag("table", tag("thead", head), tag("tbody", *rows))
    return join([tag("div", body, class_="scroll"), tag("p", note, class_="dim")])


def _entry(kept: Kept, entry: Any, scale: float, older: NDArray[Any] | None) -> Html:
    version, feature_ms = int(entry["version"]), int(entry["feature_ms"])
    pooled = (version, feature_ms) in zip(kept.answer.versions, kept.answer.feature_ms, strict=True)
    withdrawn = kept.served is not None and version in kept.served.withdrawn
    note = "withdrawn" if withdrawn else None if pooled else "not in the mean"
    return tag(
        "tr",
        tag("td", tag("div", f"v{version}"), None if note is None else tag("small", note)),
        _when(feature_ms, kept.now_ms),
        _when(int(entry["write_ms"]), kept.now_ms),
        *_vectors(entry["vectors"], scale, older),
        class_=None if pooled else "left-out",
    )


def _vectors(vectors: NDArray[Any], scale: float, older: NDArray[Any] | None) -> list[Html]:
    """Cells: strips, norms, and the movement from `older`. [K, D] each."""
    strips = [strip(one, scale=scale, label=f"embedding {k}") for k, one in enumerate(vectors)]
    norms = [f"{norm:.3f}" for norm in np.linalg.norm(vectors.astype(np.float64), axis=1)]
    cosines = changes = [""] * len(vectors)
    if older is not None:
        moved = movement(older, vectors)
        cosines = [f"{one:.3f}" for one in moved.cosine]
        changes = [f"{100 * one:.1f} %" for one in moved.norm_change]
    return [tag("td", *strips, class_="vectors"), *(_lines(column) for column in (norms, cosines, changes))]


def _lines(texts: Sequence[str]) -> Html:
    return tag("td", *(tag("div", text) for text in texts), class_="num")


def _when(ms: int, now_ms: int) -> Html:
    return tag("td", tag("div", f"{_age(now_ms, ms)} ago"), tag("small", _moment(ms), class_="date"))


def _age(now_ms: int, ms: int) -> str:
    return span(max(now_ms - int(ms), 0) / 1_000)


def _moment(ms: int) -> str:
    return f"{moment(ms):%Y-%m-%d %H:%M:%S} UTC"


def span(seconds: float) -> str:
    """As people say it: `4 min`, `2.5 days`."""
    for unit, name in ((86_400.0, "days"), (3_600.0, "h"), (60.0, "min"), (1.0, "s")):
        if seconds >= 2 * unit:
            value = seconds / unit
            return f"{value:.0f} {name}" if value >= 10 or unit <= 60 else f"{value:.1f} {name}"
    return f"{1_000 * seconds:.0f} ms" if seconds < 1 else f"{seconds:.1f} s"
