"""Where a rank computes."""

from __future__ import annotations

import torch

from trainer.recipe import Compute, DeviceName


def rank_device(wanted: DeviceName, *, local_rank: int) -> torch.device:
    """This rank's device: its own GPU, or the CPU. `auto`: a GPU where there is one for the rank.

    ValueError for a GPU that is not there.
    """
    num_gpus = torch.cuda.device_count() if wanted != "cpu" else 0
    if local_rank < num_gpus:
        return torch.device("cuda", local_rank)
    if wanted == "cuda":
        raise ValueError(
            f"rank {local_rank} of this host wants a GPU of its own, but torch sees {num_gpus}; "
            "set USERMODEL_RANKS to the number of GPUs, or USERMODEL_DEVICE=cpu"
        )
    return torch.device("cpu")


def set_up(device: torch.device, compute: Compute) -> None:
    """Make `device` this process's own, at the precision of `compute`."""
    if device.type == "cuda":
        torch.cuda.set_device(device)
        torch.set_float32_matmul_precision("highest" if compute.matmul == "fp32" else "high")


def backend(device: torch.device) -> str:
    """Of the collectives: checkpoints and small messages stay with gloo."""
    return "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"


def autocast(device: torch.device, compute: Compute) -> torch.autocast:
    """bf16 for the dense part where `compute` asks for it; on a CPU it would be two to four times slower."""
    enabled = device.type == "cuda" and compute.matmul == "bf16"
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=enabled)
