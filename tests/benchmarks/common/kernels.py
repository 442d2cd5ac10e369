"""A GPU's own limits, and the time of its kernels by what they do."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable

import torch
from torch._C._autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

COPY_BYTES = 2**31
MATRIX = 8192
REPEATS = 20
_KINDS = (
    ("embedding", r"embedding.*(forward|backward)|(forward|backward).*embedding"),
    ("between_gpus", r"nccl"),
    ("copies", r"^mem(cpy|set)"),
    ("matrix_products", r"gemm|cutlass|nvjet|xmma|wgmma|cublas"),
    ("ids", r"radix|DeviceScan|linearize|bucketize|permute_\w*(1|2)D|cumsum|bounds_check|run_length|RLE"),
    ("other", r""),
)
"""The first whose pattern is found in a kernel's name takes its time."""
KINDS = tuple(kind for kind, _ in _KINDS)


def kind_of(kernel: str) -> str:
    """One of KINDS."""
    return next(kind for kind, pattern in _KINDS if re.search(pattern, kernel, re.IGNORECASE))


def seconds_by_kind(kernels: Iterable[tuple[str, float]]) -> dict[str, float]:
    """Seconds by kind, of (name, seconds)."""
    totals = dict.fromkeys(KINDS, 0.0)
    for name, seconds in kernels:
        totals[kind_of(name)] += seconds
    return totals


def kernels_of(run: Callable[[], object]) -> Counter[str]:
    """Seconds on the GPU by kernel, of everything that `run` starts."""
    with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as watched:
        run()
        torch.cuda.synchronize()
    totals: Counter[str] = Counter()
    for event in watched.key_averages():
        if event.device_type == DeviceType.CUDA:
            totals[event.key] += event.self_device_time_total / 1e6
    return totals


def gpu_seconds(run: Callable[[], object], *, repeats: int = REPEATS) -> float:
    """Of one `run`, after one that does not count."""
    run()
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
    start.record()
    for _ in range(repeats):
        run()
    end.record()
    torch.cuda.synchronize()
    return float(start.elapsed_time(end)) / 1000 / repeats


def copy_bytes_per_second(device: torch.device) -> float:
    """Bytes read and written by a copy within the GPU's memory: the limit of anything that moves bytes."""
    source = torch.empty(COPY_BYTES // 4, device=device).fill_(1.0)
    target = torch.empty_like(source)
    return 2 * COPY_BYTES / gpu_seconds(lambda: target.copy_(source))


def peak_flops_per_second(device: torch.device, *, matmul: str) -> float:
    """Of a large square product at the precision `matmul` (of `trainer.recipe.Compute`; set for this process)."""
    kind = torch.bfloat16 if matmul == "bf16" else torch.float32
    a, b = (torch.randn(MATRIX, MATRIX, device=device).to(kind) for _ in range(2))
    return 2 * MATRIX**3 / gpu_seconds(lambda: a @ b)
