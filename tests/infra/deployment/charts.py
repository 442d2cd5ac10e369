"""The chart, rendered by Helm's own engine with several sets of values; once per process."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonschema import Draft202012Validator
from referencing import Registry, Resource

from infra.deployment.sizes import GIB, Part, Sizes
from infra.deployment.values import values_of
from infra.settings import REPOSITORY
from tests.infra.deployment.checks import DEPLOYMENT

helm = pytest.importorskip("helm_python", reason="helm-python-sdk, which carries Helm's engine, is not installed")
kubernetes_validate = pytest.importorskip("kubernetes_validate", reason="kubernetes-validate is not installed")

CHART = DEPLOYMENT / "chart"
IMAGE = {"repository": "registry.example.org/usermodel", "digest": "sha256:" + "5e" * 32}


def peer(app: str) -> list[dict[str, Any]]:
    """Somebody who is not of the chart, by the name that `infra.network` has for it."""
    return [{"podSelector": {"matchLabels": {"app": app}}}]


SMALL = {"requests": {"cpu": "1", "memory": "1Gi"}, "limits": {"cpu": "1", "memory": "1Gi"}}
RULES = (REPOSITORY / "infra" / "rules" / "usermodel.yaml").read_text()
PART = Part(replicas=3, cpus=2, memory_bytes=5 * GIB)
SIZES = Sizes(
    recipe="demo", http=PART, compute=PART, shards=PART, training=Part(replicas=1, cpus=8, memory_bytes=GIB, gpus=2),
    ranks_per_host=2, store_bytes=GIB, state_bytes=GIB,
)  # fmt: skip

EVERYTHING = {
    "image": {**IMAGE, "pullSecrets": ["registry"]},
    "models": ["demo_a", "demo_b"],
    "settings": {"redis_partitions": 16, "checkpoint_seconds": 60},
    "secrets": {
        "alertUrls": {"name": "usermodel-alerts", "key": "urls"},
        "storage": {"name": "usermodel-storage", "key": "credentials"},
        "mlflowToken": {"name": "usermodel-mlflow-token", "key": "token"},
    },
    "externalSecrets": {"enabled": True, "store": {"name": "vault"}},
    "serviceAccount": {"annotations": {"example.org/role": "reader"}},
    "http": {"allowHosts": ["embeddings.example.org"], "autoscaling": {"enabled": True}},
    "compute": {"autoscaling": {"enabled": True}},
    "shards": [
        {"model": "demo_a", "count": 3, "resources": SMALL},
        {"model": "demo_b", "count": 1, "resources": SMALL},
    ],
    "solaris": [{"recipe": "demo_a", "ds": "2026-01-05", "replicas": 2, "perSecond": 1000, "resources": SMALL}],
    "networkPolicy": {
        "clients": peer("consumers"),
        "ingress": peer("people"),
        "prometheus": peer("prometheus"),
        **{
            name: [{"peers": peer(server), "port": port}]
            for name, server, port in (
                ("redis", "redis", 6379), ("postgres", "postgres", 5432), ("objectStorage", "object-store", 443),
                ("alerts", "alert-targets", 443), ("kubernetes", "kubernetes-api", 6443),
            )
        },
    },
    "monitoring": {"enabled": True, "labels": {"release": "prometheus"}, "rules": RULES},
    "nodeSelector": {"kubernetes.io/arch": "amd64"},
    "tolerations": [{"key": "gpu", "operator": "Exists"}],
}  # fmt: skip
API_SERVER = [{"peers": peer("kubernetes-api"), "port": 6443}]
MANY_HOSTS = values_of(replace(SIZES, training=replace(SIZES.training, replicas=4)))
OBJECT_STORAGE: Mapping[str, Any] = {
    "settings": {"storage_uri": "s3://bucket/prefix", "storage_endpoint": "https://s3.example.org"},
    "mlflow": {"artifacts": "s3://bucket/mlflow"},
    "secrets": {"storage": {"name": "usermodel-storage"}},
}
SETS: Mapping[str, Mapping[str, Any]] = {
    "least": {"image": IMAGE},
    "everything": EVERYTHING,
    "object storage": {"image": IMAGE, **OBJECT_STORAGE},
    "mesh": {"image": IMAGE, "tls": {"mode": "elsewhere"}, "mlflow": {"enabled": False},
             "settings": {"mlflow_uri": "https://mlflow.example.org"}, "state": {"existingClaim": "shared"}},
    "sized": {"image": IMAGE, **values_of(SIZES)},
    "many hosts": {"image": IMAGE, **MANY_HOSTS, "networkPolicy": {"kubernetes": API_SERVER}},
    "many hosts, object storage": {
        **MANY_HOSTS, **OBJECT_STORAGE, "image": {**IMAGE, "pullSecrets": ["registry"]},
        "settings": {**MANY_HOSTS["settings"], **OBJECT_STORAGE["settings"]},
        "networkPolicy": {"kubernetes": API_SERVER},
    },
}  # fmt: skip


@cache
def rendered(values: str) -> tuple[dict[str, Any], ...]:
    """Every document of one set."""
    with helm.Chart.load(str(CHART)) as chart:
        files = chart.render(dict(SETS[values]), name="um", namespace="usermodel")
    return tuple(
        document
        for name, text in files.items()
        if name.endswith(".yaml")
        for document in yaml.safe_load_all(text)
        if document
    )


@cache
def validator(kind: str, api: str, kubernetes: str) -> Draft202012Validator:
    """Kubernetes' own schema of a kind, unknown keys refused. Read once: kubernetes-validate reads it per document."""
    group = re.sub(r"^([^./]*)(?:\.[^/]*)?/", r"\1-", api)
    schema = json.loads((_schemas(kubernetes) / f"{kind.lower()}-{group}.json").read_text())
    return Draft202012Validator(schema, registry=Resource.from_contents(schema) @ _definitions(kubernetes))


@cache
def _definitions(kubernetes: str) -> Registry[Any]:
    return Resource.from_contents(json.loads((_schemas(kubernetes) / "_definitions.json").read_text())) @ Registry()


def _schemas(kubernetes: str) -> Path:
    package = Path(kubernetes_validate.__file__).parent
    return package / "kubernetes-json-schema" / f"v{kubernetes}.0-local-strict"


def of_kind(values: str, *kinds: str) -> list[dict[str, Any]]:
    """The documents of these kinds; not none."""
    return [document for document in rendered(values) if document["kind"] in kinds]


def pods(values: str) -> Iterator[tuple[str, dict[str, Any], dict[str, str]]]:
    """Of every workload: its name, its pod's spec and its pod's labels."""
    for document in of_kind(values, "Deployment", "StatefulSet"):
        template = document["spec"]["template"]
        yield document["metadata"]["name"], template["spec"], template["metadata"]["labels"]


def selects(selector: Mapping[str, Any], labels: Mapping[str, str]) -> bool:
    """Whether a label selector takes in what has these labels."""
    plain = all(labels.get(name) == value for name, value in selector.get("matchLabels", {}).items())
    sets = all(
        labels.get(one["key"]) in one["values"] if one["operator"] == "In" else one["key"] in labels
        for one in selector.get("matchExpressions", [])
    )
    return plain and sets
