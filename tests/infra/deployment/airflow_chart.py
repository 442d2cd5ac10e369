"""What Airflow's official chart takes: the keys that we set, of its values.schema.json (650 KB with all of Kubernetes).

Looked up by hand in a schema of a release since 1.18 (`createUserJob.enabled` came with apache/airflow#56057), and
where it leaves an object open, in the templates that read it. A key that is added to our values is looked up there
first: an object that is closed refuses to be installed with it, an open one ignores it.
"""

from __future__ import annotations

from typing import Any

BOOLEAN, NUMBER, TEXT, OPEN = {"type": "boolean"}, {"type": "integer"}, {"type": "string"}, {"type": "object"}
LIST = {"type": "array"}


def closed(**keys: Any) -> dict[str, Any]:
    """An object with these keys and no other."""
    return {"type": "object", "additionalProperties": False, "properties": keys}


SWITCH = closed(enabled=BOOLEAN)
PROBE = closed(scheme={"enum": ["HTTP", "HTTPS"]})
PART: dict[str, Any] = {
    "serviceAccount": closed(automountServiceAccountToken=BOOLEAN),
    "resources": closed(requests=OPEN, limits=OPEN),
}
VALUES = closed(
    airflowVersion=TEXT,
    executor={
        **TEXT,
        "pattern": r"^(([a-zA-Z_][a-zA-Z0-9_]*.)*[A-Z][a-zA-Z0-9]+Executor)"
        r"(,(([a-zA-Z_][a-zA-Z0-9_]*.)*[A-Z][a-zA-Z0-9]+Executor))*$",
    },
    airflowHome=TEXT,
    uid=NUMBER,
    gid=NUMBER,
    securityContexts=closed(pod=OPEN, containers=OPEN),
    fernetKeySecretName=TEXT,
    apiSecretKeySecretName=TEXT,
    jwtSecretName=TEXT,
    data=closed(metadataSecretName=TEXT),
    postgresql=SWITCH,
    redis=SWITCH,
    statsd=SWITCH,
    createUserJob=SWITCH,
    networkPolicies=SWITCH,
    dags=closed(gitSync=SWITCH, persistence=SWITCH),
    logs=closed(persistence=closed(enabled=BOOLEAN, size=TEXT)),
    extraEnvFrom=TEXT,
    volumes=LIST,
    volumeMounts=LIST,
    config={"type": "object", "additionalProperties": OPEN},
    scheduler=closed(replicas=NUMBER, logGroomerSidecar=SWITCH, **PART),
    dagProcessor=closed(enabled=BOOLEAN, logGroomerSidecar=SWITCH, **PART),
    triggerer=closed(logGroomerSidecar=SWITCH, persistence=SWITCH, **PART),
    apiServer=closed(
        replicas=NUMBER, args=LIST, extraVolumes=LIST, extraVolumeMounts=LIST,
        startupProbe=PROBE, livenessProbe=PROBE, readinessProbe=PROBE, **PART,
    ),
    allowPodLaunching=BOOLEAN,
)  # fmt: skip
