"""Is a service well? Each check returns None when it is, and otherwise what is wrong, in words."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Any

import httpx

from infra.credentials import ensure_credentials
from infra.online import COMPUTE, HTTP, address
from infra.settings import LOOPBACK, Settings
from serving.secured.ask import options, scheme

TIMEOUT_SECONDS = 3.0
HEARTBEAT_LIMIT_SECONDS = 30.0
COMPUTE_UP = "usermodel_compute_up"
_HEARTBEAT = """
SELECT extract(epoch FROM now() - max(latest_heartbeat)) FROM job
WHERE job_type = 'SchedulerJob' AND hostname LIKE %s AND latest_heartbeat >= to_timestamp(%s)
"""

Check = Callable[[Settings, float], str | None]
"""(settings, seconds since the epoch at which the process started) -> what is wrong, or None."""


def postgres(settings: Settings, started: float) -> str | None:
    """It answers a query."""
    import psycopg2

    from infra.postgres import connect

    try:
        connection = connect(settings)
    except psycopg2.OperationalError as error:
        return str(error).strip()
    connection.close()
    return None


def redis(settings: Settings, started: float) -> str | None:
    """It answers PING to whoever knows the password."""
    from redis import Redis, RedisError

    client = Redis(
        host=LOOPBACK,
        port=settings.redis_port,
        password=ensure_credentials(settings).redis_password,
        socket_timeout=TIMEOUT_SECONDS,
    )
    try:
        return None if client.ping() else "no PONG"
    except RedisError as error:
        return str(error)
    finally:
        client.close()


def mlflow(settings: Settings, started: float) -> str | None:
    """`/health` answers 200."""
    answer = _get(f"http://{LOOPBACK}:{settings.mlflow_port}/health")
    return answer if isinstance(answer, str) else None


def loop_metrics(settings: Settings, started: float) -> str | None:
    """Its process answers; what it tells of the loop is collected when somebody asks."""
    answer = _ask(f"{scheme(settings)}://{LOOPBACK}:{settings.metrics_port}/healthz", settings)
    return answer if isinstance(answer, str) else None


def serving_http(settings: Settings, started: float) -> str | None:
    """`/readyz` answers 200: it serves, and the feature store answers it."""
    answer = _ask(f"{address(settings, HTTP)}/readyz", settings)
    return answer if isinstance(answer, str) else None


def serving_compute(settings: Settings, started: float) -> str | None:
    """Its metrics say that it works: a champion is warm and computes."""
    answer = _ask(f"{address(settings, COMPUTE)}/metrics", settings)
    if isinstance(answer, str):
        return answer
    return None if f"{COMPUTE_UP} 1.0" in answer.text.splitlines() else "it has no champion to compute with yet"


def airflow_api(settings: Settings, started: float) -> str | None:
    """The health page answers, and the database behind it."""
    return _airflow(settings, "metadatabase", heartbeat=None, since=0.0)


def airflow_scheduler(name: str) -> Check:
    """The heart of the scheduler of this name has beaten since it started, and lately.

    Airflow's own page knows the latest of all schedulers' heartbeats alone.
    """

    def check(settings: Settings, started: float) -> str | None:
        age = _heartbeat_age(settings, name, since=started)
        if isinstance(age, str):
            return age
        return None if age < HEARTBEAT_LIMIT_SECONDS else f"its heart last beat {age:.0f} s ago"

    return check


def airflow_dag_processor(settings: Settings, started: float) -> str | None:
    """The DAG processor's heart has beaten since it started."""
    return _airflow(settings, "dag_processor", heartbeat="latest_dag_processor_heartbeat", since=started)


def airflow_triggerer(settings: Settings, started: float) -> str | None:
    """The triggerer's heart has beaten since it started."""
    return _airflow(settings, "triggerer", heartbeat="latest_triggerer_heartbeat", since=started)


def _heartbeat_age(settings: Settings, name: str, *, since: float) -> float | str:
    """Seconds since the scheduler's last heartbeat, or what is wrong."""
    import psycopg2

    from infra.postgres import connect

    try:
        connection = connect(settings, "airflow")
    except psycopg2.OperationalError as error:
        return str(error).strip()
    try:
        with connection.cursor() as cursor:
            cursor.execute(_HEARTBEAT, (f"{name}@%", since))
            row = cursor.fetchone()
    except psycopg2.ProgrammingError as error:  # before Airflow's tables are made
        return str(error).strip()
    finally:
        connection.close()
    return "no heartbeat yet" if row is None or row[0] is None else float(row[0])


def _airflow(settings: Settings, component: str, *, heartbeat: str | None, since: float) -> str | None:
    """Airflow trusts a heartbeat for 30 s, even across a restart; here it must be after `since`."""
    answer = _get(f"{settings.airflow}/api/v2/monitor/health")
    if isinstance(answer, str):
        return answer
    report = answer.json()[component]
    if report["status"] != "healthy":
        return f"Airflow reports the {component} as {report['status'] or 'not started'}"
    if heartbeat is not None and datetime.fromisoformat(report[heartbeat]).timestamp() < since:
        return "no heartbeat yet"
    return None


def _ask(address: str, settings: Settings) -> httpx.Response | str:
    """Of a service that may demand TLS and a token."""
    try:
        how = options(settings)
    except OSError as error:  # the token or the authority cannot be read
        return f"{address}: {error}"
    return _get(address, **how)


def _get(address: str, **how: Any) -> httpx.Response | str:
    """The answer, or what went wrong. Proxies of the environment are not for loopback."""
    try:
        answer = httpx.get(address, timeout=TIMEOUT_SECONDS, **{"trust_env": False, **how})
    except (httpx.HTTPError, OSError) as error:
        return f"{address}: {error}"
    return answer if answer.is_success else f"{address}: {answer.status_code} {answer.text[:200]}"
