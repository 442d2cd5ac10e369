"""Agents of two hosts, as processes of this one, and the ranks that they start. No model is imported."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from infra.settings import LOOPBACK, REPOSITORY, child_environment
from trainer.rendezvous import Hosts, interface_address

AGENT = (sys.executable, "-m", "trainer.agent")


def start(directory: Path, *options: str, entry: str = "meeting:main") -> subprocess.Popen[str]:
    return subprocess.Popen(
        [*AGENT, *options, f"tests.trainer.launch.{entry}", "1", str(directory), str(directory)],
        cwd=REPOSITORY,
        env=child_environment(OMP_NUM_THREADS="1", PYTHONPATH=str(REPOSITORY)),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def test_the_ranks_of_two_hosts_meet_on_one_address(tmp_path: Path) -> None:
    agents = [start(tmp_path, "--nodes", "2", "--node-rank", rank) for rank in "01"]
    said = [agent.communicate(timeout=120)[0] for agent in agents]
    assert [agent.returncode for agent in agents] == [0, 0], said
    seen = [json.loads((tmp_path / f"seen-{rank}.json").read_text()) for rank in range(2)]
    for one in seen:
        assert (one["sum"], one["world_size"], one["local_world_size"]) == (1, 2, 1)
        assert set(one["listens_on"]) == {LOOPBACK}
    assert re.search(rf"listening on {LOOPBACK}:\d+", said[0])


def test_a_host_that_nobody_joins_gives_up(tmp_path: Path) -> None:
    alone = start(tmp_path, "--nodes", "2", "--node-rank", "1", "--join-seconds", "1")
    assert "nobody listens at" in alone.communicate(timeout=60)[0]
    assert alone.returncode == 1


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        pytest.param({"nodes": 0}, "--nodes 0", id="no host"),
        pytest.param({"node_rank": None}, "nobody knows who listens", id="nobody listens"),
        pytest.param({"endpoint": "somewhere"}, "give HOST:PORT", id="no port"),
        pytest.param({"lost_seconds": 1}, "--lost-seconds 1", id="too soon"),
    ],
)
def test_what_hosts_may_be_told(tmp_path: Path, changed: dict[str, object], message: str) -> None:
    told: dict[str, object] = {
        "nodes": 2,
        "node_rank": 0,
        "address": LOOPBACK,
        "endpoint": None,
        "directory": tmp_path,
        "join_seconds": 5,
        "lost_seconds": 3,
    }
    with pytest.raises(ValueError, match=message):
        Hosts(**(told | changed))  # type: ignore[arg-type]


def test_an_interface_that_is_not_there_is_named() -> None:
    assert interface_address("lo") == LOOPBACK
    with pytest.raises(ValueError, match=r"no interface 'nowhere'.*this host has .*lo"):
        interface_address("nowhere")
