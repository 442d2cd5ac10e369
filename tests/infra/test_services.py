"""The real services, started once in a temporary home on free ports."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from datetime import date
from pathlib import Path

import httpx
import pytest
import redis

from features.lake import Lake
from infra import online, services
from infra.airflow import Airflow
from infra.commands.champions import request_and_answer, serve_champions
from infra.commands.loop import Wanted, run_days
from infra.commands.models import model_lines
from infra.credentials import ensure_credentials
from infra.processes import is_alive, listening, port_is_free
from infra.settings import LOOPBACK, Settings, child_environment, get_settings
from infra.slurm import engine as slurm
from infra.slurm.configuration import Cluster
from infra.slurm.programs import NoSlurmError
from infra.supervision import MARKER, Program, Supervisor, log_file, marked, runtime_folder
from snapshots.registry import Registry
from tests.infra.ports import ONLINE_PORTS, PORTS, free_row, on_free_ports
from trainer.recipes import get_recipe
from trainer.trained import find_trained


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Settings]:
    settings = on_free_ports(tmp_path_factory.mktemp("home"))
    assert services.start(settings, progress=print)
    yield settings
    services.stop(settings)


def state_of(settings: Settings) -> dict[str, str]:
    return {service.name: service.state for service in services.status(settings)}


def wait_for(condition: object, *, seconds: float = 30.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < deadline, "it did not come about in time"
        time.sleep(0.2)


@pytest.mark.slow
def test_all_are_healthy(running: Settings) -> None:
    assert set(state_of(running).values()) == {"healthy"}
    assert len(state_of(running)) == 8


@pytest.mark.slow
def test_a_second_start_does_nothing(running: Settings) -> None:
    before = [(service.name, service.pid) for service in services.status(running)]
    assert not services.start(running, progress=print)
    assert [(service.name, service.pid) for service in services.status(running)] == before


@pytest.mark.slow
def test_a_start_with_other_ports_is_refused(running: Settings) -> None:
    other = running.model_copy(update={"redis_port": on_free_ports(running.home).redis_port})
    with pytest.raises(services.ServiceError, match="run infra/down first"):
        services.start(other, progress=print)


@pytest.mark.slow
def test_they_listen_on_loopback_alone(running: Settings) -> None:
    listeners = {(address, port) for address, port, _ in listening(marked(running))}
    assert listeners == {(LOOPBACK, getattr(running, name)) for name in PORTS}


@pytest.mark.slow
def test_airflow_knows_its_user_and_nobody_else(running: Settings) -> None:
    url = f"{running.airflow}/api/v2/dags"
    token = services.airflow_token(running)
    assert httpx.get(url, headers={"Authorization": f"Bearer {token}"}).is_success
    with Airflow(running, token=token) as airflow:
        assert airflow.alive_schedulers() == 1
    assert httpx.get(url).status_code == httpx.codes.UNAUTHORIZED
    guess = {"username": running.airflow_user, "password": "admin"}
    assert httpx.post(f"{running.airflow}/auth/token", json=guess).status_code == httpx.codes.UNAUTHORIZED


@pytest.mark.slow
def test_redis_asks_for_the_password(running: Settings) -> None:
    with (
        redis.Redis(host=LOOPBACK, port=running.redis_port) as client,
        pytest.raises(redis.AuthenticationError),
    ):
        client.ping()


@pytest.mark.slow
def test_airflows_own_command_line_works(running: Settings) -> None:
    answer = services.run_airflow_cli(running, "dags", "list", "--output", "json")
    assert answer.returncode == 0, answer.stderr


@pytest.mark.slow
def test_days_of_two_models_go_through_the_scheduler_side_by_side_and_reach_the_consumer(
    running: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both build the first day of their source at once; one of them goes on to a second."""
    monkeypatch.setattr("infra.airflow.PAGE", 4)  # the answers come in several pages
    running.remember()  # where tasks find the ports
    days, lines = (date(2026, 1, 1), date(2026, 1, 2)), list[str]()
    both = {"demo": days, "demo_a": days[:1]}
    asked = [Wanted(recipe=get_recipe(name), days=of) for name, of in both.items()]
    with Airflow(running, token=services.airflow_token(running)) as airflow:
        run_days(airflow, asked, say=lines.append)
        steps = [line.split()[:3] for line in lines if line.startswith("2026")]
        embed = ["plan_inference", "infer_shard", "infer_shard", "commit_inference"]
        order = ["build_examples", "train", "publish", *embed, "check_shift", "gate", "promote"]
        for name, of in both.items():
            assert [(day, step) for day, model, step in steps if model == name] == [
                (str(ds), s) for ds in of for s in order
            ]
        assert ["2026-01-02", "downstream_demo_ctr"] in [step[:2] for step in steps]
        run_days(airflow, asked, say=lines.append)
    assert "nothing to do" in lines[-1]
    registry, lake = Registry(running), Lake(running.lake)
    assert {version.ds for version in registry.promoted("demo", before=date(2026, 1, 3))} == set(days)
    assert [registry.aliases(name)["champion"] for name in both] == [2, 1]
    said = list(model_lines(running))
    assert [line.split()[2] for line in said] == ["demo", "demo_a"], "of those that have a version"
    assert "champion v2 of 2026-01-02, 2 versions; read by demo_ctr" in said[0]
    learnt = [find_trained(running, name, days[0]) for name in both]
    assert [day is not None and day.num_examples for day in learnt] == [60_000, 29_888]
    embedded = [lake.num_rows(lake.get(f"user_embeddings/{name}", days[0])) for name in both]
    assert embedded == [lake.num_rows(lake.get("user_features/demo", days[0]))] * 2, (
        "both embed every user of the source"
    )


@pytest.mark.slow
def test_slurm_trains_a_day_of_the_dag_on_two_nodes(running: Settings) -> None:
    chosen: dict[str, object] = {"scheduler": "slurm", "hosts": 2, "ranks": 1, "host_interface": "lo"}
    settings, said = running.model_copy(update={"slurm_port": free_row(3), **chosen}), list[str]()
    ds = date(2026, 1, 2)
    try:
        slurm.up(settings, num_nodes=2, say=print)
    except NoSlurmError as error:
        pytest.skip(str(error))
    try:
        settings.remember()  # the next task reads it
        with Airflow(settings, token=services.airflow_token(settings)) as airflow:
            run_days(airflow, [Wanted(recipe=get_recipe("demo_a"), days=(ds,))], say=said.append)
        (job,) = (Cluster(settings, num_nodes=2).folder / "completed").read_text().splitlines()
        assert re.search(r"JobState=COMPLETED .*NodeList=node\[?1", job), job
    finally:
        slurm.down(settings, say=print)
        running.remember()
    learnt = find_trained(running, "demo_a", ds)
    assert learnt is not None
    assert learnt.ranks == 2, said


@pytest.mark.slow
def test_the_champion_is_served_beside_what_runs_until_it_is_not_wanted(
    running: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, served = Supervisor(running).processes(), ["demo", "demo_a"]
    serving, said = running.remember(served=[*served, "globo"]), list[str]()
    monkeypatch.setenv("USERMODEL_HOME", str(running.home))
    get_settings.cache_clear()
    assert not services.start(serving, progress=print), "nothing else had to be started"
    assert serve_champions(serving, say=said.append) == ("demo", "demo_a")
    assert "globo: nothing to serve yet" in said[0]
    assert {name: state_of(serving)[name] for name in online.NAMES} == dict.fromkeys(online.NAMES, "healthy")
    where, request, answer = request_and_answer(serving, served).splitlines()
    assert f"http://{LOOPBACK}:{serving.serving_port}" in where
    assert request.startswith("curl ")
    found = {name: json.loads(answer)["embeddings"][name] for name in served}
    told = {name: (of["origin"], of["default"], of["served_version"]) for name, of in found.items()}
    assert told["demo"] == ("store", False, 2)
    assert told["demo_a"][2] == Registry(serving).aliases("demo_a")["champion"]
    listeners = {(address, port) for address, port, _ in listening(marked(serving))}
    assert listeners == {(LOOPBACK, getattr(serving, name)) for name in (*PORTS, *ONLINE_PORTS)}

    assert not services.start(running.remember(served=[]), progress=print), "the others were healthy all the time"
    after = Supervisor(running).processes()
    assert {name: one.pid for name, one in after.items()} == {name: one.pid for name, one in before.items()}
    assert all(port_is_free(LOOPBACK, getattr(running, name)) for name in ONLINE_PORTS)


@pytest.mark.slow
def test_no_secret_is_on_a_command_line_or_in_an_environment(running: Settings) -> None:
    credentials = ensure_credentials(running)
    secrets = [path.read_bytes().strip() for path in credentials.folder.iterdir() if path.suffix == ""]
    pids = marked(running)
    assert len(pids) > 7
    for pid in pids:
        try:
            seen = b"".join((Path("/proc") / str(pid) / name).read_bytes() for name in ("cmdline", "environ"))
        except OSError:
            continue
        assert not [secret for secret in secrets if secret in seen]


@pytest.mark.slow
def test_a_killed_service_comes_back(running: Settings) -> None:
    pid = Supervisor(running).processes()["redis"].pid
    os.kill(pid, signal.SIGKILL)
    wait_for(lambda: not is_alive(pid))
    wait_for(lambda: state_of(running)["redis"] == "healthy")


@pytest.mark.slow
def test_a_start_after_supervisord_was_killed_cleans_up_and_works(running: Settings) -> None:
    pid = Supervisor(running).pid()
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    assert services.start(running, progress=print)
    assert set(state_of(running).values()) == {"healthy"}


@pytest.mark.slow
def test_stop_leaves_no_process_and_no_port(running: Settings) -> None:
    env = child_environment(**{MARKER: str(running.home.resolve())})
    escaped = subprocess.Popen(["sleep", "600"], env=env, start_new_session=True)
    assert services.stop(running, progress=print)
    assert escaped.wait(timeout=5) == -signal.SIGTERM
    assert marked(running) == set()
    assert all(port_is_free(LOOPBACK, getattr(running, name)) for name in PORTS)
    assert set(state_of(running).values()) == {"stopped"}
    assert not services.stop(running, progress=print)


@pytest.mark.parametrize("name", PORTS)
def test_a_port_in_use_is_refused_before_anything_starts(tmp_path: Path, name: str) -> None:
    settings = on_free_ports(tmp_path)
    port = getattr(settings, name)
    setting = f"USERMODEL_{name.upper()}"
    with (
        socket.create_server((LOOPBACK, port)),
        pytest.raises(services.ServiceError, match=rf"port {port} .* pid {os.getpid()} .* {setting}"),
    ):
        services.start(settings, progress=print)
    assert Supervisor(settings).pid() is None
    assert not (tmp_path / "postgres").exists()


def test_a_service_that_fails_is_named_with_its_last_words(tmp_path: Path) -> None:
    settings = on_free_ports(tmp_path)
    command = ["sh", "-c", "echo out of luck; exit 3"]
    broken = services.Service(program=Program(name="broken", command=command), check=lambda *_: None)
    supervisor = Supervisor(settings)
    supervisor.launch([broken.program], environment=child_environment())
    try:
        supervisor.start(["broken"])
        with pytest.raises(services.ServiceError, match=r"broken failed(.|\n)*out of luck") as failure:
            services.wait_until_healthy(settings, [broken], progress=print)
        assert str(log_file(settings, "broken")) in str(failure.value)
    finally:
        supervisor.shutdown()


def test_sockets_move_when_the_home_folders_path_is_too_long(tmp_path: Path) -> None:
    long_home = tmp_path / ("long" * 30)
    folder = runtime_folder(Settings(home=long_home, _env_file=None))
    assert not folder.is_relative_to(tmp_path)
    assert folder.stat().st_mode & 0o777 == 0o700
    folder.rmdir()
