"""A version's metrics as tags: they come with it, so that judging two weeks of versions asks MLflow once."""

from __future__ import annotations

import json
from collections.abc import Mapping

_METRICS = "metrics"


def metrics_tags(metrics: Mapping[str, Mapping[str, float | None]]) -> dict[str, str]:
    """What `metrics_from` reads: a tag per task, `metrics.click` = `ne=0.89 auc=0.7`, exact to the bit."""
    return {
        f"{_METRICS}.{task}": " ".join(f"{name}={value}" for name, value in sorted(of.items()))
        for task, of in metrics.items()
    }


def metrics_from(tags: Mapping[str, str]) -> dict[str, dict[str, float | None]]:
    """Per task, of the tags of a version."""
    if _METRICS in tags:  # one long tag, of a version registered before there was one per task
        metrics: dict[str, dict[str, float | None]] = json.loads(tags[_METRICS])
        return metrics
    prefix = f"{_METRICS}."
    of_tasks = {name.removeprefix(prefix): of for name, of in tags.items() if name.startswith(prefix)}
    return {task: dict(_metric(pair) for pair in of.split()) for task, of in of_tasks.items()}


def _metric(pair: str) -> tuple[str, float | None]:
    name, _, value = pair.partition("=")
    return name, None if value == "None" else float(value)
