"""Sizes as values of our Helm chart."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from infra.deployment.sizes import GIB, MIB, Part, Sizes

QUEUE = "train"
LAUNCHER = Part(replicas=1, cpus=1, memory_bytes=2 * GIB)
"""What waits for a job, and embeds shards of users; assumed."""


def values_of(sizes: Sizes) -> Mapping[str, Any]:
    """What the chart takes with `--values`; memory is rounded up, and limits are requests: nothing is overcommitted."""
    found: dict[str, Any] = {
        "models": [sizes.recipe],
        "http": {"replicas": sizes.http.replicas, "resources": resources(sizes.http)},
        "state": {"size": f"{math.ceil(sizes.state_bytes / GIB)}Gi"},
        "airflow": {"workers": [_worker(sizes.training)]},
    }
    if sizes.training.replicas > 1:
        found["settings"] = _job(sizes)
        found["airflow"] = {"workers": [_worker(LAUNCHER)]}
    if sizes.compute is not None:
        found["compute"] = {"replicas": sizes.compute.replicas, "resources": resources(sizes.compute)}
    if sizes.shards is not None:
        found["shards"] = [
            {"model": sizes.recipe, "count": sizes.shards.replicas, "resources": resources(sizes.shards)}
        ]  # fmt: skip
    return found


def resources(part: Part) -> Mapping[str, Mapping[str, str]]:
    """Of one container."""
    amounts = {"cpu": str(part.cpus), "memory": f"{math.ceil(part.memory_bytes / (64 * MIB)) * 64}Mi"}
    if part.gpus:
        amounts["nvidia.com/gpu"] = str(part.gpus)
    return {"requests": amounts, "limits": amounts}


def _job(sizes: Sizes) -> Mapping[str, Any]:
    """Settings of a training job of several hosts, as Volcano starts it (`trainer.launch.manifest`)."""
    training = sizes.training
    return {
        "scheduler": "kubernetes",
        "hosts": training.replicas,
        "ranks": sizes.ranks_per_host,
        "device": "cuda" if training.gpus else "cpu",
        "job_cores": training.cpus,
        "job_memory_gib": math.ceil(training.memory_bytes / GIB),
    }


def _worker(training: Part) -> Mapping[str, Any]:
    """An edge worker that trains on its own host, one day at a time; of several hosts it starts a job."""
    found = {"queue": QUEUE, "replicas": 1, "slots": 1, "resources": resources(training)}
    return found | {"memory": "8Gi"} if training.gpus else found


def text_of(sizes: Sizes) -> str:
    """A table for a person."""
    rows = [("HTTP", sizes.http), ("compute", sizes.compute), ("shards", sizes.shards), ("training", sizes.training)]
    lines = [f"{sizes.recipe:<12}{'replicas':>9}{'cores':>7}{'memory':>11}{'GPUs':>6}"]
    for name, part in rows:
        if part is not None:
            memory = resources(part)["requests"]["memory"]
            lines.append(f"{name:<12}{part.replicas:>9,}{part.cpus:>7}{memory:>11}{part.gpus:>6}")
    lines.append(f"feature store {sizes.store_bytes / GIB:,.1f} GiB, state {sizes.state_bytes / GIB:,.1f} GiB")
    return "\n".join(lines)
