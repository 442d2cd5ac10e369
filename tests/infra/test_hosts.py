"""Hosts are up in a moment, reach each other, can be cut off, and leave nothing behind, however they end."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from infra.commands import cli
from infra.hosts import namespaces
from infra.hosts.job import HostsJob
from infra.hosts.namespaces import NoNamespacesError, enter
from infra.hosts.rack import Rack, down, environment_of, left_over, stop
from infra.hosts.wire import Link
from infra.processes import children
from infra.settings import REPOSITORY, Settings, child_environment, get_settings
from tests.faults.attempts import wait_for

MISSING = namespaces.why_not()
needs_namespaces = pytest.mark.skipif(MISSING is not None, reason=str(MISSING))


def kernel() -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", os.uname().release)[:2])


ASK = """
import socket, sys, time
seconds = []
for _ in range(3):
    began = time.monotonic()
    try:
        socket.create_connection((sys.argv[1], 9), timeout=float(sys.argv[2])).close()
    except ConnectionRefusedError:
        seconds.append(time.monotonic() - began)
    except OSError:
        break
print(min(seconds, default="silent"))
"""
"""No host listens on port 9, so one that is there refuses."""


@pytest.fixture
def settings(tmp_path: Path) -> Iterator[Settings]:
    found = Settings(home=tmp_path, _env_file=None)
    yield found
    down(found)


def ask(rack: Rack, there: str, *, here: str = "host-1", seconds: float = 0.3) -> float | None:
    """Seconds of a round trip, the least of three; None where nothing came back."""
    answer = rack.run(here, [sys.executable, "-c", ASK, there, str(seconds)]).strip()
    return None if answer == "silent" else float(answer)


@needs_namespaces
def test_hosts_reach_each_other_until_they_are_cut_off_and_leave_nothing(settings: Settings, tmp_path: Path) -> None:
    private = tmp_path / "scratch"
    private.mkdir()
    interfaces = sorted(path.name for path in Path("/sys/class/net").iterdir())
    with Rack(3, settings=settings, private=[private]) as rack:
        assert rack.run("host-2", ["hostname"]).strip() == "host-2"
        rack.run("host-2", ["touch", str(private / "own"), str(tmp_path / "shared")])
        assert rack.run("host-1", ["ls", str(private)]) == ""
        assert (tmp_path / "shared").exists()
        assert ask(rack, "host-2") is not None
        rack.cut("host-2")
        assert (ask(rack, "host-2"), rack.is_cut("host-2")) == (None, True)
        assert ask(rack, "host-3") is not None
        rack.join("host-2")
        assert ask(rack, "host-2") is not None
        rack.split("host-3")
        assert ask(rack, "host-3") is None
        assert ask(rack, "host-2") is not None
        rack.split()
        assert ask(rack, "host-3") is not None
        left = rack.start("host-3", ["sleep", "600"], log=tmp_path / "log")
        assert left_over(settings)
    assert left.wait(10) != 0
    assert not left_over(settings)
    assert sorted(path.name for path in Path("/sys/class/net").iterdir()) == interfaces
    assert not [line for line in Path("/proc/self/mountinfo").read_text().splitlines() if str(tmp_path) in line]


@needs_namespaces
def test_a_cable_is_slow_or_lossy_and_whole_again(settings: Settings) -> None:
    with Rack(2, settings=settings) as rack:
        rack.shape("host-2", Link(delay_ms=80))
        slow = ask(rack, "host-2", seconds=5)
        assert slow is not None
        assert slow >= 0.08
        rack.shape("host-2", Link(loss=0.999999))
        assert ask(rack, "host-2") is None
        rack.shape("host-2", Link())
        quick = ask(rack, "host-2")
        assert quick is not None
        assert quick < 0.08


TALK = """
import socket, sys, time
from trainer.reach import retry_often
def listen():
    with socket.create_server(("", 9000)) as server:
        print("up", flush=True)
        with server.accept()[0] as connection:
            while connection.recv(64):
                print(time.monotonic(), flush=True)
def talk():
    with socket.create_connection(("host-2", 9000)) as connection:
        retry_often(connection)
        for _ in range(2):
            sys.stdin.readline()
            connection.send(b"word")
        sys.stdin.readline()
globals()[sys.argv[1]]()
"""
"""A listener that says when something came, and a talker that says something for every line it is given."""


@needs_namespaces
@pytest.mark.skipif(kernel() < (6, 15), reason="Linux before 6.15 cannot bound the pauses between TCP's attempts")
def test_what_was_lost_in_an_outage_comes_a_second_after_it(settings: Settings) -> None:
    """TCP alone tries at 0.2, 0.6, 1.4, 3 and 6.2 s."""
    with Rack(2, settings=settings) as rack, started(rack, "host-2", "listen") as listener:
        assert listener.stdout is not None
        assert listener.stdout.readline() == "up\n"
        with started(rack, "host-1", "talk") as talker:
            assert talker.stdin is not None
            print("warm", file=talker.stdin, flush=True)
            assert listener.stdout.readline()
            rack.cut("host-2")
            print("into the cut", file=talker.stdin, flush=True)
            time.sleep(3.3)
            rack.join("host-2")
            healed = time.monotonic()
            assert float(listener.stdout.readline()) - healed < 2
            print("end", file=talker.stdin, flush=True)


@contextmanager
def started(rack: Rack, host: str, part: str) -> Iterator[subprocess.Popen[str]]:
    command = enter(rack.pids()[host], [sys.executable, "-c", TALK, part], folder=REPOSITORY)
    environment = environment_of(rack.settings)
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment, text=True
    ) as process:
        yield process


@pytest.mark.slow
@needs_namespaces
def test_ranks_of_two_hosts_meet_and_a_failure_is_told(settings: Settings, tmp_path: Path) -> None:
    with Rack(2, settings=settings) as rack:
        job = HostsJob(rack, hosts=rack.names, lost_seconds=60)
        job("tests.trainer.launch.meeting:main", [str(tmp_path)], ranks=2, directory=tmp_path)
        for rank in range(2):
            seen = json.loads((tmp_path / f"seen-{rank}.json").read_text())
            assert (seen["sum"], seen["world_size"], seen["local_world_size"]) == (1, 2, 1)
        alone = HostsJob(rack, hosts=["host-2"], lost_seconds=60)
        with pytest.raises(RuntimeError, match=r"no rank left a message(?s:.*)host-2: .*no_such_module"):
            alone("no_such_module:main", [], ranks=2, directory=tmp_path)
        with pytest.raises(ValueError, match="3 ranks on 2 hosts"):
            job("tests.trainer.launch.meeting:main", [], ranks=3, directory=tmp_path)


@needs_namespaces
def test_hosts_stay_until_down(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("USERMODEL_HOME", str(settings.home))
    get_settings.cache_clear()
    up = [sys.executable, "-m", "infra.commands", "infra", "hosts", "up"]
    subprocess.run(up, env=child_environment(), cwd=REPOSITORY, check=True, capture_output=True)
    assert left_over(settings)

    def run(*arguments: str) -> Result:
        return CliRunner().invoke(cli, ["infra", "hosts", *arguments])

    assert "infra hosts down" in str(run("up").exception)
    assert run("run", "host-2", "--", "sh", "-c", "test $(hostname) = host-2 && exit 7").exit_code == 7
    assert "there is no host 'host-9'" in str(run("run", "host-9", "hostname").exception)
    assert "processes ended" in run("down").stdout
    assert not left_over(settings)
    assert "there is no host 'host-2'" in str(run("run", "host-2", "hostname").exception)


@needs_namespaces
def test_a_killed_owner_leaves_nothing(settings: Settings) -> None:
    code = "import sys, time; from infra.settings import Settings; from infra.hosts.rack import Rack, Link\n"
    code += "r = Rack(2, settings=Settings(home=sys.argv[1], _env_file=None)); r.shape('host-1', Link(delay_ms=1))\n"
    code += "print('up', flush=True); time.sleep(600)"
    with subprocess.Popen(
        [sys.executable, "-c", code, str(settings.home)], cwd=REPOSITORY, stdout=subprocess.PIPE
    ) as owner:
        assert owner.stdout is not None
        assert owner.stdout.readline() == b"up\n"
        assert left_over(settings)
        owner.kill()
    assert wait_for(lambda: not left_over(settings), seconds=30), left_over(settings)


@needs_namespaces
def test_hosts_end_with_what_was_stopped_on_them(settings: Settings, tmp_path: Path) -> None:
    """What waits for it outside stops with it, and only that takes note of its end."""
    with Rack(1, settings=settings) as rack:
        waits = rack.start("host-1", ["sleep", "600"], log=tmp_path / "log")
        assert wait_for(lambda: children(waits.pid), seconds=30)
        stop(waits, number=signal.SIGSTOP)
        stat = Path(f"/proc/{waits.pid}/stat")
        assert wait_for(lambda: stat.read_text().rpartition(")")[2].split()[0] == "T", seconds=30)
    assert waits.wait(timeout=10)
    assert not left_over(settings)


@needs_namespaces
def test_who_is_not_root_has_hosts_in_a_user_namespace(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    if (missing := namespaces.why_not()) is not None:
        pytest.skip(missing)
    with Rack(2, settings=settings) as rack:
        assert rack.run("host-1", ["readlink", "/proc/self/ns/user"]) != str(Path("/proc/self/ns/user").readlink())
        assert ask(rack, "host-2") is not None


def test_what_is_missing_is_named_with_its_remedy(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(namespaces._PROGRAMS, "no-such-program", "a-package")
    with pytest.raises(NoNamespacesError, match="no-such-program is not installed; install the package a-package"):
        Rack(2, settings=settings)


@pytest.mark.parametrize("wrong", [0, 65], ids=["none", "too many"])
def test_how_many_hosts(settings: Settings, wrong: int) -> None:
    with pytest.raises(ValueError, match=f"{wrong} hosts"):
        Rack(wrong, settings=settings)


@pytest.mark.parametrize("wrong", [{"loss": 1.0}, {"delay_ms": -1}, {"rate_mbit": -1}], ids=str)
def test_what_a_cable_cannot_be(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="delay and rate are 0 or more"):
        Link(**wrong)  # type: ignore[arg-type]
