"""The studies by name; a module is imported when its study is asked for, since most import torch."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from infra.experiments.study import Study

STUDIES: dict[str, str] = {
    "table1": "what embeddings bring to downstream models of other tasks, domains and sizes, and where they rank",
    "table2": "what each serving mode keeps of a user model's gain, replayed in event time",
    "table3": "how far embeddings move from day to day, by number of pooled versions",
    "table4": "what pooling is worth to a consumer in training and on the next day, and what moves cost it",
    "domains": "the gain in a user model's own domain against another, and what its embeddings hold of tastes",
    "outputs": "the value of K, the number of embeddings of a user",
    "precision": "what fp16 and int8 vectors and tables cost downstream",
    "extractors": "what each feature extractor of the user tower is worth",
    "sizes": "the gain by the size of the downstream model",
    "capacity": "the serving capacity that one user tower for all downstream models avoids",
    "control": "the gains of Tables 1 and 4 where labels are shuffled: there are none to be had",
    "ceiling": "how far models are from the best possible NE, which a world of known truth tells",
    "solaris": "what precomputed representations of user-item pairs are worth to a consumer, against distillation",
}
"""What each is about, by name: its module in this package has it as `STUDY`."""
OF_WORLDS = frozenset({"domains", "control", "ceiling"})
"""Those that ask for the truth: not of real clicks."""

TABLES = ("table1", "table2", "table3", "table4")
"""The paper's."""


def get_study(name: str) -> Study:
    """ValueError for an unknown name."""
    if name not in STUDIES:
        raise ValueError(f"there is no study {name!r}; known: {', '.join(STUDIES)}")
    study: Study = import_module(f"infra.experiments.{name}").STUDY
    assert study.name == name, f"{study.name} stands as {name}"
    return study
