"""The studies by name; a module is imported when its study is asked for, since most import torch."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from infra.experiments.study import Study

STUDIES: dict[str, str] = {
    "table2": "what each serving mode keeps of a user model's gain, replayed in event time",
    "table3": "how far embeddings move from day to day, by number of pooled versions",
    "table4": "what pooling is worth to a consumer in training and on the next day, and what moves cost it",
}
"""What each is about, by name: its module in this package has it as `STUDY`."""


def get_study(name: str) -> Study:
    """ValueError for an unknown name."""
    if name not in STUDIES:
        raise ValueError(f"there is no study {name!r}; known: {', '.join(STUDIES)}")
    study: Study = import_module(f"infra.experiments.{name}").STUDY
    assert study.name == name, f"{study.name} stands as {name}"
    return study
