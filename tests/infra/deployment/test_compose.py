"""The compose file: what it starts, what it lets in, and the secrets that its script makes."""

from __future__ import annotations

import json
import re
import subprocess
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

from features.object_store import connection
from infra.deployment import probe
from infra.settings import Settings, child_environment
from serving.http.limits import LOOPBACK_HOSTS
from tests.infra.deployment.checks import DEPLOYMENT, pinned, require_command, require_environment

COMPOSE = DEPLOYMENT / "compose"
GIVEN = {"USERMODEL_IMAGE": "registry.example.org/usermodel@sha256:" + "5e" * 32, "USERMODEL_SECRETS": "/secrets"}
OURS = ("mlflow", "airflow-", "serving-", "loop-")


def _value(match: re.Match[str]) -> str:
    name, default = match["name"], match["default"] or ""
    if default.startswith(":?"):
        assert name in GIVEN, f"{name} is not given"
    return GIVEN.get(name, default.removeprefix(":-"))


@cache
def composed() -> dict[str, Any]:
    """The file as compose reads it: variables put in, `$$` a dollar."""
    text = (COMPOSE / "compose.yaml").read_text()
    lines = [line for line in text.splitlines() if not line.lstrip().startswith("#")]
    text = re.sub(r"(?<!\$)\$\{(?P<name>\w+)(?P<default>:[-?][^}]*)?\}", _value, "\n".join(lines))
    found: dict[str, Any] = yaml.safe_load(text.replace("$$", "$"))
    return found


def services() -> dict[str, Any]:
    """By name."""
    found: dict[str, Any] = composed()["services"]
    return found


each_service = pytest.mark.parametrize("name", sorted(services()))


@each_service
def test_a_container_can_do_little(name: str) -> None:
    service = services()[name]
    assert service["read_only"]
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert int(service["user"].partition(":")[0]) > 0
    assert not {"privileged", "network_mode", "pid", "ipc", "devices", "cap_add"} & set(service)
    assert {"cpus", "memory", "pids"} <= set(service["deploy"]["resources"]["limits"])
    assert pinned(service["image"])
    assert all(port.startswith("127.0.0.1:") for port in service.get("ports", []))
    assert not any(volume.startswith(("/", "~")) for volume in service.get("volumes", []))


@each_service
def test_it_waits_for_what_it_needs(name: str) -> None:
    service = services()[name]
    if service["restart"] != "no":
        assert service["healthcheck"]["test"][0] in ("CMD", "CMD-SHELL")
    waited = service.get("depends_on", {})
    for other, how in waited.items():
        once = services()[other].get("restart") == "no"
        optional = "profiles" in services()[other] and "profiles" not in service
        assert how.get("required", True) is not optional
        assert how["condition"] == ("service_completed_successfully" if once else "service_healthy")
    hosts = set(re.findall(r"https?://([a-z][a-z0-9-]*):\d+", json.dumps(service))) - {"localhost"}
    assert hosts <= set(services()), hosts


@each_service
def test_what_it_names_is_there(name: str) -> None:
    service, whole = services()[name], composed()
    used = {one if isinstance(one, str) else one["source"] for one in service.get("secrets", [])}
    assert used <= set(whole["secrets"])
    assert set(service["networks"]) <= set(whole["networks"])
    kept = {volume.partition(":")[0] for volume in service.get("volumes", []) if not volume.startswith(".")}
    assert kept <= set(whole["volumes"])
    read = set(re.findall(r"/run/secrets/(\w+)", json.dumps(service)))
    assert read <= used, f"{read - used} is read and not given"


def test_nothing_is_left_over() -> None:
    text = json.dumps(services())
    for part in ("secrets", "volumes", "networks"):
        assert all(re.search(rf'"{name}["\:]', text) for name in composed()[part]), part
    assert composed()["networks"]["inside"]["internal"]
    published = {name for name, service in services().items() if service.get("ports")}
    assert published == {"airflow-api-server", "mlflow", "serving-http"}
    assert all("outside" in services()[name]["networks"] for name in published)
    assert not {"postgres", "redis", "s3", "serving-compute", "loop-metrics"} & {
        name for name, service in services().items() if "outside" in service["networks"]
    }


@pytest.mark.parametrize("name", sorted(name for name in services() if name.startswith(OURS)))
def test_what_runs_exists(name: str) -> None:
    service = services()[name]
    command = service["command"]
    if command[0] == "/bin/sh":
        *_, command = (one.split() for one in re.split(r"exec ", command[2]))
        command = [word.strip('"') for word in command]
    require_command(command)
    require_environment(service["environment"])
    if "healthcheck" in service:
        _, *words = service["healthcheck"]["test"]
        require_command(words)
        assert words[2] == "infra.deployment.probe"
    if name == "serving-http":
        assert {"serving-http"} == {command[at + 1] for at, word in enumerate(command) if word == "--allow-host"}
        assert "127.0.0.1" in LOOPBACK_HOSTS, "the health check's host"
    assert probe.TIMEOUT_SECONDS < 5


def test_words_are_expected_of_pages_that_have_some() -> None:
    tests = [service["healthcheck"]["test"] for service in services().values() if "healthcheck" in service]
    asked = [test[4:] for test in tests if "infra.deployment.probe" in test]
    assert any(words for _, *words in asked)
    for url, *words in asked:
        assert bool(words) == url.endswith("/api/v2/monitor/health"), "of Airflow's pages that one alone has a body"


def test_no_program_is_given_a_secret_as_an_argument() -> None:
    """A shell may put one into a variable or a file; whoever lists processes sees arguments."""
    for name, service in services().items():
        for line in re.split(r";|\n", str((service.get("command") or [""])[-1])):
            read = "$(cat /run/secrets/" in line
            assert not read or re.match(r"\s*[A-Za-z_0-9]+=", line), f"{name}: {line}"


def _make_secrets(folder: Path, **environment: str) -> dict[str, str]:
    told = {"USERMODEL_SECRETS": str(folder), "USERMODEL_ALERT_URLS": "json://example.org"}
    subprocess.run([str(COMPOSE / "up"), "secrets"], env=child_environment(**told, **environment), check=True)
    return {path.name: path.read_text() for path in folder.iterdir()}


def test_secrets_are_made_once(tmp_path: Path) -> None:
    folder = tmp_path / "secrets"
    made = _make_secrets(folder)
    assert folder.stat().st_mode & 0o777 == 0o700
    files = {name: Path(one["file"]) for name, one in composed()["secrets"].items()}
    assert {file.name for file in files.values()} == set(made) - {"airflow_password", "token", "s3_keys"}
    assert {name for name, file in files.items() if file != Path("/secrets", name)} == {"storage"}
    assert _make_secrets(folder) == made, "a second time changes nothing"
    whole = [name for name in made if name != "s3_keys"]
    assert not [name for name in whole if made[name].endswith("\n")], "Airflow takes a line's end for a part of it"
    assert json.loads(made["airflow_passwords"]) == {"admin": made["airflow_password"]}
    assert made["postgres_password"] in made["airflow_database"]
    assert f"requirepass {made['redis_password']}\n" in made["redis_configuration"]
    assert len(made["jwt_secret"]) >= 64
    home = tmp_path / "home"
    (home / "credentials").mkdir(parents=True)
    for name in ("redis_url", "alert_urls"):
        (home / "credentials" / name).write_text(made[name])
    told = {name: composed()["x-settings"][f"USERMODEL_{name.upper()}"] for name in ("tls", "mlflow_uri")}
    settings = Settings(home=home, **told, _env_file=None)
    assert settings.feature_store() == made["redis_url"].strip()
    assert settings.alert_targets() == ("json://example.org",)
    assert _make_secrets(tmp_path / "other")["redis_password"] != made["redis_password"]


@pytest.mark.parametrize(
    ("environment", "opened"),
    [
        pytest.param({}, None, id="the machine's role"),
        pytest.param(
            {"AWS_ACCESS_KEY_ID": "AKID", "AWS_SECRET_ACCESS_KEY": "its=secret"}, "AKID", id="keys of our own"
        ),
    ],
)
def test_a_bucket_of_our_own_is_opened_with_our_own_keys(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], opened: str | None
) -> None:
    """And the one that `--s3` starts with its own; as a container reads what the script made."""
    for name in [name for name in child_environment() if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    _make_secrets(tmp_path)
    made = _make_secrets(tmp_path, **environment)
    for file, keys in (("storage_keys", opened), ("s3_keys", "usermodel")):
        monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / file))
        found = connection().keys
        assert (None if found is None else found.access_key_id.get_secret_value()) == keys
        if file == "s3_keys":
            assert found is not None
            assert found.secret_access_key.get_secret_value() == made["s3_password"]
    named = {name: service["environment"].get("AWS_SHARED_CREDENTIALS_FILE") for name, service in services().items()
             if "storage" in service.get("secrets", [])}  # fmt: skip
    assert set(named.values()) == {"/run/secrets/storage"}
    assert {"mlflow", "airflow-scheduler", "serving-compute", "loop-metrics"} <= set(named)


@pytest.mark.parametrize(
    ("words", "environment", "files"),
    [
        pytest.param([], {}, ["compose.yaml"], id="folders"),
        pytest.param(["--s3"], {}, ["compose.yaml"], id="a bucket within"),
        pytest.param(
            [], {"USERMODEL_STORAGE_URI": "s3://own/demo"}, ["compose.yaml", "bucket.yaml"], id="a bucket elsewhere"
        ),
    ],
)
def test_what_reads_a_bucket_elsewhere_has_a_way_out(
    tmp_path: Path, words: list[str], environment: dict[str, str], files: list[str]
) -> None:
    """And nothing else more than without; as `up` asks Docker."""
    docker = tmp_path / "bin" / "docker"
    docker.parent.mkdir()
    docker.write_text(f'#!/bin/sh\n[ "$2" = version ] || echo "$@" >> {tmp_path}/asked\n')
    docker.chmod(0o755)
    told = {"PATH": f"{docker.parent}:{child_environment()['PATH']}", "USERMODEL_SECRETS": str(tmp_path / "secrets")}
    subprocess.run([str(COMPOSE / "up"), *words], env=child_environment(**told, **environment), check=True)
    asked = (tmp_path / "asked").read_text().split()
    assert [Path(asked[at + 1]).name for at, word in enumerate(asked) if word == "--file"] == files
    opened = yaml.safe_load((COMPOSE / "bucket.yaml").read_text())["services"]
    reads = {name for name, one in services().items() if "storage" in one.get("secrets", [])}
    assert set(opened) == {name for name in reads if "outside" not in services()[name]["networks"]}
    assert all(one == {"networks": ["inside", "outside"]} for one in opened.values())
