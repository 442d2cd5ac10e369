"""Every setting of the project, and the only module that reads the environment.

A setting comes from, in this order: the environment (`USERMODEL_…`), the file `settings.env` in the home
folder (written by `usermodel infra up --data …`), the default below.
"""

from __future__ import annotations

import ipaddress
import os
import re
import socket
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Literal, Self
from urllib.parse import urlsplit

from pydantic import Field, SecretStr, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

REPOSITORY = Path(__file__).resolve().parent.parent
LOOPBACK = "127.0.0.1"
SECRETS = ("alert_urls", "redis_url")
"""Settings that `infra up` keeps in `<home>/credentials`, not in `settings.env`."""
EDGE_STEPS = ("train", "infer_shard", "retrain")
"""Steps that may run on another host: what they read and write lies in shared storage and MLflow."""


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches the address. A name other than localhost is taken for another machine's."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"


class Settings(BaseSettings):
    """The settings of one installation. Frozen: a process reads them once."""

    model_config = SettingsConfigDict(
        env_prefix="USERMODEL_",
        frozen=True,
        extra="ignore",
        hide_input_in_errors=True,  # a URL may hold a password
    )

    home: Path = Field(REPOSITORY / ".local", description="state, logs and credentials of this installation")
    data_dir: Path | None = Field(None, description="folder of the real logs (the one that holds globo/)")
    storage_uri: str | None = Field(
        None,
        description="root of what hosts share: s3://BUCKET/PREFIX, or a folder of theirs; default: home",
    )
    storage_endpoint: str | None = Field(None, description="URL of S3-compatible storage; default: AWS")
    storage_region: str | None = Field(None, description="region of the bucket; default: AWS_REGION, or us-east-1")
    storage_profile: str | None = Field(
        None, description="whose keys of <home>/credentials/storage, or else of AWS's own file; default: AWS_PROFILE"
    )
    storage_allow_http: bool = Field(False, description="let keys and data go in the clear beyond loopback")
    storage_seconds: float = Field(
        60, gt=0, description="a storage request is repeated for so long; then its step fails and says why"
    )
    storage_cache_gib: float = Field(
        20, ge=0, description="of a machine's disk, for what it reads of object storage; more while it is in use"
    )
    lake_uri: str | None = Field(None, description="root of the Delta tables; default: <storage_uri>/lake")
    mlflow_uri: str | None = Field(None, description="MLflow tracking server; default: the one `infra up` starts")
    mlflow_token_file: Path | None = Field(None, description="the token that MLflow, or the proxy before it, asks for")
    ranks: int = Field(2, ge=1, description="training ranks on this machine, one core each")
    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="where ranks compute; auto: a GPU each, if any")
    deadline_seconds: float = Field(
        120, gt=0, description="a training rank that waits longer for another, or for its data, fails and names it"
    )
    checkpoint_seconds: float = Field(
        300, ge=0, description="training saves so often within a day, where a killed day goes on; 0: never"
    )
    scheduler: Literal["local", "slurm", "kubernetes"] = Field(
        "local", description="who runs training: this machine, Slurm, or Kubernetes with Volcano"
    )
    hosts: int = Field(1, ge=1, description="hosts that train a day together, each with `ranks` ranks; not with local")
    host_interface: str = Field(
        "eth0", description="network interface between the hosts of a job; Slurm on one machine: lo"
    )
    lost_host_seconds: int = Field(
        15, ge=3, description="a host that is silent for so long fails the job, or restarts it"
    )
    job_dir: Path | None = Field(
        None,
        description="logs and signs of life of jobs, seen by all hosts; default: logs/training in the shared folder",
    )
    job_hours: float = Field(6, gt=0, description="the scheduler ends a job of Slurm or Kubernetes after so long")
    job_cores: int = Field(0, ge=0, description="cores of each host for a job; 0: as many as ranks")
    job_memory_gib: float = Field(
        0,
        ge=0,
        description="memory of each host for a job, GiB; 0: the partition's default (Kubernetes needs a number)",
    )
    job_restarts: int = Field(
        0, ge=0, description="so often do the hosts of a job start their ranks again, before it fails"
    )
    slurm_partition: str | None = Field(None, description="partition of Slurm; default: the cluster's")
    kubernetes_namespace: str = Field("default", description="namespace of jobs")
    kubernetes_queue: str = Field("default", description="Volcano's queue")
    kubernetes_image: str | None = Field(None, description="image with this installation; needed with kubernetes")
    kubernetes_service_account: str = Field("default", description="of a job's pods, which get no token of it")
    kubernetes_volumes: str = Field(
        "", description="shared volumes of a job, separated by blanks: CLAIM:/PATH, the same path as on this machine"
    )
    kubernetes_secrets: str = Field(
        "",
        description="names of Secrets, separated by blanks, whose keys are a job's variables (the lake's credentials)",
    )
    airflow_port: int = Field(8080, ge=1, le=65535, description="port of Airflow's web server")
    dags_dir: Path = Field(REPOSITORY / "dags", description="folder of the DAG files")
    schedulers: int = Field(1, ge=1, le=8, description="Airflow schedulers side by side; if one dies, the others go on")
    parallel_tasks: int = Field(4, ge=1, description="tasks at once, of all schedulers together")
    edge_steps: str = Field(
        "", description="steps that edge workers run: STEP=QUEUE …, of train, infer_shard and retrain; none: no edge"
    )
    airflow_uri: str | None = Field(None, description="of an edge worker: the Airflow it works for")
    worker_queues: str = Field("", description="of an edge worker, kept by `infra worker`: its queues, by blanks")
    worker_name: str = Field("", description="of an edge worker: unlike every other's; default: the host's name")
    worker_tasks: int = Field(1, ge=1, description="of an edge worker: tasks at once")
    jwt_secret_file: Path | None = Field(
        None, description="of an edge worker: file of the secret that signs its requests; <home>/credentials/jwt_secret"
    )
    mlflow_port: int = Field(5000, ge=1, le=65535, description="port of the MLflow server")
    redis_port: int = Field(6379, ge=1, le=65535, description="port of the embedded Redis")
    redis_memory_mib: int = Field(
        512, ge=1, description="memory of the embedded Redis; beyond it goes what would expire next"
    )
    redis_url: SecretStr | None = Field(
        None, description="another feature store than the embedded Redis; kept in <home>/credentials/redis_url"
    )
    redis_partitions: int = Field(
        1, ge=1, le=16384, description="users are spread over so many slots of a cluster; the same for every client"
    )
    serving_models: str = Field("", description="user models served online, separated by blanks; none: no serving")
    serving_shards: str = Field(
        "", description="models whose tables lie with shards: MODEL=HOST:PORT,HOST:PORT (shard 0 first) …"
    )
    serving_port: int = Field(8090, ge=1, le=65535, description="port of the online service")
    serving_compute_port: int = Field(8091, ge=1, le=65535, description="port of the compute center's metrics")
    metrics_port: int = Field(8092, ge=1, le=65535, description="port of the daily loop's metrics")
    tls: Literal["required", "elsewhere"] = Field(
        "required", description="beyond loopback: our own TLS, or elsewhere: a mesh or proxy encrypts what we do not"
    )
    tls_certificate: Path | None = Field(None, description="PEM of the certificate that our services show, with chain")
    tls_key: Path | None = Field(None, description="PEM of its key, mode 0600")
    tls_ca: Path | None = Field(None, description="PEM of whom our services and clients trust; default: the system's")
    tokens_file: Path | None = Field(
        None,
        description="who may ask our services: a line per client, NAME SCOPE,SCOPE SHA-256; read again when it changes",
    )
    token_file: Path | None = Field(None, description="the token that this process shows to other services, mode 0600")
    alert_urls: SecretStr | None = Field(
        None, description="where alerts go: Apprise URLs, separated by blanks; kept in <home>/credentials/alert_urls"
    )
    slurm_port: int = Field(
        6817, ge=1, le=65000, description="port of `infra slurm up`'s controller; its nodes take the next ones"
    )
    airflow_user: str = Field("admin", description="the user that `infra up` creates in Airflow")

    @model_validator(mode="after")
    def _jobs_fit_the_scheduler(self) -> Self:
        if self.scheduler == "local" and self.hosts > 1:
            raise ValueError(
                f"USERMODEL_HOSTS is {self.hosts} and USERMODEL_SCHEDULER local, which is one: name slurm or kubernetes"
            )
        if self.scheduler == "kubernetes" and not (self.kubernetes_image and self.job_memory_gib):
            raise ValueError("jobs on Kubernetes need USERMODEL_KUBERNETES_IMAGE and USERMODEL_JOB_MEMORY_GIB")
        if self.scheduler == "kubernetes" and self.device == "auto":
            raise ValueError("a job asks Kubernetes for GPUs or for none: set USERMODEL_DEVICE to cuda or cpu")
        return self

    @property
    def cores_per_host(self) -> int:
        """That a job asks for on each host."""
        return self.job_cores or self.ranks

    @property
    def gpus_per_host(self) -> int:
        """That a job asks for on each host: one per rank, or none."""
        return self.ranks if self.device == "cuda" else 0

    @property
    def jobs(self) -> Path:
        """Where jobs keep their logs, one folder each; every host of a job sees it."""
        return self.job_dir or self.shared / "logs" / "training"

    @model_validator(mode="after")
    def _require_storage(self) -> Settings:
        """What is wrong with the storage is said before anything is written there."""
        for uri in filter(None, (self.storage_uri, self.lake_uri)):
            if "://" in uri and not re.fullmatch(r"s3://[a-z0-9][a-z0-9.-]+(/[^/?#]+)*/?", uri):
                raise ValueError(f"{uri} is no place for tables; write s3://BUCKET/PREFIX, or a folder")
        if self.storage_endpoint is None:
            return self
        endpoint = urlsplit(self.storage_endpoint)
        if (
            endpoint.scheme not in ("http", "https")
            or not endpoint.hostname
            or "@" in endpoint.netloc
            or endpoint.query
        ):
            raise ValueError(
                "USERMODEL_STORAGE_ENDPOINT is no URL of a server; write https://HOST:PORT, and keep keys out of it"
            )
        if endpoint.scheme == "http" and not (is_loopback(endpoint.hostname) or self.storage_allow_http):
            raise ValueError(
                f"{self.storage_endpoint} sends keys and data in the clear; use https, or set "
                "USERMODEL_STORAGE_ALLOW_HTTP=true in a network where nobody listens"
            )
        return self

    @property
    def object_storage(self) -> str | None:
        """Root of what lies in object storage, without a slash at its end; None: it lies in folders."""
        return self.storage_uri.rstrip("/") if self.storage_uri and "://" in self.storage_uri else None

    @property
    def shared(self) -> Path:
        """The folder of what hosts share: that of a shared file system, or home. With `object_storage`, a cache."""
        return self.home if self.storage_uri is None or self.object_storage else Path(self.storage_uri).absolute()

    @property
    def lake(self) -> str:
        """Root of the Delta tables."""
        return self.lake_uri or f"{self.object_storage or self.shared}/lake"

    @property
    def mlflow(self) -> str:
        """URI of the MLflow tracking server."""
        return self.mlflow_uri or f"http://{LOOPBACK}:{self.mlflow_port}"

    @property
    def airflow(self) -> str:
        """URL of Airflow's web server, without a slash at its end."""
        return (self.airflow_uri or f"http://{LOOPBACK}:{self.airflow_port}").rstrip("/")

    @property
    def landing(self) -> Path:
        """Where generated logs land."""
        return self.shared / "landing"

    @property
    def checkpoints(self) -> Path:
        """Training checkpoints, one folder per model."""
        return self.shared / "checkpoints"

    @property
    def artifacts(self) -> Path:
        """Sealed snapshots, registered by reference in MLflow; one folder per model."""
        return self.shared / "snapshots"

    @property
    def slurm_programs(self) -> Path:
        """Where `infra slurm up` puts the clients of its cluster: `sbatch` and the others."""
        return self.home / "slurm" / "bin"

    @property
    def logs(self) -> Path:
        """Logs of services and training jobs."""
        return self.home / "logs"

    @property
    def alert_urls_file(self) -> Path:
        """Where `infra up` keeps `alert_urls`, mode 0600: a URL per line, `#` begins a comment."""
        return self.home / "credentials" / "alert_urls"

    @property
    def redis_url_file(self) -> Path:
        """Where `infra up` keeps `redis_url`, mode 0600."""
        return self.home / "credentials" / "redis_url"

    @property
    def storage_keys_file(self) -> Path:
        """Where `infra up` keeps the keys of object storage, mode 0600, as AWS's own file has them."""
        return self.home / "credentials" / "storage"

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

    def shards(self) -> dict[str, tuple[str, ...]]:
        """By model, the addresses of its shards. ValueError for what is not `MODEL=HOST:PORT,HOST:PORT …`."""
        found: dict[str, tuple[str, ...]] = {}
        for one in self.serving_shards.split():
            model, given, addresses = one.partition("=")
            found[model] = tuple(addresses.split(","))
            if not (model and given) or not all(re.fullmatch(r"\S+:\d+", address) for address in found[model]):
                raise ValueError(
                    f"USERMODEL_SERVING_SHARDS has {one!r}; write MODEL=HOST:PORT,HOST:PORT, shard 0 first"
                )
        return found

    @property
    def embeds_redis(self) -> bool:
        """Whether the feature store is the Redis that `infra up` starts."""
        return self.redis_url is None and not self.redis_url_file.exists()

    def feature_store(self) -> str:
        """The feature store's URL with its password: a secret. ValueError where there is none yet, and for one on
        another host that is reached in plain, or by anybody."""
        if self.redis_url is not None:
            return self._protected(self.redis_url.get_secret_value())
        if self.redis_url_file.exists():
            return self._protected(self.redis_url_file.read_text(encoding="utf-8").strip())
        password = self.home / "credentials" / "redis_password"
        if not password.exists():
            raise ValueError(f"no feature store: {password} is missing; run infra/up, or set USERMODEL_REDIS_URL")
        return f"redis://:{password.read_text(encoding='utf-8').strip()}@{LOOPBACK}:{self.redis_port}/0"

    def _protected(self, url: str) -> str:
        parts = urlsplit(url)
        if parts.scheme == "unix" or is_loopback(parts.hostname or "localhost"):
            return url
        if self.tls == "required" and not parts.scheme.startswith("rediss"):
            raise ValueError(
                f"the feature store on {parts.hostname} is reached in plain ({parts.scheme}://); beyond loopback write "
                "rediss:// in USERMODEL_REDIS_URL, or set USERMODEL_TLS=elsewhere where a mesh encrypts"
            )
        if not parts.password:
            raise ValueError(
                f"the feature store on {parts.hostname} asks for no password; beyond loopback write "
                "rediss://USER:PASSWORD@HOST:PORT/0 in USERMODEL_REDIS_URL, of a user of its ACL"
            )
        return url

    @property
    def served(self) -> tuple[str, ...]:
        """The user models that are served online."""
        return tuple(self.serving_models.split())

    def alert_targets(self) -> tuple[str, ...]:
        """The Apprise URLs that alerts go to: secrets. None is set: alerts are kept and logged alone."""
        if self.alert_urls is not None:
            return tuple(self.alert_urls.get_secret_value().split())
        if not self.alert_urls_file.exists():
            return ()
        lines = (line.strip() for line in self.alert_urls_file.read_text(encoding="utf-8").splitlines())
        return tuple(line for line in lines if line and not line.startswith("#"))

    def remember(self, *, data_dir: Path | None = None, served: Sequence[str] | None = None) -> Settings:
        """Keep what was set in `settings.env`, so that services and later commands see the same settings."""
        kept = self if served is None else self.model_copy(update={"serving_models": " ".join(served)})
        if data_dir is not None:
            if not data_dir.is_dir():
                raise ValueError(f"{data_dir} is no folder; give the one that holds the logs")
            kept = kept.model_copy(update={"data_dir": data_dir.resolve()})
        chosen = kept.model_dump(mode="json", include=kept.model_fields_set - {"home", *SECRETS}, exclude_none=True)
        self.home.mkdir(parents=True, exist_ok=True)
        lines = [f"USERMODEL_{name.upper()}={value}\n" for name, value in sorted(chosen.items())]
        (self.home / "settings.env").write_text("".join(lines))
        return kept


@cache
def get_settings() -> Settings:
    """The settings of this process."""
    home = Path(os.environ.get("USERMODEL_HOME", REPOSITORY / ".local"))  # noqa: TID251
    return Settings(_env_file=home / "settings.env")


def mlflow_headers(settings: Settings) -> dict[str, str]:
    """What MLflow is shown; to its own client, which reads its environment alone, too, from now on.

    The token is read each time: it may have been exchanged.
    """
    if settings.tls_ca is not None:
        os.environ["MLFLOW_TRACKING_SERVER_CERT_PATH"] = str(settings.tls_ca)  # noqa: TID251
    if settings.mlflow_token_file is None:
        return {}
    token = settings.mlflow_token_file.read_text(encoding="utf-8").strip()
    os.environ["MLFLOW_TRACKING_TOKEN"] = token  # noqa: TID251
    return {"Authorization": f"Bearer {token}"}


def child_environment(**extra: str) -> dict[str, str]:
    """The environment for a process we start: this one's, with `extra` on top."""
    return {**os.environ, **extra}  # noqa: TID251


def export(**variables: str) -> None:
    """Set variables that libraries of this process, and processes it starts, read from their environment."""
    os.environ.update(variables)  # noqa: TID251


def aws_environment() -> dict[str, str]:
    """The variables of AWS's own tools, some of them secrets."""
    return {name: value for name, value in os.environ.items() if name.startswith("AWS_") and value}  # noqa: TID251


def service_host() -> str:
    """What Airflow takes for this host's name: with the service, so that of two schedulers each has its own."""
    service = os.environ.get("USERMODEL_SERVICE")  # noqa: TID251
    host = socket.gethostname()
    return f"{service}@{host}" if service else host


def slurm_node() -> int | None:
    """Which node of its job this process is on, as Slurm tells it; None outside a job."""
    node = os.environ.get("SLURM_NODEID")  # noqa: TID251
    return None if node is None else int(node)


def torchrun_rank() -> tuple[int, int, int]:
    """(rank, world size, local world size), as torchrun tells them to this process."""
    return int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"]), int(os.environ["LOCAL_WORLD_SIZE"])  # noqa: TID251
