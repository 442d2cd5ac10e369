"""A training job for Kubernetes: Volcano's Job from TorchX's, with what a cluster that others share asks of a pod.

TorchX renders one task per host from the role (command, variables, claims, labels). It asks for less than the
limits, by what it takes a node to keep for itself; it knows no tolerations, Secrets, time limits or security context.
"""

from __future__ import annotations

import re
from typing import Any

from torchx.specs import AppDef, VolumeMount

from infra.settings import Settings

TOKEN_LABEL = "usermodel/token"  # noqa: S105  # of an attempt: no secret
USER = 10001
"""Of the processes in a pod: the user of our image, who owns what they write on the shared volumes."""
_NAME_CHARACTERS = 40
"""What Kubernetes leaves of 63 once Volcano has named a pod after task and number."""
_KEPT_SECONDS = 24 * 3600
_TMP_GIB = 16
_EVICTIONS = 3
_HOUR = 3600
_GPU = "nvidia.com/gpu"
_KEYS = "/var/run/usermodel/storage"
"""Where a pod has the keys of object storage; not in the home, which other pods may share."""


def volcano_job(rendered: dict[str, Any], app: AppDef, *, name: str, token: str, settings: Settings) -> dict[str, Any]:
    """The manifest from TorchX's `rendered` one. name: of the attempt, in any characters."""
    job = _renamed(rendered, str(rendered["metadata"]["name"]), kubernetes_name(name))
    spec = job["spec"]
    job["metadata"] |= {"namespace": settings.kubernetes_namespace, "labels": {TOKEN_LABEL: token}}
    spec |= {
        "minAvailable": settings.hosts,  # all or none: a gang
        "maxRetry": _EVICTIONS,
        "ttlSecondsAfterFinished": _KEPT_SECONDS,
        # An evicted host's job goes on from its newest waypoint; one that failed would fail again.
        "policies": [{"event": "PodEvicted", "action": "RestartJob"}, {"event": "PodFailed", "action": "TerminateJob"}],
    }
    for task in spec["tasks"]:
        template = task["template"]
        template["metadata"]["labels"][TOKEN_LABEL] = token
        _fit(template["spec"], settings)
    manifest: dict[str, Any] = job
    return manifest


def mounts(settings: Settings) -> list[VolumeMount]:
    """The claims of `kubernetes_volumes`. ValueError for what is no `CLAIM:/PATH`."""
    found = []
    for one in settings.kubernetes_volumes.split():
        claim, _, path = one.partition(":")
        if not claim or not path.startswith("/"):
            raise ValueError(f"USERMODEL_KUBERNETES_VOLUMES has {one!r}; write CLAIM:/PATH")
        found.append(VolumeMount(src=claim, dst_path=path))
    return found


def storage_keys(settings: Settings) -> dict[str, Any] | None:
    """The volume of `kubernetes_storage_secret`, a file `keys`; None: there is none. ValueError for what is no
    `SECRET/KEY`."""
    if not settings.kubernetes_storage_secret:
        return None
    secret, _, key = settings.kubernetes_storage_secret.partition("/")
    if not secret or not key:
        raise ValueError(
            f"USERMODEL_KUBERNETES_STORAGE_SECRET has {settings.kubernetes_storage_secret!r}; write SECRET/KEY"
        )
    items = [{"key": key, "path": "keys"}]
    return {"name": "storage-keys", "secret": {"secretName": secret, "items": items, "defaultMode": 0o440}}


def kubernetes_name(text: str) -> str:
    """`text` as a name of Kubernetes that begins with a letter, as that of the job's Service has to; its end, where it
    says most, is kept."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower())[-_NAME_CHARACTERS:].rstrip("-").lstrip("-0123456789")


def _fit(spec: dict[str, Any], settings: Settings) -> None:
    """Into one host's pod: what it may use, how long, and as whom."""
    spec |= {
        "activeDeadlineSeconds": round(settings.job_hours * _HOUR),
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": USER,
            "runAsGroup": USER,
            "fsGroup": USER,
            "fsGroupChangePolicy": "OnRootMismatch",
            "seccompProfile": {"type": "RuntimeDefault"},
        },
    }
    if settings.gpus_per_host:
        spec["tolerations"] = [{"key": _GPU, "operator": "Exists", "effect": "NoSchedule"}]
    spec["volumes"].append({"name": "tmp", "emptyDir": {"sizeLimit": f"{_TMP_GIB}Gi"}})
    keys = storage_keys(settings)
    if keys is not None:
        spec["volumes"].append(keys)
    for container in spec["containers"]:
        _fit_container(container, settings)
        if keys is not None:
            container["volumeMounts"].append({"name": keys["name"], "mountPath": _KEYS, "readOnly": True})
            container["env"].append({"name": "AWS_SHARED_CREDENTIALS_FILE", "value": f"{_KEYS}/keys"})


def _fit_container(container: dict[str, Any], settings: Settings) -> None:
    limits = {"cpu": str(settings.cores_per_host), "memory": f"{round(settings.job_memory_gib * 1024)}Mi"}
    if settings.gpus_per_host:
        limits[_GPU] = str(settings.gpus_per_host)
    container |= {
        "resources": {"requests": dict(limits), "limits": limits},  # the same: the last to be evicted
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        },
    }
    container["volumeMounts"].append({"name": "tmp", "mountPath": "/tmp"})  # noqa: S108  # the pod's own
    container["env"].append({"name": "HOME", "value": "/tmp"})  # noqa: S108
    secrets = settings.kubernetes_secrets.split()
    if secrets:
        container["envFrom"] = [{"secretRef": {"name": secret}} for secret in secrets]


def _renamed(value: Any, before: str, after: str) -> Any:
    """TorchX names a job at random, in its labels and variables too: the attempt's name submits it once only."""
    if isinstance(value, str):
        return value.replace(before, after)
    if isinstance(value, dict):
        return {key: _renamed(one, before, after) for key, one in value.items()}
    if isinstance(value, list):
        return [_renamed(one, before, after) for one in value]
    return value
