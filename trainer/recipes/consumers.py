"""The downstream models of both sources, a row each: tasks, domains, sizes, and the user models that they consume.

CTR: a click, of every example. CVR: a conversion, of the clicked ones (post-click). CTCVR: a conversion, of every
example (post-impression). The user side that a large model has of its own is still only a part of what the user models
have (section 6.1.2), and no model has the user's id.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from features.selection import Selection
from features.sources.globo import CONTEXT
from trainer.recipe import DownstreamRecipe, Optimizer
from trainer.recipes.demo import DOMAINS

CLICKED = Selection(column="click", values=(1,))


@dataclass(frozen=True, kw_only=True)
class Size:
    """What a model has of its own."""

    user_features: tuple[str, ...]
    embedding_dim: int
    hidden: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class Goal:
    """A label, and the examples that have a say in it."""

    task: str
    examples: tuple[Selection, ...] = ()
    batch_size: int = 512


DEMO_SIZES = {
    "small": Size(user_features=("device", "hour", "dense_000", "dense_001"), embedding_dim=8, hidden=(64, 32)),
    "large": Size(
        user_features=("device", "hour", *(f"ids_{i:03d}" for i in range(6)), *(f"dense_{i:03d}" for i in range(4))),
        embedding_dim=16,
        hidden=(256, 128),
    ),
}
"""The large one has half of the id lists, which see three of the six planes of a taste, and half of the values."""
DEMO_GOALS = {
    "ctr": Goal(task="click"),
    "cvr": Goal(task="conversion", examples=(CLICKED,), batch_size=128),
    "ctcvr": Goal(task="conversion"),
}
DEMO = (
    ("a", "ctr", "small", ("demo_a",)),
    ("a", "ctr", "large", ("demo_a", "demo_b")),
    ("a", "cvr", "small", ("demo_a",)),
    ("a", "ctcvr", "large", ("demo_a", "demo_b")),
    ("b", "ctr", "small", ("demo_b",)),
    ("b", "ctr", "large", ("demo_b",)),
    ("b", "cvr", "small", ("demo_a", "demo_b")),
    ("b", "ctcvr", "large", ("demo_b",)),
)
_CONTEXT = tuple(f"context_{name}" for name in CONTEXT)
GLOBO_SIZES = {
    "small": Size(user_features=_CONTEXT, embedding_dim=8, hidden=(64, 32)),
    "large": Size(
        user_features=(
            *_CONTEXT,
            *("session_categories", "session_last_article", "session_last_category", "history_categories"),
            *("session_clicks", "session_seconds", "history_clicks", "days_since_seen"),
        ),
        embedding_dim=16,
        hidden=(256, 128),
    ),
}
"""The large one knows categories and the last article, where the user models know every article of the lists."""
GLOBO_GOALS = {
    "ctr": Goal(task="click", batch_size=1024),
    "engaged": Goal(task="engaged", examples=(CLICKED,), batch_size=512),
    "visit": Goal(task="engaged", batch_size=1024),
}
"""`engaged`: of those who clicked, who stays (post-click). `visit`: a click that begins a longer visit, of every
example."""
GLOBO = (
    ("ctr", "small", ("globo_click",)),
    ("ctr", "large", ("globo_click", "globo_engaged")),
    ("engaged", "small", ("globo_engaged",)),
    ("visit", "small", ("globo_engaged",)),
    ("visit", "large", ("globo_click", "globo_engaged")),
)


def demo_consumer(domain: str, goal: str, size: str, upstreams: tuple[str, ...]) -> DownstreamRecipe:
    """`demo_<domain>_<goal>_<size>`: a model of one domain of the synthetic world."""
    of = DEMO_GOALS[goal]
    return _consumer(f"demo_{domain}_{goal}_{size}", of, DEMO_SIZES[size], upstreams, (DOMAINS[domain], *of.examples))


def globo_consumer(goal: str, size: str, upstreams: tuple[str, ...]) -> DownstreamRecipe:
    """`globo_<goal>_<size>`: a model of the real clicks."""
    of = GLOBO_GOALS[goal]
    return _consumer(f"globo_{goal}_{size}", of, GLOBO_SIZES[size], upstreams, of.examples)


def _consumer(
    name: str, goal: Goal, size: Size, upstreams: tuple[str, ...], examples: tuple[Selection, ...]
) -> DownstreamRecipe:
    return DownstreamRecipe(
        name=name,
        upstreams=upstreams,
        task=goal.task,
        examples=examples,
        user_features=size.user_features,
        embedding_dim=size.embedding_dim,
        hidden=size.hidden,
        batch_size=goal.batch_size,
        optimizer=Optimizer(dense_lr=2e-3),
    )


_MAKERS: list[Callable[[], DownstreamRecipe]] = [
    *(partial(demo_consumer, *row) for row in DEMO),
    *(partial(globo_consumer, *row) for row in GLOBO),
]
CONSUMERS = {make().name: make for make in _MAKERS}
"""By name."""
