"""Each service: its process, how it is asked whether it is well, and where it listens."""

from __future__ import annotations

from dataclasses import dataclass

from infra import feature_store, health, online, orchestrator, postgres, worker
from infra.settings import LOOPBACK, Settings
from infra.supervision import BIN, Program, runtime_folder
from serving.secured.ask import scheme


@dataclass(frozen=True, kw_only=True)
class Service:
    """One service: its process, its health check, and the port it listens on, if any."""

    program: Program
    check: health.Check
    port: int | None = None
    port_setting: str = ""
    address: str = ""

    @property
    def name(self) -> str:
        """Its name for supervisord, in messages and as a log's name."""
        return self.program.name


def services(settings: Settings) -> list[Service]:
    """Every service of this host, in the order in which they start: those of the loop, or an edge worker alone."""
    if settings.worker_queues:
        return [Service(program=worker.program(settings), check=worker.check, address=settings.airflow)]
    checks = {
        "airflow-api-server": health.airflow_api,
        **{name: health.airflow_scheduler(name) for name in orchestrator.scheduler_names(settings)},
        "airflow-dag-processor": health.airflow_dag_processor,
        "airflow-triggerer": health.airflow_triggerer,
    }
    airflow = [
        Service(
            program=program,
            check=checks[program.name],
            port=settings.airflow_port if program.name == "airflow-api-server" else None,
            port_setting="USERMODEL_AIRFLOW_PORT",
            address=settings.airflow if program.name == "airflow-api-server" else "",
        )
        for program in orchestrator.programs(settings)
    ]
    embedded = [_redis(settings)] if settings.embeds_redis else []
    loop = [_postgres(settings), *embedded, _mlflow(settings), *airflow, _loop_metrics(settings)]
    return [*loop, *online_services(settings)]


def online_services(settings: Settings) -> list[Service]:
    """Those that serve embeddings; none where no user model is served."""
    checks = {online.HTTP: health.serving_http, online.COMPUTE: health.serving_compute}
    ports = {online.HTTP: settings.serving_port, online.COMPUTE: settings.serving_compute_port}
    names = {online.HTTP: "USERMODEL_SERVING_PORT", online.COMPUTE: "USERMODEL_SERVING_COMPUTE_PORT"}
    return [
        Service(
            program=program,
            check=checks[program.name],
            port=ports[program.name],
            port_setting=names[program.name],
            address=online.address(settings, program.name),
        )
        for program in online.programs(settings)
    ]


def _postgres(settings: Settings) -> Service:
    program = Program(name="postgres", command=postgres.server_command(settings), stop_signal="INT")
    return Service(program=program, check=health.postgres, address=f"unix:{runtime_folder(settings)}")


def _redis(settings: Settings) -> Service:
    return Service(
        program=Program(name="redis", command=feature_store.command(settings)),
        check=health.redis,
        port=settings.redis_port,
        port_setting="USERMODEL_REDIS_PORT",
        address=f"redis://{LOOPBACK}:{settings.redis_port}",
    )


def _mlflow(settings: Settings) -> Service:
    artifacts = settings.home.resolve() / "mlflow" / "artifacts"
    store = postgres.url(settings, "mlflow", driver="psycopg2")
    command = [str(BIN / "mlflow"), "server", "--host", LOOPBACK, "--port", str(settings.mlflow_port)]
    options = ["--workers", "1", "--backend-store-uri", store, "--artifacts-destination", artifacts.as_uri()]
    return Service(
        program=Program(name="mlflow", command=[*command, *options]),
        check=health.mlflow,
        port=settings.mlflow_port,
        port_setting="USERMODEL_MLFLOW_PORT",
        address=f"http://{LOOPBACK}:{settings.mlflow_port}",
    )


def _loop_metrics(settings: Settings) -> Service:
    command = [str(BIN / "usermodel"), "infra", "metrics", "--port", str(settings.metrics_port)]
    return Service(
        program=Program(name="loop-metrics", command=command),
        check=health.loop_metrics,
        port=settings.metrics_port,
        port_setting="USERMODEL_METRICS_PORT",
        address=f"{scheme(settings)}://{LOOPBACK}:{settings.metrics_port}",
    )
