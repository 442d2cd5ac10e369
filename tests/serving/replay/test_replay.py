"""The replay from the command line on a tiny world."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

import infra.settings
from infra.commands import cli
from infra.settings import Settings
from serving.replay.modes import Latency, ReplayConfig
from serving.replay.replay import replay
from tests.serving.replay.world import CTR, REPLAYED
from tests.snapshots.world import DAYS, tiny_recipe
from trainer import recipes


@pytest.fixture
def home(trained: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """The tiny model as one of the recipes, and a home of its own for what is written."""
    monkeypatch.setitem(recipes.USER_MODELS, "tiny", tiny_recipe)
    monkeypatch.setitem(recipes.DOWNSTREAM_MODELS, "tiny_ctr", lambda: CTR)
    settings = trained.model_copy(update={"home": tmp_path, "lake_uri": trained.lake})
    monkeypatch.setattr(infra.settings, "get_settings", lambda: settings)
    return settings


def run(*arguments: str) -> str:
    done = CliRunner().invoke(cli, ["serving", "replay", "--recipe", "tiny", *arguments], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return str(done.stdout)


def test_the_command_replays_scores_and_keeps(home: Settings) -> None:
    days = f"{REPLAYED[0]}..{REPLAYED[-1]}"
    picture = home.home / "modes.png"
    found = json.loads(run("--days", days, "--latency-ms", "10,60", "--json", "--plot", str(picture)))
    assert [mode["mode"]["name"] for mode in found["modes"]] == ["frozen", "batch", "realtime", "async"]
    assert found["num_requests"] < found["num_examples"]
    by = {mode["mode"]["name"]: mode for mode in found["modes"]}
    assert by["realtime"]["next_day"]["share_of_realtime"] == by["realtime"]["online"]["share_of_realtime"] == 1
    assert by["realtime"]["coverage"] > by["async"]["coverage"] >= by["batch"]["coverage"] > 0.5
    assert 0 < by["realtime"]["fallback_rate"] < 0.3
    assert by["async"]["fallback_rate"] == 0
    assert by["realtime"]["newest_age_hours"] < by["async"]["newest_age_hours"] < by["batch"]["newest_age_hours"]
    assert len(by["batch"]["next_day"]["by_day"]) == len(REPLAYED) - 1
    assert picture.stat().st_size > 10_000
    (kept,) = (home.home / "serving" / "replay").iterdir()
    assert json.loads(kept.read_text()) == found
    table = run("--days", days, "--latency-ms", "10,60")
    for word in ("frozen", "batch", "realtime", "async", "-0.126"):
        assert word in table


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        pytest.param(["--days", f"{REPLAYED[0]}"], ["at least two"], id="one day"),
        pytest.param(["--days", f"{DAYS[0]}..{DAYS[2]}"], ["2026-01-01"], id="nothing promoted before"),
        pytest.param(["--modes", "frozen,hourly"], ["hourly", "realtime"], id="unknown mode"),
        pytest.param(["--latency-ms", "fast"], ["fast", "8,32"], id="no latency"),
        pytest.param(["--latency-ms", "30,10"], ["30", "10"], id="p99 below the median"),
        pytest.param(["--frozen-ds", f"{REPLAYED[0]}"], [f"{REPLAYED[0]}", "older"], id="frozen too young"),
        pytest.param(["--frozen-ds", "2025-12-31"], ["2025-12-31", "2026-01-01"], id="frozen never promoted"),
        pytest.param(["--delay-ms", "-1"], ["-1"], id="negative delay"),
    ],
)
def test_what_the_user_gets_wrong_is_named(home: Settings, arguments: list[str], words: list[str]) -> None:
    given = [*([] if "--days" in arguments else ["--days", f"{REPLAYED[0]}..{REPLAYED[-1]}"]), *arguments]
    with pytest.raises(ValueError) as error:  # noqa: PT011
        run(*given)
    for word in words:
        assert word in str(error.value)


def test_a_replay_is_the_same_twice_and_the_arms_differ_by_what_they_join(trained: Settings) -> None:
    config = ReplayConfig(latency=Latency(median_ms=10, p99_ms=60))
    one, two = (
        replay(tiny_recipe(), CTR, REPLAYED, settings=trained, config=config, say=lambda line: None) for _ in range(2)
    )
    assert one.modes == two.modes
    assert (one.baseline_ne, one.baseline_online_ne) == (two.baseline_ne, two.baseline_online_ne)
    assert len({mode.next_day.ne for mode in one.modes}) == len({mode.online.ne for mode in one.modes}) == 4
