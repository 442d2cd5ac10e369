"""What Kubernetes is given: as it was looked at, and as the published schemas want it.

After a change that is meant: `python -m tests.trainer.launch.test_manifests` writes the golden files anew.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from infra.settings import Settings
from trainer.launch import remote
from trainer.launch.manifest import kubernetes_name, mounts, storage_keys
from trainer.launch.role import Work, remote_app

GOLDEN = Path(__file__).parent / "golden"
TOKEN = "0123456789ab"  # noqa: S105
CASES: dict[str, dict[str, Any]] = {
    "one-host-cpu": {"device": "cpu", "job_memory_gib": 8},
    "two-hosts-gpu": {
        "device": "cuda",
        "hosts": 2,
        "ranks": 8,
        "job_cores": 64,
        "job_memory_gib": 900,
        "kubernetes_namespace": "training",
        "kubernetes_queue": "daily",
        "kubernetes_service_account": "trainer",
        "kubernetes_secrets": "lake-credentials",
    },
}
KUBERNETES = ("1.30", "1.34")
WORK = Work(entry="m:f", arguments=(), directory=Path("/srv/usermodel/logs/training/a-job"))


def settings_of(**changed: Any) -> Settings:
    """With a shared volume for lake, checkpoints and jobs."""
    of_all: dict[str, Any] = {
        "home": Path("/srv/usermodel"),
        "scheduler": "kubernetes",
        "kubernetes_image": "registry.example/usermodel:1",
        "kubernetes_volumes": "usermodel:/srv/usermodel",
    }
    return Settings(_env_file=None, **of_all | changed)


def rendered(name: str) -> str:
    settings = settings_of(**CASES[name])
    directory = settings.jobs / f"fb_ctr-ds=2026-01-02-{TOKEN}"
    work = Work(entry="trainer.worker:main", arguments=(str(directory / "assignment.json"),), directory=directory)
    return remote.manifest(work, settings=settings, token=TOKEN)


@pytest.fixture(autouse=True)
def client() -> None:
    pytest.importorskip("kubernetes", reason="TorchX renders manifests with the package `kubernetes`")


@pytest.mark.parametrize("name", CASES)
def test_it_is_the_golden_one(name: str) -> None:
    assert rendered(name) == (GOLDEN / f"{name}.yaml").read_text()
    assert rendered(name) == rendered(name), "TorchX's random name is in it"


@pytest.mark.parametrize("name", CASES)
def test_the_published_schemas_accept_it(name: str) -> None:
    validate = pytest.importorskip("kubernetes_validate").validate
    jsonschema = pytest.importorskip("jsonschema")
    job = yaml.safe_load((GOLDEN / f"{name}.yaml").read_text())
    jsonschema.validate(job, json.loads((GOLDEN / "volcano-job.schema.json").read_text()))
    for task in job["spec"]["tasks"]:
        pod = {"apiVersion": "v1", "kind": "Pod", **task["template"]}
        for version in KUBERNETES:
            validate(pod, version, strict=True)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(
            job | {"spec": job["spec"] | {"tasks": 1}}, json.loads((GOLDEN / "volcano-job.schema.json").read_text())
        )


@pytest.mark.parametrize("name", CASES)
def test_a_pod_has_what_it_needs_and_no_more(name: str) -> None:
    for task in yaml.safe_load(rendered(name))["spec"]["tasks"]:
        pod = task["template"]["spec"]
        (container,) = pod["containers"]
        assert container["resources"]["requests"] == container["resources"]["limits"]
        assert container["securityContext"]["readOnlyRootFilesystem"]
        assert not container["securityContext"]["allowPrivilegeEscalation"]
        assert pod["securityContext"]["runAsNonRoot"]
        assert not pod["automountServiceAccountToken"]
        assert not pod.get("hostNetwork")
        assert [volume for volume in pod["volumes"] if "hostPath" in volume] == []
        assert ("tolerations" in pod) == ("nvidia.com/gpu" in container["resources"]["limits"])
        assert [one for one in container["env"] if "secret" in one["name"].lower()] == []


def test_an_attempt_has_one_name() -> None:
    assert kubernetes_name("fb_ctr-ds=2026-01-02-0123456789ab") == "fb-ctr-ds-2026-01-02-0123456789ab"
    long = kubernetes_name(f"{'a_very_long_model' * 9}-ds=2026-01-02-0123456789ab")
    assert long.endswith("-ds-2026-01-02-0123456789ab")
    assert len(long) <= 40
    assert kubernetes_name("2_towers-ds=2026-01-02-0123456789ab") == "towers-ds-2026-01-02-0123456789ab", "a Service's"


def test_a_lake_in_object_storage_is_named_and_its_keys_are_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "of nobody's concern")
    stored = {
        "storage_uri": "s3://bucket/prefix",
        "storage_endpoint": "https://storage.example:9000",
        "storage_profile": "ours",
    }
    (role,) = remote_app(WORK, settings=settings_of(**CASES["one-host-cpu"], **stored)).roles
    assert role.env["USERMODEL_STORAGE_ENDPOINT"] == stored["storage_endpoint"]
    assert role.env["USERMODEL_STORAGE_PROFILE"] == "ours"
    assert role.env["USERMODEL_HOME"] == "/srv/usermodel"
    assert "of nobody's concern" not in str(role)
    (role,) = remote_app(WORK, settings=settings_of(**CASES["one-host-cpu"])).roles
    assert not [name for name in role.env if name.startswith("USERMODEL_")]


def test_the_keys_of_object_storage_are_a_file_of_a_secret() -> None:
    settings = settings_of(device="cpu", job_memory_gib=1, kubernetes_storage_secret="keys-of-ours/credentials")  # noqa: S106
    (task,) = yaml.safe_load(remote.manifest(WORK, settings=settings, token=TOKEN))["spec"]["tasks"]
    pod = task["template"]["spec"]
    (secret,) = [one["secret"] for one in pod["volumes"] if "secret" in one]
    assert secret["secretName"] == "keys-of-ours"
    assert secret["items"] == [{"key": "credentials", "path": "keys"}]
    (container,) = pod["containers"]
    assert {"name": "AWS_SHARED_CREDENTIALS_FILE", "value": "/var/run/usermodel/storage/keys"} in container["env"]
    with pytest.raises(ValueError, match="SECRET/KEY"):
        storage_keys(settings.model_copy(update={"kubernetes_storage_secret": "keys-of-ours"}))


@pytest.mark.parametrize(
    ("changed", "missing"),
    [
        pytest.param({"kubernetes_volumes": ""}, "/srv/usermodel/checkpoints", id="no volume"),
        pytest.param({"kubernetes_volumes": "", "storage_uri": "s3://bucket/prefix"}, "/srv/usermodel/checkpoints",
                     id="object storage alone"),
        pytest.param({"kubernetes_volumes": "usermodel:/srv/user"}, "/srv/usermodel/checkpoints", id="a sibling"),
        pytest.param({"job_dir": Path("/var/jobs")}, "/var/jobs", id="the jobs' folder elsewhere"),
        pytest.param({"lake_uri": "/mnt/lake"}, "/mnt/lake", id="the lake elsewhere"),
        pytest.param({"lake_uri": "s3://bucket/lake"}, None, id="the lake in object storage"),
        pytest.param({"job_dir": Path("/var/jobs"), "kubernetes_volumes": "a:/srv/usermodel b:/var/jobs"}, None,
                     id="two volumes"),
    ],
)  # fmt: skip
def test_what_ranks_and_launcher_share_is_on_a_volume(changed: dict[str, Any], missing: str | None) -> None:
    if missing is None:
        assert settings_of(device="cpu", job_memory_gib=1, **changed).scheduler == "kubernetes"
    else:
        with pytest.raises(ValueError, match=rf"{missing} is on no volume of USERMODEL_KUBERNETES_VOLUMES .*Name a"):
            settings_of(device="cpu", job_memory_gib=1, **changed)


def test_a_volume_that_cannot_be_read_is_refused() -> None:
    with pytest.raises(ValueError, match="CLAIM:/PATH"):
        mounts(settings_of(device="cpu", job_memory_gib=1).model_copy(update={"kubernetes_volumes": "claim"}))


if __name__ == "__main__":
    for case in CASES:
        (GOLDEN / f"{case}.yaml").write_text(rendered(case))
