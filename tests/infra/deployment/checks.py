"""What compose.yaml and the chart both have to keep: commands that exist, settings that exist, no secret in sight."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path

import typer

from infra.settings import REPOSITORY, Settings

DEPLOYMENT = REPOSITORY / "infra" / "deployment"
SETTINGS = {f"USERMODEL_{name.upper()}" for name in Settings.model_fields}
OTHERS = {
    "MLFLOW_BACKEND_STORE_URI",
    "MLFLOW_DISABLE_TELEMETRY",
    "MLFLOW_S3_ENDPOINT_URL",
    "MLFLOW_SERVER_ENABLE_JOB_EXECUTION",
    "AWS_SHARED_CREDENTIALS_FILE",
    "AIRFLOW_HOME",
    "DO_NOT_TRACK",
    "OMP_NUM_THREADS",
    "PYTHONUNBUFFERED",
    "POD_INDEX",
    "POD_IP",
    "SSL_CERT_DIR",
    "SSL_CERT_FILE",
}
MLFLOW_OPTIONS = {"--host", "--port", "--workers", "--artifacts-destination", "--allowed-hosts", "--uvicorn-opts"}
"""Of `mlflow server`; importing its command line takes seconds."""
AIRFLOW_COMMANDS = {"db migrate", "api-server", "dag-processor", "triggerer"}


def require_command(command: Sequence[str]) -> None:
    """The command line is one that its program takes: ours is parsed, and not run."""
    program, *words = (re.sub(r"^\$\(\w+\)$", "0", str(word)) for word in command)
    if program == "usermodel":
        _parse(_ours(), words)
    elif program == "mlflow":
        assert words[0] == "server", command
        assert {word.partition("=")[0] for word in words if word.startswith("--")} <= MLFLOW_OPTIONS, command
    elif program == "airflow":
        assert any(" ".join(words).startswith(known) for known in AIRFLOW_COMMANDS), command
    elif program == "python":
        assert words[0] == "-m"
        assert importlib.util.find_spec(words[1]) is not None, command
    else:
        raise AssertionError(f"{command}: {program} is no program of the image")


@cache
def _ours() -> object:
    from infra.commands import cli  # torch and all; most tests here need none of it

    return typer.main.get_command(cli)


def _parse(command: object, words: Sequence[str]) -> None:
    name, left = "usermodel", list(words)
    while hasattr(command, "commands"):
        name = left.pop(0)
        command = command.commands[name]
    with command.make_context(name, left) as parsed:  # type: ignore[attr-defined]
        assert not parsed.args, f"{words}: {parsed.args} is left over"


def require_environment(variables: Mapping[str, object]) -> None:
    """Every variable is a setting of ours or known; a secret's is a file or a command that reads one."""
    for name, value in variables.items():
        if name.startswith("AIRFLOW__"):
            assert re.fullmatch(r"AIRFLOW__[A-Z_]+?__[A-Z_]+", name), name
        elif name.startswith("USERMODEL_"):
            assert name in SETTINGS, f"{name} is no setting of infra/settings"
        else:
            assert name in OTHERS, f"{name} is read by nobody"
        if name.startswith("USERMODEL_KUBERNETES_"):
            continue  # names of Secrets
        if re.search(r"SECRET|PASSWORD|TOKEN|KEY|SQL_ALCHEMY_CONN|STORE_URI|_URL(S)?$", name):
            assert value is None or _is_reference(str(value)), f"{name} is a secret in the open"


def _is_reference(value: str) -> bool:
    return value == "" or value.startswith(("/", "cat /")) or bool(re.fullmatch(r"https?://[^@]+", value))


def pinned(image: str) -> bool:
    """By a digest, or by a tag that names a version to the last number."""
    return bool(re.fullmatch(r"\S+@sha256:[0-9a-f]{64}|\S+:\d+\.\d+(\.\d+)?-\w+|\S+:RELEASE\.\S+", image))


def text_of(path: str) -> str:
    """A file of the deployment."""
    return (DEPLOYMENT / Path(path)).read_text(encoding="utf-8")
