"""The lock files pin everything by hash and tell nothing of the machine that resolved them."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from infra.settings import REPOSITORY

REQUIREMENTS = REPOSITORY / "infra" / "requirements"
LOCKS = [REQUIREMENTS / name for name in ("bootstrap.txt", "cpu.lock", "gpu.lock")]

every_lock = pytest.mark.parametrize("lock", LOCKS, ids=lambda path: path.name)


def pins(lock: Path) -> dict[str, str]:
    """Version by package."""
    return dict(re.findall(r"^([a-z0-9.-]+)==(\S+)", lock.read_text(), flags=re.MULTILINE))


@every_lock
def test_every_package_is_pinned_with_hashes(lock: Path) -> None:
    entries = re.split(r"^(?=[^\s#])", lock.read_text(), flags=re.MULTILINE)
    entries = [entry for entry in entries if entry and not entry.startswith("#")]
    assert entries
    for entry in entries:
        assert re.match(r"[a-z0-9.-]+==\S+ \\\n    --hash=sha256:[0-9a-f]{64}", entry), entry.splitlines()[0]


@every_lock
def test_nothing_of_the_resolving_machine_is_in_it(lock: Path) -> None:
    assert not re.search(r"://|^-|--(find-links|index|extra)|(^|\s)/|\s@\s", lock.read_text(), flags=re.MULTILINE)


@every_lock
def test_every_requirement_is_locked(lock: Path) -> None:
    source = lock.with_name(lock.stem + ".in")
    text = source.read_text() + (REQUIREMENTS / "common.in").read_text() * ("-r common.in" in source.read_text())
    for name, version in re.findall(r"(?mi)^([a-z0-9][a-z0-9-]*)(?:==(\S+))?", text):
        assert name in pins(lock)
        assert version in ("", pins(lock)[name])


def test_the_gpu_variant_differs_by_the_cuda_builds_alone() -> None:
    cpu, gpu = pins(REQUIREMENTS / "cpu.lock"), pins(REQUIREMENTS / "gpu.lock")
    differing = {name for name in cpu | gpu if cpu.get(name) != gpu.get(name)}
    cuda = re.compile(r"torch|triton|fbgemm-gpu(-cpu)?|nvidia-.*|cuda-.*")
    assert {name for name in differing if not cuda.fullmatch(name)} == set()
    assert cpu["torch"] == gpu["torch"] + "+cpu"
    assert cpu["fbgemm-gpu-cpu"] == gpu["fbgemm-gpu"]
