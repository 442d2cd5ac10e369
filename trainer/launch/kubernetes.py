"""Jobs of a Kubernetes cluster, gang-scheduled by Volcano."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from kubernetes import client, config
from kubernetes.client.rest import ApiException
from torchx.schedulers.kubernetes_scheduler import JOB_STATE, create_scheduler
from torchx.specs import AppDef, AppState
from urllib3.exceptions import HTTPError

from infra.settings import Settings
from trainer.launch.manifest import TOKEN_LABEL, mounts, volcano_job
from trainer.launch.scheduler import Status

_GROUP = {"group": "batch.volcano.sh", "version": "v1alpha1", "plural": "jobs"}
_JOB_LABEL = "volcano.sh/job-name"
_NOT_FOUND = 404
_CONFLICT = 409
_LAST_LINES = 20
_OVERLAP_SECONDS = 60
"""Between what is asked of a log and what was told of it: clocks need not agree to the second."""
_PATIENCE = {"_request_timeout": 30}
"""For each attempt at a request, in seconds: an API that says nothing cannot be reached."""


class Kubernetes:
    """Implements `Scheduler`. A job's id is its name, which is its attempt's: submitted twice, it is one."""

    def __init__(self, settings: Settings, *, api: client.ApiClient | None = None) -> None:
        self._settings = settings
        self._namespace = settings.kubernetes_namespace
        self._given = api

    def manifest(self, app: AppDef, *, directory: Path, token: str) -> str:
        return str(yaml.safe_dump(self._body(app, directory=directory, token=token), sort_keys=False))

    def submit(self, app: AppDef, *, directory: Path, token: str) -> str:
        body = self._body(app, directory=directory, token=token)
        try:
            self._jobs().create_namespaced_custom_object(namespace=self._namespace, body=body, **_GROUP, **_PATIENCE)
        except ApiException as error:
            if error.status != _CONFLICT:
                raise RuntimeError(
                    f"Kubernetes did not take the job: {error.status} {error.reason}: {error.body}"
                ) from error
        except HTTPError as error:
            raise RuntimeError(f"Kubernetes cannot be reached: {error}") from error
        return str(body["metadata"]["name"])

    def find(self, token: str) -> str | None:
        with _reached():
            found = self._jobs().list_namespaced_custom_object(
                namespace=self._namespace, label_selector=f"{TOKEN_LABEL}={token}", **_GROUP, **_PATIENCE
            )
        return next((str(job["metadata"]["name"]) for job in found["items"]), None)

    def status(self, job: str) -> Status | None:
        with _reached():
            try:
                found = self._jobs().get_namespaced_custom_object(
                    namespace=self._namespace, name=job, **_GROUP, **_PATIENCE
                )
            except ApiException as error:
                if error.status == _NOT_FOUND:
                    return None
                raise
            return status_of(found, self._pods(job))

    def lines(self, job: str, *, directory: Path, from_start: bool) -> Iterator[str]:
        tail: dict[str, Any] = {} if from_start else {"tail_lines": _LAST_LINES}
        last: dict[str, tuple[str, float]] = {}  # the newest line's time, and when that was heard by our clock
        while True:
            for pod in self._names(job):
                newest, heard = last.get(pod, ("", 0.0))
                asked = time.monotonic()
                since = {"since_seconds": round(asked - heard) + _OVERLAP_SECONDS} if newest else tail
                for line in self._log(pod, **since):
                    stamp, _, text = line.partition(" ")
                    if stamp > newest:
                        newest = stamp
                        last[pod] = (newest, asked)
                        if text.strip():  # an empty one would say that there is nothing new
                            yield text
            yield ""

    def cancel(self, job: str) -> None:
        with _reached():
            try:
                self._jobs().delete_namespaced_custom_object(namespace=self._namespace, name=job, **_GROUP, **_PATIENCE)
            except ApiException as error:
                if error.status != _NOT_FOUND:
                    raise

    def _body(self, app: AppDef, *, directory: Path, token: str) -> dict[str, Any]:
        app.roles[0].mounts = list(mounts(self._settings))
        options = {
            "queue": self._settings.kubernetes_queue,
            "namespace": self._namespace,
            "service_account": self._settings.kubernetes_service_account,
        }
        request = create_scheduler("usermodel", docker_client=object()).submit_dryrun(app, options).request
        rendered = client.ApiClient().sanitize_for_serialization(request.resource)
        return volcano_job(rendered, app, name=directory.name, token=token, settings=self._settings)

    def _api(self) -> client.ApiClient:
        if self._given is None:
            config.load_config()  # of a person, or of the pod that this runs in
            self._given = client.ApiClient()
        return self._given

    def _jobs(self) -> client.CustomObjectsApi:
        return client.CustomObjectsApi(self._api())

    def _pods(self, job: str) -> list[dict[str, Any]]:
        core = client.CoreV1Api(self._api())
        found = core.list_namespaced_pod(namespace=self._namespace, label_selector=f"{_JOB_LABEL}={job}", **_PATIENCE)
        return list(self._api().sanitize_for_serialization(found)["items"])

    def _names(self, job: str) -> list[str]:
        """Of its pods; none where the API does not answer now, which `status` tells: what is not said now is later."""
        try:
            return sorted(pod["metadata"]["name"] for pod in self._pods(job))
        except (ApiException, HTTPError):
            return []

    def _log(self, pod: str, **options: Any) -> list[str]:
        try:
            text = client.CoreV1Api(self._api()).read_namespaced_pod_log(
                name=pod, namespace=self._namespace, container=None, timestamps=True, **options, **_PATIENCE
            )
        except (ApiException, HTTPError):  # its container has not begun; or as in `_names`
            return []
        return [line for line in str(text).splitlines() if line.strip()]


def status_of(job: dict[str, Any], pods: list[dict[str, Any]]) -> Status:
    """Of a Volcano job and its pods, as the API returns them."""
    phase = job.get("status", {}).get("state", {}).get("phase", "")
    state = AppState(int(JOB_STATE.get(phase, AppState.UNKNOWN)))
    trouble = [found for pod in pods if (found := trouble_of(pod)) is not None]
    reason, detail = min(trouble, default=("", ""), key=lambda one: one[0] in _SAY_LITTLE)
    if state == AppState.CANCELLED and not reason:
        reason = phase
    return Status(state=state, reason=reason, detail=detail)


_SAY_LITTLE = ("Error", "Unschedulable", "ContainerCreating", "PodInitializing")


def trouble_of(pod: dict[str, Any]) -> tuple[str, str] | None:
    """(reason, for a person) of a pod that waits for something, or was ended."""
    name, status = pod["metadata"]["name"], pod.get("status", {})
    for condition in status.get("conditions", ()):
        if condition["type"] == "DisruptionTarget" and condition["status"] == "True":
            return condition["reason"], f"{name}: {condition.get('message', '')}"
    if status.get("reason"):
        return status["reason"], f"{name}: {status.get('message', '')}"
    for container in status.get("containerStatuses", ()):
        seen = container.get("state", {})
        waiting, ended = seen.get("waiting"), seen.get("terminated")
        if waiting and waiting.get("reason"):
            return waiting["reason"], f"{name}: {waiting.get('message', '')}"
        if ended and ended.get("exitCode"):
            return ended.get("reason", "Error"), f"{name}: exit code {ended['exitCode']}"
    for condition in status.get("conditions", ()):
        if condition["type"] == "PodScheduled" and condition["status"] == "False":
            return condition.get("reason", "Unschedulable"), f"{name}: {condition.get('message', '')}"
    return None


@contextlib.contextmanager
def _reached() -> Iterator[None]:
    """ConnectionError in place of what can pass."""
    try:
        yield
    except HTTPError as error:
        raise ConnectionError(f"Kubernetes cannot be reached: {error}") from error
    except ApiException as error:
        if error.status and error.status < 500:
            raise RuntimeError(f"Kubernetes refuses: {error.status} {error.reason}: {error.body}") from error
        raise ConnectionError(f"Kubernetes: {error.status} {error.reason}") from error
