"""Airflow, its workers on other hosts, MLflow, metrics and alerts."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Self
from urllib.parse import urlsplit

from pydantic import Field, SecretStr, model_validator

from infra.settings.base import LOOPBACK, REPOSITORY, is_loopback
from infra.settings.protection import Protection

EDGE_STEPS = ("train", "infer_shard", "retrain")
"""Steps that may run on another host: what they read and write lies in shared storage and MLflow."""


class Loop(Protection):
    """What runs the daily loop, and who is told of it."""

    airflow_port: int = Field(8080, ge=1, le=65535, description="port of Airflow's web server")
    airflow_user: str = Field("admin", description="the user that `infra up` creates in Airflow")

    dags_dir: Path = Field(REPOSITORY / "dags", description="folder of the DAG files")
    schedulers: int = Field(1, ge=1, le=8, description="Airflow schedulers side by side; if one dies, the others go on")
    parallel_tasks: int = Field(4, ge=1, description="tasks at once, of all schedulers together")
    edge_steps: str = Field(
        "", description="steps that edge workers run: STEP=QUEUE …, of train, infer_shard and retrain; none: no edge"
    )
    airflow_uri: str | None = Field(
        None, description="the Airflow elsewhere: that an edge worker works for, or metrics ask"
    )
    worker_queues: str = Field("", description="of an edge worker, kept by `infra worker`: its queues, by blanks")
    worker_name: str = Field("", description="of an edge worker: unlike every other's; default: the host's name")
    worker_tasks: int = Field(1, ge=1, description="of an edge worker: tasks at once")
    jwt_secret_file: Path | None = Field(
        None, description="of an edge worker: file of the secret that signs its requests; <home>/credentials/jwt_secret"
    )
    mlflow_port: int = Field(5000, ge=1, le=65535, description="port of the MLflow server")
    mlflow_uri: str | None = Field(None, description="MLflow tracking server; default: the one `infra up` starts")
    mlflow_token_file: Path | None = Field(None, description="the token that MLflow, or the proxy before it, asks for")
    metrics_port: int = Field(8092, ge=1, le=65535, description="port of the daily loop's metrics")
    alert_urls: SecretStr | None = Field(
        None, description="where alerts go: Apprise URLs, separated by blanks; kept in <home>/credentials/alert_urls"
    )

    @model_validator(mode="after")
    def _nothing_is_given_away_by_a_url(self) -> Self:
        for name in ("airflow_uri", "mlflow_uri"):
            uri = getattr(self, name)
            if uri is None:
                continue
            parts = urlsplit(uri)
            if "@" in parts.netloc:
                raise ValueError(
                    f"USERMODEL_{name.upper()} holds a name or password, which settings.env would keep; take it out, "
                    "and name the file of a token in USERMODEL_MLFLOW_TOKEN_FILE"
                )
            if self.tls == "required" and parts.scheme == "http" and not is_loopback(parts.hostname or ""):
                raise ValueError(
                    f"USERMODEL_{name.upper()} is {uri}, where tokens and data go in the clear; beyond loopback write "
                    "https://, or set USERMODEL_TLS=elsewhere where a mesh or a proxy encrypts"
                )
        return self

    @property
    def mlflow(self) -> str:
        """URI of the MLflow tracking server."""
        return self.mlflow_uri or f"http://{LOOPBACK}:{self.mlflow_port}"

    @property
    def airflow(self) -> str:
        """URL of Airflow's web server, without a slash at its end."""
        return (self.airflow_uri or f"http://{LOOPBACK}:{self.airflow_port}").rstrip("/")

    @property
    def alert_urls_file(self) -> Path:
        """Where `infra up` keeps `alert_urls`, mode 0600: a URL per line, `#` begins a comment."""
        return self.home / "credentials" / "alert_urls"

    @property
    def jwt_secret(self) -> Path:
        """File of the secret that signs requests to Airflow."""
        return self.jwt_secret_file or self.home / "credentials" / "jwt_secret"

    def edge_queues(self) -> dict[str, str]:
        """By step, the queue whose edge workers run it. ValueError for what is not `STEP=QUEUE …`."""
        found: dict[str, str] = {}
        for one in self.edge_steps.split():
            step, _, queue = one.partition("=")
            if step not in EDGE_STEPS or step in found or not re.fullmatch(r"[\w.-]+", queue):
                steps = ", ".join(EDGE_STEPS)
                raise ValueError(f"USERMODEL_EDGE_STEPS has {one!r}; write STEP=QUEUE …, each of {steps} at most once")
            found[step] = queue
        return found

    def alert_targets(self) -> tuple[str, ...]:
        """The Apprise URLs that alerts go to: secrets. None is set: alerts are kept and logged alone."""
        if self.alert_urls is not None:
            return tuple(self.alert_urls.get_secret_value().split())
        if not self.alert_urls_file.exists():
            return ()
        lines = (line.strip() for line in self.alert_urls_file.read_text(encoding="utf-8").splitlines())
        return tuple(line for line in lines if line and not line.startswith("#"))
