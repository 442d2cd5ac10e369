"""The checks themselves: what they have to refuse."""

from __future__ import annotations

import pytest

from tests.infra.deployment.checks import pinned, require_command, require_environment


@pytest.mark.parametrize(
    ("image", "is_pinned"),
    [
        pytest.param("registry.example.org/usermodel@sha256:" + "5e" * 32, True, id="a digest"),
        pytest.param("docker.io/library/postgres:17.6-bookworm", True, id="a whole version"),
        pytest.param("docker.io/library/postgres:17", False, id="a version that moves"),
        pytest.param("docker.io/library/postgres:latest", False, id="latest"),
        pytest.param("docker.io/library/postgres", False, id="nothing"),
        pytest.param("registry.example.org/usermodel@sha256:5e", False, id="half a digest"),
    ],
)
def test_pinned(image: str, is_pinned: bool) -> None:
    assert pinned(image) is is_pinned


@pytest.mark.parametrize(
    "variables",
    [
        pytest.param({"USERMODEL_LAKE": "s3://bucket"}, id="no setting"),
        pytest.param({"LAKE_URI": "s3://bucket"}, id="read by nobody"),
        pytest.param({"USERMODEL_REDIS_URL": "redis://:hunter2@redis:6379/0"}, id="a password in a URL"),
        pytest.param({"MLFLOW_BACKEND_STORE_URI": "postgresql://um:hunter2@postgres/mlflow"}, id="of a database"),
        pytest.param({"AIRFLOW__CORE__FERNET_KEY": "hunter2"}, id="a key"),
    ],
)
def test_an_environment_that_is_refused(variables: dict[str, str]) -> None:
    with pytest.raises(AssertionError, match=next(iter(variables))):
        require_environment(variables)


@pytest.mark.parametrize(
    "command",
    [
        pytest.param("python -m infra.nowhere", id="no such module"),
        pytest.param("mlflow server --hosts 0.0.0.0", id="no such option"),
        pytest.param("airflow standalone", id="a command that we do not run"),
        pytest.param("redis-server", id="not in the image"),
    ],
)
def test_a_command_that_is_refused(command: str) -> None:
    with pytest.raises(AssertionError):
        require_command(command.split())


@pytest.mark.parametrize(
    "command",
    [
        pytest.param("usermodel serving http --hosts 0.0.0.0", id="no such option"),
        pytest.param("usermodel serving shard --recipe demo", id="options are missing"),
        pytest.param("usermodel serving https", id="no such command"),
    ],
)
def test_a_command_line_of_ours_that_is_refused(command: str) -> None:
    with pytest.raises(Exception, match=r"[Nn]o such option|Missing|https"):
        require_command(command.split())
