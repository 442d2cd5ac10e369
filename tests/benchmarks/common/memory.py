"""Memory of processes, as the kernel counts it. What getrusage says of a child is at least what its parent had."""

from __future__ import annotations

from pathlib import Path


def pss_mib(pid: int | str = "self") -> float:
    """Proportional set size of a process."""
    return _mib(f"/proc/{pid}/smaps_rollup", "Pss:")


def peak_mib(pid: int | str = "self") -> float:
    """The most that was ever resident of a process, mapped files included."""
    return _mib(f"/proc/{pid}/status", "VmHWM:")


def forget_peak() -> None:
    """This process's peak is what is resident now."""
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


def _mib(path: str, name: str) -> float:
    lines = Path(path).read_text(encoding="utf-8").splitlines()
    (kib,) = (int(line.split()[1]) for line in lines if line.startswith(name))
    return round(kib / 1024, 1)
