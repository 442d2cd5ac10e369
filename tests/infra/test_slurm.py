"""A real Slurm cluster, where Slurm can be had: installed, or fetched by apt."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from infra.processes import is_alive, listening, port_is_free, with_environment
from infra.settings import LOOPBACK, Settings
from infra.slurm import engine
from infra.slurm.configuration import Cluster
from infra.slurm.programs import NoSlurmError, find_programs
from infra.supervision import Supervisor
from tests.infra.ports import free_row

NODES = 2


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Settings]:
    """Of a running cluster; two that start it at once are one start."""
    chosen = Settings(home=tmp_path_factory.mktemp("home"), slurm_port=free_row(1 + NODES), _env_file=None)
    try:
        with ThreadPoolExecutor() as pool:
            starts = [pool.submit(engine.up, chosen, num_nodes=NODES, say=print) for _ in range(2)]
            assert sorted(start.result() for start in starts) == [False, True]
    except NoSlurmError as error:
        pytest.skip(str(error))
    yield chosen
    engine.down(chosen, say=print)


@pytest.fixture
def cluster(settings: Settings) -> Cluster:
    return Cluster(settings, num_nodes=NODES)


def ask(cluster: Cluster, client: str, *arguments: str) -> str:
    command = [str(cluster.programs_folder / client), *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=60).stdout


def submit(cluster: Cluster, folder: Path, command: str) -> str:
    """The number of a job that runs `command` on both nodes."""
    script = folder / "job"
    script.write_text(f"#!/bin/sh\n#SBATCH --nodes={NODES} --ntasks-per-node=1\nsrun sh -c {command!r}\n")
    return ask(cluster, "sbatch", "--parsable", f"--output={folder}/output", str(script)).strip()


def state_of(cluster: Cluster, job: str) -> str:
    return ask(cluster, "scontrol", "--oneliner", "show", "job", job).partition("JobState=")[2].split()[0]


def wait_for(condition: Callable[[], object], *, seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not come about in time"
        time.sleep(0.1)


def pid_of(cluster: Cluster, name: str) -> int:
    return int((cluster.folder / f"{name}.pid").read_text())


@pytest.mark.slow
def test_a_job_runs_on_both_nodes(cluster: Cluster, tmp_path: Path) -> None:
    job = submit(cluster, tmp_path, "echo $SLURMD_NODENAME $(hostname)")
    wait_for(lambda: state_of(cluster, job) == "COMPLETED")
    assert sorted((tmp_path / "output").read_text().splitlines()) == ["node1 localhost", "node2 localhost"]


@pytest.mark.slow
def test_it_listens_on_loopback_alone(cluster: Cluster) -> None:
    listeners = {(address, port) for address, port, _ in listening(with_environment(cluster.mark))}
    assert listeners == {(LOOPBACK, port) for port in cluster.ports.values()}


@pytest.mark.slow
def test_only_its_owner_reads_the_key_and_enters(cluster: Cluster) -> None:
    modes = {path: path.stat().st_mode & 0o777 for path in (cluster.folder, cluster.folder / "munge.key")}
    assert list(modes.values()) == [0o700, 0o600]
    assert cluster.socket.parent.stat().st_mode & 0o777 == 0o700


@pytest.mark.slow
def test_killed_daemons_come_back_and_the_job_goes_on(settings: Settings, cluster: Cluster, tmp_path: Path) -> None:
    job = submit(cluster, tmp_path, f"until [ -e {tmp_path}/go ]; do sleep 0.1; done; echo done")
    wait_for(lambda: state_of(cluster, job) == "RUNNING")
    running, saved = time.time(), cluster.folder / "state" / "job_state"
    wait_for(lambda: saved.exists() and saved.stat().st_mtime > running)  # what is younger, a killed controller forgets
    victims = [pid_of(cluster, name) for name in ("slurmctld", "slurmd-node1")]
    supervisord = Supervisor(cluster.settings).pid()
    assert supervisord is not None
    for pid in (*victims, supervisord):
        os.kill(pid, signal.SIGKILL)
    wait_for(lambda: not any(map(is_alive, (*victims, supervisord))))
    engine.up(settings, num_nodes=NODES, say=print)
    assert state_of(cluster, job) == "RUNNING"
    (tmp_path / "go").touch()
    wait_for(lambda: state_of(cluster, job) == "COMPLETED")
    assert (tmp_path / "output").read_text().splitlines() == ["done", "done"]


@pytest.mark.slow
def test_another_number_of_nodes_needs_a_stop(settings: Settings) -> None:
    with pytest.raises(engine.SlurmError, match="usermodel infra slurm down"):
        engine.up(settings, num_nodes=NODES + 1, say=print)


@pytest.mark.slow
def test_down_leaves_nothing_running(settings: Settings, cluster: Cluster, tmp_path: Path) -> None:
    assert any(line.startswith("node2 ") for line in engine.status(settings))
    job = submit(cluster, tmp_path, "sleep 600")
    wait_for(lambda: state_of(cluster, job) == "RUNNING")
    assert engine.down(settings, say=print)
    assert with_environment(cluster.mark) == set()
    assert all(port_is_free(LOOPBACK, port) for port in cluster.ports.values())
    assert re.search(rf"JobId={job} .*JobState=CANCELLED", (cluster.folder / "completed").read_text())
    assert not engine.down(settings, say=print)


def test_without_slurm_and_apt_the_remedy_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("infra.slurm.programs._SYSTEM", (str(tmp_path),))
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(NoSlurmError, match=r"has no sbatch, .* slurmctld.* no apt-get .*apt-get install slurm-wlm"):
        find_programs(tmp_path / "packages", say=print)


def test_without_namespaces_the_remedy_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(NoSlurmError, match=r"'unshare'.*user\.max_user_namespaces"):
        engine.up(Settings(home=tmp_path, _env_file=None), num_nodes=NODES, say=print)


@pytest.mark.slow
def test_a_port_in_use_is_refused_before_anything_starts(settings: Settings, cluster: Cluster) -> None:
    port = cluster.ports["node2"]
    with (
        socket.create_server((LOOPBACK, port)),
        pytest.raises(engine.SlurmError, match=rf"port {port} of node2 .* pid {os.getpid()} .* USERMODEL_SLURM_PORT"),
    ):
        engine.up(settings, num_nodes=NODES, say=print)
    assert Supervisor(cluster.settings).pid() is None
