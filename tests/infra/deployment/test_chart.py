"""The Helm chart: rendered, held against Kubernetes' own schemas, and against what this project promises."""

from __future__ import annotations

import json
import re
from importlib.metadata import version
from importlib.util import find_spec
from typing import Any

import pytest
import yaml
from jsonschema import Draft7Validator, ValidationError

from infra.edge import EXECUTORS
from infra.network import EDGES
from infra.settings import EDGE_STEPS, Settings
from serving import metrics
from tests.infra.deployment import airflow_chart
from tests.infra.deployment.charts import (
    CHART,
    IMAGE,
    MANY_HOSTS,
    RULES,
    SETS,
    helm,
    of_kind,
    pods,
    rendered,
    selects,
    validator,
)
from tests.infra.deployment.checks import pinned, require_command, require_environment, text_of
from trainer.launch import remote
from trainer.launch.role import Work

ALERTS = [rule for group in yaml.safe_load(RULES)["groups"] for rule in group["rules"] if "alert" in rule]
WITHOUT_SCHEMA = {"ExternalSecret", "PodMonitor", "PrometheusRule"}
"""Of operators, not of Kubernetes."""
OLDEST, NEWEST = "1.28", "1.37"
LAUNCHING = {"everything", "many hosts", "many hosts, object storage"}
"""Sets whose workers start Volcano jobs."""
each_set = pytest.mark.parametrize("values", SETS)


@each_set
def test_helm_finds_nothing_to_complain_about(values: str) -> None:
    found = helm.lint(str(CHART), dict(SETS[values]), strict=True)
    assert [message for message in found["messages"] if message["severity"] > 1] == []
    assert found["errors"] == []


@each_set
def test_every_document_is_what_kubernetes_takes(values: str) -> None:
    for document in rendered(values):
        if document["kind"] not in WITHOUT_SCHEMA:
            for version in (OLDEST, NEWEST):
                validator(document["kind"], document["apiVersion"], version).validate(document)
    named = [(document["kind"], document["metadata"]["name"]) for document in rendered(values)]
    assert len(set(named)) == len(named)
    assert {document["metadata"]["namespace"] for document in rendered(values)} == {"usermodel"}


def test_a_document_that_is_wrong_would_be_seen() -> None:
    service = next(iter(of_kind("least", "Service")))
    wrong = {**service, "spec": {**service["spec"], "replicas": 1}}
    with pytest.raises(ValidationError):
        validator("Service", "v1", NEWEST).validate(wrong)


@each_set
def test_pods_are_restricted(values: str) -> None:
    for name, spec, _ in pods(values):
        context = spec["securityContext"]
        assert context["runAsNonRoot"], name
        assert context["runAsUser"] > 10_000
        assert context["seccompProfile"] == {"type": "RuntimeDefault"}
        assert not any(spec.get(key) for key in ("hostNetwork", "hostPID", "hostIPC"))
        assert not any("hostPath" in volume for volume in spec["volumes"])
        assert spec["automountServiceAccountToken"] is (name.startswith("um-worker") and values in LAUNCHING)
        for container in spec["containers"]:
            inner = container["securityContext"]
            assert inner["readOnlyRootFilesystem"]
            assert not inner["allowPrivilegeEscalation"]
            assert inner["capabilities"] == {"drop": ["ALL"]}
            assert pinned(container["image"])
            for side in ("requests", "limits"):
                assert {"cpu", "memory"} <= set(container["resources"][side])
            mounted = {mount["name"] for mount in container["volumeMounts"]}
            assert mounted == {volume["name"] for volume in spec["volumes"]}


@each_set
def test_what_runs_exists(values: str) -> None:
    (settings,) = of_kind(values, "ConfigMap")
    require_environment(settings["data"])
    Settings(
        _env_file=None,
        **{
            name.removeprefix("USERMODEL_").lower(): value
            for name, value in settings["data"].items()
            if name.startswith("USERMODEL_") and "TLS_" not in name
        },  # type: ignore[arg-type]
    ).shards()
    for name, spec, _ in pods(values):
        for container in spec["containers"]:
            require_command(container["command"])
            variables = {one["name"]: one.get("value", "") for one in container.get("env", [])}
            require_environment(variables)
            ports = {port["name"] for port in container.get("ports", [])}
            for kind in ("startupProbe", "livenessProbe", "readinessProbe"):
                probe = container.get(kind)
                assert (probe is None) == name.startswith("um-worker"), "an edge worker is watched by Airflow"
                if probe is not None:
                    assert (probe.get("httpGet") or probe["tcpSocket"])["port"] in ports


@each_set
def test_who_starts_jobs_may(values: str) -> None:
    roles = {document["metadata"]["name"] for document in rendered(values) if document["kind"] == "Role"}
    workers = {name for name, _, _ in pods(values) if name.startswith("um-worker")}
    assert roles == (workers if values in LAUNCHING else set())


@each_set
def test_the_certificates_that_the_settings_name_are_mounted(values: str) -> None:
    (settings,) = of_kind(values, "ConfigMap")
    named = {value.rpartition("/")[0] for name, value in settings["data"].items() if name.startswith("USERMODEL_TLS_")}
    for name, spec, _ in pods(values):
        (container,) = spec["containers"]
        assert named <= {mount["mountPath"] for mount in container["volumeMounts"]}, name


def _airflow(*files: str) -> dict[str, Any]:
    """Its chart's values, of one file after the other; null takes a key out, as Helm does it."""
    found: dict[str, Any] = {}
    for name in files:
        _merge(found, yaml.safe_load(text_of(f"airflow/{name}")))
    return found


def _merge(into: dict[str, Any], over: dict[str, Any]) -> None:
    for name, value in over.items():
        if isinstance(value, dict):
            _merge(into.setdefault(name, {}), value)
        elif value is None:
            del into[name]
        else:
            into[name] = value


@pytest.mark.parametrize(
    ("values", "files", "scheme"),
    [
        pytest.param("least", ["values.yaml"], "https", id="our certificates"),
        pytest.param("mesh", ["values.yaml", "mesh.yaml"], "http", id="a mesh encrypts"),
    ],
)
def test_pods_speak_tls_to_one_another_unless_a_mesh_does(values: str, files: list[str], scheme: str) -> None:
    airflow, certificate = _airflow(*files), scheme == "https"
    (worker,) = (spec["containers"][0] for name, spec, _ in pods(values) if name.startswith("um-worker"))
    told = {one["name"]: one["value"] for one in worker["env"]}
    for section, option in (("core", "execution_api_server_url"), ("edge", "api_url")):
        url = airflow["config"][section][option]
        assert url.startswith(f"{scheme}://airflow-api-server:8080/")
        assert told[f"AIRFLOW__{section.upper()}__{option.upper()}"] == url
    (settings,) = of_kind(values, "ConfigMap")
    data = settings["data"]
    trusted = {told.get("SSL_CERT_FILE"), told.get("AIRFLOW__API__SSL_CA_FILE"), data.get("USERMODEL_TLS_CA")}
    assert trusted == ({"/var/run/usermodel/tls/ca.crt"} if certificate else {None})
    assert set(airflow["config"]["api"]) == ({"ssl_cert", "ssl_key", "ssl_ca_file"} if certificate else set())
    probes = {airflow["apiServer"][f"{kind}Probe"]["scheme"] for kind in ("startup", "liveness", "readiness")}
    for name, spec, _ in pods(values):
        if name in ("um-http", "um-compute", "um-mlflow"):
            probes.add(spec["containers"][0]["readinessProbe"]["httpGet"]["scheme"])
    assert probes == {scheme.upper()}
    for name, spec, _ in pods(values):
        if name == "um-mlflow":
            assert data["USERMODEL_MLFLOW_URI"] == "https://um-mlflow:5000"
            shown = "--ssl-certfile /var/run/usermodel/tls/tls.crt --ssl-keyfile /var/run/usermodel/tls/tls.key"
            assert f"--uvicorn-opts={shown}" in spec["containers"][0]["command"]


def _variables(values: str) -> dict[str, str]:
    (settings,) = of_kind(values, "ConfigMap")
    found: dict[str, str] = settings["data"]
    return found


@pytest.mark.parametrize("values", [name for name in SETS if name.startswith("many hosts")])
def test_the_ranks_of_a_job_have_what_they_need(values: str) -> None:
    """The same home as who starts them, and their own way to object storage: by a Secret's file, as nobody."""
    settings = Settings(
        _env_file=None, **{name.removeprefix("USERMODEL_").lower(): value for name, value in _variables(values).items()
                           if name.startswith("USERMODEL_") and "TLS_" not in name},  # type: ignore[arg-type]
    )  # fmt: skip
    work = Work(entry="m:f", arguments=(), directory=settings.jobs / "a-job")
    task, *_ = yaml.safe_load(remote.manifest(work, settings=settings, token="0123456789ab"))["spec"]["tasks"]  # noqa: S106
    pod = task["template"]["spec"]
    (container,) = pod["containers"]
    (worker,) = [spec for name, spec, _ in pods(values) if name == "um-worker-train"]
    claims = [[one["persistentVolumeClaim"]["claimName"] for one in spec["volumes"] if "persistentVolumeClaim" in one]
              for spec in (pod, worker)]  # fmt: skip
    (made,) = of_kind(values, "PersistentVolumeClaim")
    assert claims == [[made["metadata"]["name"]]] * 2
    assert made["spec"]["accessModes"] == ["ReadWriteMany"]
    homes = [{one["mountPath"] for one in of["volumeMounts"]} for of in (container, worker["containers"][0])]
    assert all("/var/lib/usermodel" in paths for paths in homes)
    (account,) = [one for one in of_kind(values, "ServiceAccount") if one["metadata"]["name"] == "um-trainer"]
    assert pod["serviceAccountName"] == account["metadata"]["name"]
    stored, env = "object storage" in values, {one["name"]: one.get("value") for one in container["env"]}
    assert ("imagePullSecrets" in account) == stored, "as given"
    assert env.get("USERMODEL_STORAGE_ENDPOINT") == ("https://s3.example.org" if stored else None)
    secrets = [one["secret"] for one in pod["volumes"] if "secret" in one]
    assert [(one["secretName"], one["items"][0]["key"]) for one in secrets] == (
        [("usermodel-storage", "credentials")] if stored else []
    )
    file = env.get("AWS_SHARED_CREDENTIALS_FILE")
    mounted = {f"{mount['mountPath']}/keys" for mount in container["volumeMounts"] if mount.get("readOnly")}
    assert mounted == ({file} if stored else set())


def test_who_asks_mlflow_has_its_token() -> None:
    for values in SETS:
        named = _variables(values).get("USERMODEL_MLFLOW_TOKEN_FILE")
        assert (named is not None) == (values == "everything")
    asking = {edge.client for edge in EDGES if edge.server == "mlflow"}
    for name, spec, labels in pods("everything"):
        files = {
            f"/var/lib/usermodel/credentials/{item['path']}": source["secret"]["name"]
            for volume in spec["volumes"] if volume["name"] == "credentials"
            for source in volume["projected"]["sources"] for item in source["secret"]["items"]
        }  # fmt: skip
        given = files.get(str(_variables("everything")["USERMODEL_MLFLOW_TOKEN_FILE"]))
        asks = _party(labels["app.kubernetes.io/component"]) in asking
        assert given == ("usermodel-mlflow-token" if asks else None), name
    assert "path: mlflow_token" in text_of("airflow/values.yaml"), "and the light steps, of Airflow's own chart"


@each_set
def test_selectors_find_their_pods(values: str) -> None:
    labels = {name: found for name, _, found in pods(values)}
    accounts = {document["metadata"]["name"] for document in of_kind(values, "ServiceAccount")}
    for name, spec, _ in pods(values):
        assert spec["serviceAccountName"] in accounts, name
    for document in of_kind(values, "Deployment", "StatefulSet", "PodDisruptionBudget"):
        own = [name for name, found in labels.items() if selects(document["spec"]["selector"], found)]
        assert own == [document["metadata"]["name"]]
    for document in of_kind(values, "HorizontalPodAutoscaler"):
        assert document["spec"]["scaleTargetRef"]["name"] in labels
    for document in of_kind(values, "PodMonitor"):
        assert any(selects(document["spec"]["selector"], found) for found in labels.values())


def test_every_port_of_a_service_is_open_to_somebody() -> None:
    policies = of_kind("everything", "NetworkPolicy")
    for service in of_kind("everything", "Service"):
        (pod,) = [one for one in pods("everything") if selects({"matchLabels": service["spec"]["selector"]}, one[2])]
        numbers = {port["name"]: port["containerPort"] for port in pod[1]["containers"][0]["ports"]}
        for port in service["spec"]["ports"]:
            opened = {
                one["port"]
                for policy in policies
                if policy["spec"]["podSelector"] and selects(policy["spec"]["podSelector"], pod[2])
                for rule in policy["spec"].get("ingress", [])
                for one in rule["ports"]
            }
            assert numbers[port["targetPort"]] in opened, service["metadata"]["name"]


@each_set
def test_nothing_is_open_to_everybody(values: str) -> None:
    policies = of_kind(values, "NetworkPolicy")
    (closed,) = [one for one in policies if one["metadata"]["name"] == "um-default-deny"]
    assert closed["spec"] == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}
    for policy in policies:
        assert set(policy["spec"]["policyTypes"]) <= {"Ingress", "Egress"}
        for side, peers in (("ingress", "from"), ("egress", "to")):
            for rule in policy["spec"].get(side) or []:
                assert rule[peers], policy["metadata"]["name"]
                assert all(peer for peer in rule[peers])
                assert rule.get("ports") or policy["metadata"]["name"] == "um-trainer"
    for _, spec, labels in pods(values):
        assert any(selects(one["spec"]["podSelector"], labels) for one in policies if one["spec"]["podSelector"]), spec


def test_every_edge_of_the_network_is_opened_and_no_other() -> None:
    table = pytest.importorskip("infra.network", reason="the table of connections is not there yet")
    policies = {
        one["metadata"]["name"].removeprefix("um-"): one["spec"] for one in of_kind("everything", "NetworkPolicy")
    }
    ours = {_party(name): spec for name, spec in policies.items() if name not in _FOR_ALL}
    left = {(who, whom) for who, spec in ours.items() for rule in spec["egress"] for whom in _parties(rule["to"])}
    come = {(who, whom) for whom, spec in ours.items() for rule in spec["ingress"] for who in _parties(rule["from"])}
    known = {(edge.client, edge.server) for edge in table.EDGES}
    assert left == {(who, whom) for who, whom in known if who in ours}
    assert come == {(who, whom) for who, whom in known if whom in ours}
    ports = {name: one.port for name, one in table.LISTENERS.items()}
    for name, spec, labels in pods("everything"):
        for port in spec["containers"][0].get("ports", []):
            assert ports[_party(labels["app.kubernetes.io/component"])] == port["containerPort"], name


_FOR_ALL = {"default-deny", "dns", "airflow-migration"}


def _party(component: str) -> str:
    """The name that `infra.network` has for one of our components."""
    kind = component.partition("-")[0]
    if kind in ("http", "compute", "shard", "solaris"):
        return f"serving-{kind}"
    return "airflow-worker" if kind == "worker" else component


def _parties(peers: list[dict[str, Any]]) -> set[str]:
    found = set()
    for peer in peers:
        labels = peer["podSelector"].get("matchLabels", {})
        sets = peer["podSelector"].get("matchExpressions", [])
        if "app" in labels:
            found.add(labels["app"])
        elif "tier" in labels:
            found.add(f"airflow-{labels['component']}")
        elif sets[0]["operator"] == "Exists":
            found.add("trainer")
        else:
            found |= {_party(component) for component in sets[0]["values"]}
    return found


def test_prometheus_is_answered_and_the_rules_know_its_jobs() -> None:
    """It asks a pod by its address, and without a name for the job that is the namespace's."""
    (down,) = [rule for rule in ALERTS if rule["alert"] == "UserModelTargetDown"]
    named = re.compile(down["expr"].split('"')[1])
    for monitor in of_kind("everything", "PodMonitor"):
        for endpoint in monitor["spec"]["podMetricsEndpoints"]:
            (job,) = [one["replacement"] for one in endpoint["relabelings"] if one["targetLabel"] == "job"]
            assert named.fullmatch(job), job
    (container,) = next(spec["containers"] for name, spec, _ in pods("everything") if name == "um-http")
    given = {one["name"]: one.get("valueFrom") for one in container["env"]}
    assert given["POD_IP"] == {"fieldRef": {"fieldPath": "status.podIP"}}
    assert {"$(POD_IP)", "[$(POD_IP)]"} <= set(container["command"])


def test_no_secret_is_in_a_document() -> None:
    for values in SETS:
        assert of_kind(values, "Secret") == []
    wanted = {one["spec"]["target"]["name"]: one for one in of_kind("everything", "ExternalSecret")}
    assert len(wanted) == 8
    fetched = {one["secretKey"] for one in wanted["usermodel-airflow"]["spec"]["data"]}
    assert fetched == {"api-secret-key", "connection", "fernet-key", "jwt-secret", "passwords"}, (
        "all that Airflow reads"
    )
    read = set()
    for _, spec, _ in pods("everything"):
        for volume in spec["volumes"]:
            for source in volume.get("projected", {}).get("sources", []):
                read.add(source["secret"]["name"])
        for one in spec["containers"][0].get("env", []):
            if "secretKeyRef" in one.get("valueFrom", {}):
                read.add(one["valueFrom"]["secretKeyRef"]["name"])
    assert read == set(wanted) - {"usermodel-metrics"}, "Prometheus alone reads that one"


def test_what_scales_watches_metrics_that_exist() -> None:
    known = {one.name for one in metrics.ALL}
    named = {
        one["external"]["metric"]["name"]
        for scaler in of_kind("everything", "HorizontalPodAutoscaler")
        for one in scaler["spec"]["metrics"]
        if one["type"] == "External"
    }
    assert named
    assert named <= known


def test_homes_are_caches_where_storage_is_remote() -> None:
    assert of_kind("object storage", "PersistentVolumeClaim") == []
    for _, spec, _ in pods("object storage"):
        assert not any("persistentVolumeClaim" in volume for volume in spec["volumes"])
    claims = {
        volume["persistentVolumeClaim"]["claimName"]
        for _, spec, _ in pods("mesh")
        for volume in spec["volumes"]
        if "persistentVolumeClaim" in volume
    }
    assert claims == {"shared"}


def test_sizes_become_resources() -> None:
    by_name = {name: spec["containers"][0]["resources"] for name, spec, _ in pods("sized")}
    assert by_name["um-compute"]["limits"] == {"cpu": "2", "memory": "5120Mi"}
    assert by_name["um-worker-train"]["limits"]["nvidia.com/gpu"] == "2"
    shards = next(one for one in of_kind("sized", "StatefulSet") if one["metadata"]["name"] == "um-shard-demo")
    assert shards["spec"]["replicas"] == 3


@pytest.mark.parametrize(
    ("values", "words"),
    [
        pytest.param({}, "image.repository", id="no image"),
        pytest.param({"image": {**IMAGE, "digest": ""}}, "image.digest", id="no digest"),
        pytest.param({"image": {**IMAGE, "digest": "latest"}}, "digest", id="a tag"),
        pytest.param({"image": IMAGE, "settings": {"redis_url": "redis://"}}, "redis_url", id="a secret as a setting"),
        pytest.param({"image": IMAGE, "replica": 3}, "replica", id="a key that is not"),
        pytest.param({"image": IMAGE, "settings": {"storage_uri": "s3://b/p"}}, "mlflow.artifacts", id="no artifacts"),
        pytest.param({"image": IMAGE, "http": {"resources": {"requests": {"cpu": 1, "memory": "1Gi"}}}},
                     None, id="limits come from the defaults"),
        pytest.param({"image": IMAGE, "externalSecrets": {"enabled": True}}, "store", id="no store"),
        pytest.param({"image": IMAGE, **MANY_HOSTS}, "networkPolicy.kubernetes", id="no way to the API server"),
    ],
)  # fmt: skip
def test_values_that_are_wrong(values: dict[str, Any], words: str | None) -> None:
    with helm.Chart.load(str(CHART)) as chart:
        if words is None:
            chart.validate_schema(chart.merge_values(values))
            return
        with pytest.raises(helm.HelmError, match=re.escape(words)):
            _check_and_render(chart, values)


def _check_and_render(chart: Any, values: dict[str, Any]) -> None:
    chart.validate_schema(chart.merge_values(values))
    chart.render(values, name="um", namespace="usermodel")


@pytest.mark.parametrize("files", [["values.yaml"], ["values.yaml", "mesh.yaml"]], ids=["tls", "mesh"])
def test_airflows_values_are_what_its_chart_takes(files: list[str]) -> None:
    values = _airflow(*files)
    Draft7Validator(airflow_chart.VALUES).validate(values)
    wrong = {**values, "apiServer": {**values["apiServer"], "livenessProbe": {"tls": True}}}
    with pytest.raises(ValidationError, match="tls"):
        Draft7Validator(airflow_chart.VALUES).validate(wrong)


def test_airflow_has_values_that_fit_ours() -> None:
    values = _airflow("values.yaml")
    queues = json.loads(values["config"]["usermodel"]["edge_queues"])
    assert set(queues) <= set(EDGE_STEPS)
    workers = {one["metadata"]["name"] for one in of_kind("least", "StatefulSet")}
    assert {f"um-worker-{queue}" for queue in queues.values()} == workers
    assert values["executor"] == EXECUTORS
    known = yaml.safe_load((CHART / "values.yaml").read_text())
    told = Settings(_env_file=None, edge_steps=known["airflow"]["edgeSteps"], schedulers=known["airflow"]["schedulers"])
    assert (told.edge_queues(), told.schedulers) == (queues, values["scheduler"]["replicas"])
    assert values["airflowVersion"] == version("apache-airflow")
    (settings,) = of_kind("least", "ConfigMap")
    (claim,) = of_kind("least", "PersistentVolumeClaim")
    assert settings["metadata"]["name"] in values["extraEnvFrom"]
    assert claim["metadata"]["name"] == values["volumes"][0]["persistentVolumeClaim"]["claimName"]
    for part in ("scheduler", "dagProcessor", "triggerer", "apiServer"):
        assert {"requests", "limits"} == set(values[part]["resources"])
        assert values[part]["serviceAccount"] == {"automountServiceAccountToken": False}
    assert {one["name"] for one in values["volumeMounts"]} == {one["name"] for one in values["volumes"]}
    assert find_spec(values["config"]["core"]["auth_manager"].rpartition(".")[0]), "the image has it"
    (passwords,) = values["apiServer"]["extraVolumeMounts"]
    copied = (
        f"cat {passwords['mountPath']}/passwords > {values['config']['core']['simple_auth_manager_passwords_file']}"
    )
    assert copied in values["apiServer"]["args"][-1]
    secrets = {one["name"] for one in known["secrets"].values()} | {known["tls"]["secretName"], "usermodel-storage"}
    assert (
        set(re.findall(r"(?:name|secretName|SecretName): (usermodel-[a-z]+)", text_of("airflow/values.yaml")))
        <= secrets
    )
