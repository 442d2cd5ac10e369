"""The loop's page: what was collected last, at once, and collected again when it is old."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest

from infra.loop_metrics import page as module
from infra.loop_metrics.page import NOTHING, Collected, open_page
from infra.processes import is_alive
from infra.settings import LOOPBACK, REPOSITORY
from tests.serving.secured.made import home
from tests.serving.servers import until

COUNTS = "import pathlib; p = pathlib.Path('runs'); p.open('a').write('x'); print('runs', len(p.read_text()))"


def collected(folder: Path, code: str, *, every_seconds: float) -> Collected:
    return Collected([sys.executable, "-c", code], settings=home(folder), every_seconds=every_seconds)


def test_a_scrape_never_waits(tmp_path: Path) -> None:
    facts = collected(tmp_path, f"import time; time.sleep(0.5); {COUNTS}", every_seconds=3_600)
    began = time.monotonic()
    assert facts.text() == NOTHING
    assert time.monotonic() - began < 0.4
    until(lambda: facts.text() == b"runs 1\n", seconds=60)
    for _ in range(20):
        facts.text()
    assert (tmp_path / "runs").read_text() == "x", "one collection, however many ask"


def test_what_is_old_is_collected_again(tmp_path: Path) -> None:
    facts = collected(tmp_path, COUNTS, every_seconds=0.0)
    until(lambda: facts.text() not in (NOTHING, b"runs 1\n"), seconds=60)


@pytest.mark.parametrize(
    "code",
    [
        pytest.param("import sys; print('half'); sys.exit(3)", id="it-fails"),
        pytest.param("pass", id="it-says-nothing"),
        pytest.param("print('x' * 2000)", id="it-says-too-much"),
        pytest.param("import time; time.sleep(60)", id="it-hangs"),
    ],
)
def test_a_collection_that_fails_leaves_the_page(
    tmp_path: Path, code: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(module, "MOST_BYTES", 1_000)
    monkeypatch.setattr(module, "LONGEST_SECONDS", 2.0)
    facts = collected(tmp_path, code, every_seconds=3_600)
    assert facts.text() == NOTHING
    until(lambda: "were not collected" in caplog.text, seconds=60)
    assert facts.text() == NOTHING


def test_a_collection_ends_with_its_page(tmp_path: Path) -> None:
    child = "import os, pathlib, time; pathlib.Path('pid').write_text(str(os.getpid())); time.sleep(600)"
    page = (
        "import pathlib, sys, time\nfrom infra.loop_metrics.page import Collected\n"
        "from infra.settings import Settings\n"
        f"home = pathlib.Path({str(tmp_path)!r}); child = [sys.executable, '-c', {child!r}]\n"
        "facts = Collected(child, settings=Settings(home=home, _env_file=None)); facts.text()\n"
        "while not ((home / 'pid').exists() and (home / 'pid').read_text()): time.sleep(0.05)"
    )
    subprocess.run([sys.executable, "-c", page], cwd=REPOSITORY, check=True, timeout=120)
    pid = int((tmp_path / "pid").read_text())
    until(lambda: not is_alive(pid), seconds=30)


def test_before_the_first_collection_it_says_that_it_knows_nothing(tmp_path: Path) -> None:
    page = open_page(home(tmp_path / "nowhere"), host=LOOPBACK, port=0)
    try:
        text = httpx.get(f"http://{LOOPBACK}:{page.server_port}/metrics", trust_env=False, timeout=20).text
        assert 'usermodel_loop_up{source="collection"} 0' in text
    finally:
        page.stop()
