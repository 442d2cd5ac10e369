"""Who talks to whom, on which port: one table, of which network policies are rendered and the threat model speaks.

What is not in `EDGES` needs no way through. A listener's `port` is its setting's default; `ports(settings)` has those
of an installation.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

from infra.settings import Settings

Protocol = Literal["HTTP", "RESP", "PostgreSQL", "Arrow Flight", "c10d and gloo", "S3", "notification"]
Identity = Literal["nobody", "token", "certificate", "password", "key"]
"""By what a client shows who it is, where the listener is beyond loopback."""

SHARD_PORT, SOLARIS_PORT, RENDEZVOUS_PORT, POSTGRES_PORT, S3_PORT, HTTPS_PORT = 8094, 8093, 29_500, 5_432, 443, 443

OUTSIDE = frozenset({"people", "consumers", "alert-targets", "object-store", "kubernetes-api", "prometheus"})
"""Parts that a deployment of this project does not itself run."""


@dataclass(frozen=True, kw_only=True)
class Listener:
    """A part that accepts connections. setting: of `Settings`, that moves the port; empty: the port is given where the
    part is started. tls, identity: beyond loopback."""

    name: str
    port: int
    protocol: Protocol
    tls: str
    identity: Identity
    setting: str = ""
    any_port: bool = False
    """Besides `port` on ports that are chosen as it runs: a policy names the clients alone."""


@dataclass(frozen=True, kw_only=True)
class Edge:
    """`client` opens connections to `server`, for this."""

    client: str
    server: str
    purpose: str


def _default(setting: str) -> int:
    return int(Settings.model_fields[setting].default)


def _of_setting(name: str, setting: str, protocol: Protocol, *, tls: str, identity: Identity) -> Listener:
    return Listener(
        name=name, port=_default(setting), protocol=protocol, tls=tls, identity=identity, setting=setting
    )  # fmt: skip


_OURS = "USERMODEL_TLS_CERTIFICATE, or a mesh (USERMODEL_TLS=elsewhere)"
LISTENERS: Mapping[str, Listener] = MappingProxyType(
    {
        one.name: one
        for one in (
            _of_setting("serving-http", "serving_port", "HTTP", tls=_OURS, identity="token"),
            _of_setting("serving-compute", "serving_compute_port", "HTTP", tls=_OURS, identity="token"),
            _of_setting("loop-metrics", "metrics_port", "HTTP", tls=_OURS, identity="token"),
            Listener(name="serving-solaris", port=SOLARIS_PORT, protocol="HTTP", tls=_OURS, identity="token"),
            Listener(
                name="serving-shard", port=SHARD_PORT, protocol="Arrow Flight", tls="both sides", identity="certificate"
            ),
            _of_setting("redis", "redis_port", "RESP", tls="rediss://", identity="password"),
            _of_setting("mlflow", "mlflow_port", "HTTP", tls="--uvicorn-opts, or a proxy's", identity="token"),
            _of_setting(
                "airflow-api-server", "airflow_port", "HTTP", tls="[api] ssl_cert, ssl_key", identity="password"
            ),
            Listener(
                name="postgres", port=POSTGRES_PORT, protocol="PostgreSQL", tls="sslmode=verify-full",
                identity="password",
            ),
            Listener(
                name="trainer", port=RENDEZVOUS_PORT, protocol="c10d and gloo", tls="none: a network of its own",
                identity="nobody",
                any_port=True,
            ),
            Listener(name="object-store", port=S3_PORT, protocol="S3", tls="https://", identity="key"),
            Listener(name="kubernetes-api", port=HTTPS_PORT, protocol="HTTP", tls="the cluster's", identity="token"),
            Listener(
                name="alert-targets", port=HTTPS_PORT, protocol="notification", tls="the target's", identity="token"
            ),
        )
    }
)  # fmt: skip
"""By name. The name is that of the service under supervisord, where there is one."""

_LOOP = ("airflow-scheduler", "airflow-worker")
"""What runs tasks: LocalExecutor's under the scheduler, EdgeExecutor's on their own hosts."""

EDGES: tuple[Edge, ...] = (
    Edge(client="consumers", server="serving-http", purpose="embeddings of a user"),
    Edge(client="people", server="serving-http", purpose="pages of users"),
    Edge(client="people", server="airflow-api-server", purpose="runs, reviews of held days"),
    Edge(client="people", server="mlflow", purpose="versions, reports"),
    Edge(client="serving-http", server="redis", purpose="reads vectors, queues computations"),
    Edge(client="serving-compute", server="redis", purpose="takes computations, writes vectors"),
    Edge(client="serving-solaris", server="redis", purpose="takes pairs, writes representations"),
    Edge(client="serving-compute", server="mlflow", purpose="follows the champion"),
    Edge(client="serving-compute", server="serving-shard", purpose="rows of tables that it does not hold"),
    *(Edge(client=one, server="redis", purpose="loads promoted days") for one in _LOOP),
    *(Edge(client=one, server="mlflow", purpose="registers versions, logs metrics") for one in _LOOP),
    *(Edge(client=one, server="alert-targets", purpose="tells the on-call") for one in _LOOP),
    *(Edge(client=one, server="airflow-api-server", purpose="the task's own API") for one in _LOOP),
    *(
        Edge(client=one, server="postgres", purpose="Airflow's tables")
        for one in ("airflow-api-server", "airflow-scheduler", "airflow-dag-processor", "airflow-triggerer")
    ),
    Edge(client="airflow-triggerer", server="airflow-api-server", purpose="the triggers' own API"),
    Edge(client="airflow-dag-processor", server="airflow-api-server", purpose="the files' own API"),
    Edge(client="mlflow", server="postgres", purpose="MLflow's tables"),
    Edge(client="trainer", server="trainer", purpose="ranks of one job: rendezvous, gradients, embeddings"),
    *(Edge(client=one, server="kubernetes-api", purpose="starts and watches training jobs") for one in _LOOP),
    *(
        Edge(client=one, server="object-store", purpose="lake, checkpoints, snapshots")
        for one in (*_LOOP, "trainer", "serving-compute", "serving-shard", "serving-solaris", "loop-metrics", "mlflow")
    ),
    Edge(client="loop-metrics", server="mlflow", purpose="reads decisions and metrics of versions"),
    Edge(client="loop-metrics", server="airflow-api-server", purpose="reads who is alive"),
    *(
        Edge(client="prometheus", server=one, purpose="scrapes metrics")
        for one in ("serving-http", "serving-compute", "serving-solaris", "loop-metrics")
    ),
)
"""Every connection that a deployment needs."""


def ports(settings: Settings) -> dict[str, int]:
    """The listeners' ports in an installation with these settings."""
    return {
        name: int(getattr(settings, one.setting)) if one.setting else one.port for name, one in LISTENERS.items()
    }  # fmt: skip


def clients_of(server: str) -> tuple[str, ...]:
    """Who may reach it, by name, each once."""
    return tuple(dict.fromkeys(edge.client for edge in EDGES if edge.server == server))


def servers_of(client: str) -> tuple[str, ...]:
    """Whom it may reach, by name, each once."""
    return tuple(dict.fromkeys(edge.server for edge in EDGES if edge.client == client))


def table_lines() -> Iterator[str]:
    """Markdown: the listeners and their clients, as the threat model prints them."""
    yield "| listens | port | protocol | TLS beyond loopback | who are you? | who connects, for what |"
    yield "|---|---|---|---|---|---|"
    for name, one in LISTENERS.items():
        moved = f"`USERMODEL_{one.setting.upper()}`, " if one.setting else ""
        whom = "; ".join(f"{edge.client}: {edge.purpose}" for edge in EDGES if edge.server == name)
        yield f"| {name} | {moved}{one.port} | {one.protocol} | {one.tls} | {one.identity} | {whom} |"
