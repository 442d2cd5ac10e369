"""Where a step's time goes: torch's profiler over the first steps of a day."""

from __future__ import annotations

import re
import time
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import torch
from torch.profiler import ProfilerActivity, profile

from trainer.profile import Profile
from trainer.spans import PARTS, PREFIX

TRACE = "trace.json.gz"
WARM_UP = 10
"""Steps before the first that counts."""

_FAMILIES = (
    ("matrix products", r"^aten::(mm|addmm|bmm|baddbmm|addbmm|linear|matmul)$"),
    ("tables: lookup and update", r"fbgemm|[Ss]plit_?[Ee]mbedding|[Ss]plit_?[Ll]ookup|embedding_bag"),
    ("between ranks", r"^(gloo|nccl|c10d|record_param_comms)"),
    ("dense optimizer", r"_fused_ada|_foreach"),
    ("normalisation", r"layer_norm"),
    ("copies and layout", r"^aten::(copy_|cat|index_select|index_add_|clone|contiguous|stack|fill_|zero_)"),
    ("other tensor operations", r"^aten::"),
    ("Python and autograd", r""),
)
"""The first whose pattern is found in an operation's name takes its time."""


class StepProfiler:
    """Watches the steps after the first WARM_UP; `step` is called after each, `num_steps` times in all."""

    def __init__(self, steps: int, *, device: torch.device) -> None:
        self.num_steps = WARM_UP + steps
        activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if device.type == "cuda" else [])]
        self._profile = profile(activities=activities)
        self._on_gpu = device.type == "cuda"
        self._seen = 0
        self._started = self._seconds = 0.0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._seen > WARM_UP:
            self._seconds = time.perf_counter() - self._started
            self._profile.stop()

    def step(self) -> None:
        """A step is done."""
        self._seen += 1
        if self._seen == WARM_UP:
            self._profile.start()
            self._started = time.perf_counter()

    def result(self, directory: Path, **of_job: Any) -> Profile:
        """Write the trace into `directory`; `of_job`: model, ds, ranks, device, batch_size."""
        steps = self._seen - WARM_UP
        if steps < 1:
            raise ValueError(f"the day has {self._seen} steps; a profile needs more than {WARM_UP}: take a larger day")
        self._profile.export_chrome_trace(str(directory / TRACE))
        averages = self._profile.key_averages()
        parts = dict.fromkeys(PARTS, 0.0)
        families = {family: 0.0 for family, _ in _FAMILIES}
        for event in averages:
            if event.key.startswith(PREFIX) and event.key.removeprefix(PREFIX) in parts:
                parts[event.key.removeprefix(PREFIX)] += event.cpu_time_total / 1000 / steps
            own = event.self_device_time_total if self._on_gpu else event.self_cpu_time_total
            families[_family(event.key)] += own / 1000 / steps
        return Profile(
            steps=steps,
            step_ms=self._seconds * 1000 / steps,
            parts={part: round(value, 3) for part, value in parts.items()},
            families={family: round(value, 3) for family, value in families.items()},
            trace=directory / TRACE,
            **of_job,
        )


def _family(operation: str) -> str:
    return next(family for family, pattern in _FAMILIES if re.search(pattern, operation))
