"""`usermodel serving simulate`: one run gives tables or JSON and a picture; what the user gets wrong is said."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from infra.commands import cli
from infra.settings import get_settings
from serving.ercache.relation import NeByStaleness
from tests.features.worlds import GLOBO_DAY, Row, day_start_ms, land, land_articles

DAY = str(GLOBO_DAY)


@pytest.fixture
def landed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Clicks of two users, one of them back after half a minute and after ten more."""
    start = day_start_ms(GLOBO_DAY)
    times = ((1, 0), (1, 31_000), (1, 631_000), (2, 5_000))
    land_articles(tmp_path)
    land(tmp_path, GLOBO_DAY, [Row(user=u, session=u, start=start, article=100, time=start + t) for u, t in times])
    monkeypatch.setenv("USERMODEL_DATA_DIR", str(tmp_path))
    get_settings.cache_clear()


def _run(*arguments: str) -> str:
    done = CliRunner().invoke(cli, ["serving", "simulate", *arguments], catch_exceptions=False)
    assert done.exit_code == 0
    return done.stdout


@pytest.mark.usefixtures("landed")
def test_the_requests_of_a_recipe_are_simulated(tmp_path: Path) -> None:
    relation = NeByStaleness(model="globo", added_seconds=(0, 3_600), ne=(0.9, 0.95), ne_without=1.0)
    relation.save(tmp_path / "ne.json")
    options = ("--recipe", "globo", "--trace", "clicks", "--days", DAY, "--ttl", "60", "--ttl", "3600")
    options += ("--ne", str(tmp_path / "ne.json"))
    found = json.loads(_run(*options, "--json", "--plot", str(tmp_path / "curve.png")))
    assert [(of["ttl_seconds"], of["statistics"]["saved"]) for of in found["curve"]] == [
        (0, 0),
        (60, 0.25),
        (3_600, 0.5),
    ]
    assert found["gain_lost"][0] == 0
    assert (tmp_path / "curve.png").read_bytes().startswith(b"\x89PNG")
    shown = _run(*options)
    assert "recommended for globo: a direct TTL of" in shown
    assert "ERCache: 52%" in shown


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        pytest.param(("--recipe", "demo"), "examples/demo is not in the lake", id="no day"),
        pytest.param((), "needs --recipe", id="whose"),
        pytest.param(("--trace", "guessed"), "'guessed' is none of", id="no such trace"),
        pytest.param(("--recipe", "demo", "--trace", "clicks", "--days", DAY), "demo has none", id="no clicks"),
    ],
)
def test_what_cannot_be_simulated_is_said(arguments: tuple[str, ...], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        _run(*arguments)


def test_a_consumer_that_nobody_knows_cannot_be_measured() -> None:
    arguments = ["serving", "measure", "--name", "nobody", "--ds", "2026-01-05"]
    with pytest.raises(ValueError, match="no downstream model 'nobody'"):
        CliRunner().invoke(cli, arguments, catch_exceptions=False)
