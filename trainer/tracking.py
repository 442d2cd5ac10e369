"""MLflow, as this project talks to it: one client, found-or-made experiments and runs, batched metrics.

Everything found is found by tag, so a step that runs twice logs into the same run. MLflow is imported on
first use: it costs seconds and no training process needs it.
"""

from __future__ import annotations

import http.client
import logging
import ssl
from collections.abc import Iterable, Mapping
from datetime import UTC, date, datetime, time
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from infra.settings import Settings, mlflow_headers

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run
    from mlflow.entities.model_registry import ModelVersion

log = logging.getLogger(__name__)

KIND = "kind"
TREND = "trend"
"""The value of KIND on an experiment's one long-lived run, whose steps are days."""
_PROBE_SECONDS = 5.0
_METRICS_PER_CALL = 1000  # the server's own limit for log_batch
_VERSIONS_PER_CALL = 1000


class TrackingUnavailableError(ConnectionError):
    """MLflow does not answer; nothing was logged, and the step can be repeated."""


def connect(settings: Settings) -> MlflowClient:
    """A client of `settings.mlflow`; one that is down raises at once, without MLflow's long retries."""
    uri, shown = settings.mlflow, mlflow_headers(settings)
    if urlsplit(uri).scheme in ("http", "https"):
        _probe(uri, shown, settings)
    from mlflow import MlflowClient

    return MlflowClient(tracking_uri=uri)


def _probe(uri: str, shown: Mapping[str, str], settings: Settings) -> None:
    parts = urlsplit(uri)
    if parts.scheme == "https":
        context = ssl.create_default_context(cafile=None if settings.tls_ca is None else str(settings.tls_ca))
        connection: http.client.HTTPConnection = http.client.HTTPSConnection(
            parts.netloc, timeout=_PROBE_SECONDS, context=context
        )
    else:
        connection = http.client.HTTPConnection(parts.netloc, timeout=_PROBE_SECONDS)
    try:
        connection.request("GET", f"{parts.path.rstrip('/')}/health", headers=dict(shown))
        status = connection.getresponse().status
    except (OSError, http.client.HTTPException) as error:
        raise TrackingUnavailableError(
            f"MLflow at {uri} does not answer ({error}); start it with `usermodel infra up`, or point "
            "USERMODEL_MLFLOW_URI at a running server"
        ) from error
    finally:
        connection.close()
    if status != http.client.OK:
        raise TrackingUnavailableError(f"MLflow at {uri} answers /health with HTTP {status}, not 200; see its log")


def experiment(client: MlflowClient, name: str) -> str:
    """The id of the experiment called `name`, made if there is none (safe among processes)."""
    from mlflow.exceptions import MlflowException

    found = client.get_experiment_by_name(name)
    if found is None:
        try:
            return str(client.create_experiment(name))
        except MlflowException:
            found = client.get_experiment_by_name(name)
            if found is None:
                raise
    return str(found.experiment_id)


def find_run(client: MlflowClient, experiment_id: str, tags: Mapping[str, str]) -> Run | None:
    """The oldest active run that carries all of `tags`, or None."""
    runs = client.search_runs([experiment_id], filter_string=_where(tags), order_by=["attributes.start_time ASC"])
    return runs[0] if runs else None


def open_run(
    client: MlflowClient,
    experiment_id: str,
    *,
    name: str,
    key: Mapping[str, str],
    tags: Mapping[str, str] | None = None,
) -> str:
    """The id of the run identified by the tags `key`; made, with `tags` beside them, if there is none."""
    found = find_run(client, experiment_id, key)
    if found is not None:
        return str(found.info.run_id)
    run = client.create_run(experiment_id, run_name=name, tags={**(tags or {}), **key})
    return str(run.info.run_id)


def open_trend(client: MlflowClient, experiment_id: str) -> str:
    """The id of the experiment's trend run: its metrics are series over days."""
    return open_run(client, experiment_id, name=TREND, key={KIND: TREND})


def log_metrics(client: MlflowClient, run_id: str, values: Mapping[str, float], *, ds: date, step: int = 0) -> None:
    """Log `values` at `step`, stamped with the start of `ds`: equal values logged again change nothing."""
    from mlflow.entities import Metric

    stamp = int(datetime.combine(ds, time(), tzinfo=UTC).timestamp() * 1000)
    metrics = [Metric(name, float(value), stamp, step) for name, value in values.items()]
    for start in range(0, len(metrics), _METRICS_PER_CALL):
        client.log_batch(run_id, metrics=metrics[start : start + _METRICS_PER_CALL])


def find_version(client: MlflowClient, model: str, tags: Mapping[str, str]) -> ModelVersion | None:
    """The oldest version of the registered model that carries all of `tags`, or None."""
    found = find_versions(client, model, _where(tags))
    return min(found, key=lambda version: int(version.version), default=None)


def find_versions(client: MlflowClient, model: str, where: str = "") -> list[ModelVersion]:
    """Every version of the registered model, of which `where` (MLflow's filter language) holds; in no order."""
    conditions = " and ".join(condition for condition in (f"name = {_quoted(model)}", where) if condition)
    found: list[ModelVersion] = []
    token: str | None = None
    while True:
        page = client.search_model_versions(conditions, max_results=_VERSIONS_PER_CALL, page_token=token)
        found += page
        token = page.token
        if not token:
            return found


def register(
    client: MlflowClient,
    model: str,
    *,
    run_id: str,
    reference: Mapping[str, Any],
    key: Mapping[str, str],
    tags: Mapping[str, str],
) -> ModelVersion:
    """Register a version whose only artifact is the JSON `reference` (the files stay where they are).

    Idempotent: the version that carries the tags `key` is returned as it is.
    """
    ensure_model(client, model)
    found = find_version(client, model, key)
    if found is not None:
        return found
    client.log_dict(run_id, dict(reference), "reference/reference.json")
    version = client.create_model_version(
        model, source=f"runs:/{run_id}/reference", run_id=run_id, tags={**tags, **key}
    )
    log.info("registered model=%s version=%s tags=%s", model, version.version, dict(key))
    return version


def ensure_model(client: MlflowClient, model: str) -> None:
    """Make the registered model if there is none."""
    from mlflow.exceptions import MlflowException

    if not client.search_registered_models(f"name = {_quoted(model)}"):
        try:
            client.create_registered_model(model)
        except MlflowException:
            client.get_registered_model(model)  # another process made it, or the error is real


def _where(tags: Mapping[str, str]) -> str:
    return " and ".join(_conditions(tags.items()))


def _conditions(tags: Iterable[tuple[str, str]]) -> Iterable[str]:
    return (f"tags.`{name}` = {_quoted(value)}" for name, value in tags)


def _quoted(value: str) -> str:
    if "'" in value:
        raise ValueError(f"{value!r} holds a quote; names and tag values that are searched for have none")
    return f"'{value}'"
