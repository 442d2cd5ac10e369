"""The machines that a model is planned for. GB are 10^9 bytes."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Literal

GB = 1_000_000_000
Device = Literal["cpu", "cuda"]


@dataclass(frozen=True, kw_only=True)
class Hardware:
    """One kind of host. Bandwidths are what a collective or kernel reaches, in bytes per second and rank."""

    device: Device
    hbm_bytes: int
    """Memory of one GPU; 0 without GPUs."""
    ddr_bytes: int
    """Memory of one host, shared by its ranks."""
    memory_bandwidth: float
    """Of the memory that holds the tables: HBM on CUDA."""
    intra_host_bandwidth: float
    inter_host_bandwidth: float
    dense_flops: float
    """FLOP per second that the dense part reaches on one rank."""

    def __post_init__(self) -> None:
        if self.device not in ("cpu", "cuda"):
            raise ValueError(f"device is {self.device!r}; plan for cpu or cuda")
        for field in fields(self):
            value = getattr(self, field.name)
            if field.name != "device" and not value > 0 and not (field.name == "hbm_bytes" and self.device == "cpu"):
                raise ValueError(f"{field.name} is {value}; a {self.device} host needs a positive value")


GPU_HOST = Hardware(
    device="cuda",
    hbm_bytes=80 * GB,
    ddr_bytes=1_000 * GB,
    memory_bandwidth=1_600 * GB,
    intra_host_bandwidth=240 * GB,
    inter_host_bandwidth=20 * GB,
    dense_flops=60e12,
)
"""Eight A100 80 GB with NVLink and one 200 Gb/s card each, at about 80 % of the printed bandwidths and 40 % of the
TF32 peak."""

CPU_HOST = Hardware(
    device="cpu",
    hbm_bytes=0,
    ddr_bytes=512 * GB,
    memory_bandwidth=10 * GB,
    intra_host_bandwidth=2 * GB,
    inter_host_bandwidth=1 * GB,
    dense_flops=40e9,
)
"""One rank per core, gloo over loopback or 10 Gb/s Ethernet."""

HARDWARE: dict[str, Hardware] = {"cpu": CPU_HOST, "cuda": GPU_HOST}


@dataclass(frozen=True, kw_only=True)
class Cluster:
    """`hosts` equal hosts with `ranks_per_host` ranks each (on CUDA: GPUs)."""

    hosts: int
    ranks_per_host: int
    hardware: Hardware

    def __post_init__(self) -> None:
        if self.hosts < 1 or self.ranks_per_host < 1:
            raise ValueError(f"{self.hosts} hosts x {self.ranks_per_host} ranks; both are at least 1")

    @property
    def world_size(self) -> int:
        """All ranks."""
        return self.hosts * self.ranks_per_host

    @property
    def rank_bytes(self) -> int:
        """One rank's memory for tables and dense part: its GPU's, or its share of the host's."""
        if self.hardware.device == "cuda":
            return self.hardware.hbm_bytes
        return self.hardware.ddr_bytes // self.ranks_per_host

    def __str__(self) -> str:
        ranks = "GPU" if self.hardware.device == "cuda" else "CPU rank"
        many = (("s" if self.hosts > 1 else ""), ("s" if self.ranks_per_host > 1 else ""))
        return (
            f"{self.hosts} host{many[0]} x {self.ranks_per_host} {ranks}{many[1]} of {self.rank_bytes / GB:.4g} GB each"
        )


def job_cluster(*, world_size: int, local_world_size: int, device: Device = "cpu") -> Cluster:
    """The cluster of a running job, with the printed hardware: ranks on unlike machines must plan alike, so none
    asks its own machine."""
    if world_size % local_world_size:
        raise ValueError(
            f"{world_size} ranks are no multiple of {local_world_size} per host; start equally many on every host"
        )
    return Cluster(hosts=world_size // local_world_size, ranks_per_host=local_world_size, hardware=HARDWARE[device])
