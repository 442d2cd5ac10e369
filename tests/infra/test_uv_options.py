"""uv is told what pip is told, and asks PyTorch's index only if nothing nearer has the wheel."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from infra.settings import REPOSITORY, child_environment

SCRIPT = REPOSITORY / "infra" / "requirements" / "uv_options.py"
PYTORCH = "https://download.pytorch.org/whl/cpu"
BEST = ["--index-strategy", "unsafe-best-match"]
CPU, GPU = "torch==2.13.0+cpu\n", "torch==2.13.0\n"


def options(folder: Path, requirements: str, **environment: str) -> list[str]:
    path = folder / "some.in"
    path.write_text(requirements)
    inherited = {k: v for k, v in child_environment().items() if not k.startswith(("PIP_", "USERMODEL_"))}
    env = {**inherited, "PIP_CONFIG_FILE": "/dev/null", **environment}
    answer = subprocess.run([sys.executable, SCRIPT, path], env=env, capture_output=True, text=True, check=True)
    return answer.stdout.split()


@pytest.fixture
def wheels(tmp_path: Path) -> Path:
    """A find-links folder with the CPU build of torch."""
    folder = tmp_path / "wheels"
    folder.mkdir()
    (folder / "torch-2.13.0+cpu-cp311-cp311-linux_x86_64.whl").touch()
    return folder


def test_nothing_configured_asks_the_public_indexes(tmp_path: Path) -> None:
    assert options(tmp_path, CPU) == ["--index", PYTORCH, *BEST]


def test_a_folder_with_the_wheel_spares_pytorchs_index(tmp_path: Path, wheels: Path) -> None:
    assert options(tmp_path, CPU, PIP_FIND_LINKS=str(wheels)) == ["--find-links", str(wheels)]


def test_a_folder_with_another_version_does_not(tmp_path: Path, wheels: Path) -> None:
    found = options(tmp_path, "torch==2.14.0+cpu\n", PIP_FIND_LINKS=str(wheels))
    assert found == ["--find-links", str(wheels), "--index", PYTORCH, *BEST]


def test_the_cuda_variant_ignores_cpu_wheels_and_their_index(tmp_path: Path, wheels: Path) -> None:
    assert options(tmp_path, GPU, PIP_FIND_LINKS=str(wheels)) == []


@pytest.mark.parametrize(
    ("setting", "expected"),
    [
        pytest.param("https://mirror.example/cpu", ["--index", "https://mirror.example/cpu", *BEST], id="mirror"),
        pytest.param("", [], id="none"),
    ],
)
def test_the_index_of_torch_is_a_setting(tmp_path: Path, setting: str, expected: list[str]) -> None:
    assert options(tmp_path, CPU, USERMODEL_TORCH_INDEX=setting) == expected


def test_pips_indexes_are_handed_on(tmp_path: Path, wheels: Path) -> None:
    environment = {
        "PIP_INDEX_URL": "https://a.example/simple",
        "PIP_EXTRA_INDEX_URL": "https://b.example/simple",
        "PIP_FIND_LINKS": str(wheels),
    }
    found = options(tmp_path, CPU, **environment)
    assert found[2:] == [
        "--default-index",
        "https://a.example/simple",
        "--index",
        "https://b.example/simple",
        *BEST,
    ]
