"""What a job is: one role, replicated per host, that starts torchrun's agent there."""

from __future__ import annotations

import logging
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

from torchx.specs import NULL_RESOURCE, AppDef, Resource, Role, macros

from features.object_store import in_object_store
from infra.settings import REPOSITORY, Settings

log = logging.getLogger(__name__)

ROLE = "trainer"
_MIB_PER_GIB = 1024
_ALLOCATOR = ":".join(
    (
        "glibc.malloc.mmap_threshold=4294967296",
        "glibc.malloc.trim_threshold=8589934592",
        "glibc.malloc.top_pad=268435456",
    )
)
"""Keeps the step's tensors out of mmap: up to 1.9 times less CPU per step with 600 features."""
_THREADS = {"OMP_NUM_THREADS": "1", "GLIBC_TUNABLES": _ALLOCATOR}
_ALONE = {"TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1", "GLOO_SOCKET_IFNAME": "lo"}
"""Of the ranks of one host: loopback alone, and no port."""

_STORAGE = ("storage_endpoint", "storage_region", "storage_profile", "storage_allow_http", "storage_seconds",
            "storage_cache_gib")  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Work:
    """What every rank does: `entry` (`module:function`) called with `arguments`."""

    entry: str
    arguments: tuple[str, ...]
    directory: Path
    """The job's, seen by all hosts: logs, heartbeats, a rank's `error-<rank>.json`."""


def local_app(work: Work, *, ranks: int) -> AppDef:
    """Ranks of this machine on loopback. However the process that starts them dies, so do they."""
    command = [sys.executable, "-m", "trainer.agent", *_told(work, ranks)]
    if shutil.which("setpriv"):
        command = ["setpriv", "--pdeathsig", "TERM", *command]
    else:
        log.warning("setpriv is not installed: if this process is killed, its training ranks live on")
    env = {**_THREADS, **_path(), **_ALONE}
    return _app(Role(name=ROLE, image="", entrypoint=command[0], args=command[1:], env=env))


def remote_app(work: Work, *, settings: Settings) -> AppDef:
    """An agent on each of `settings.hosts` hosts, which meet through the job's directory.

    On Slurm the hosts share this installation; one replica is all of them, for Slurm itself starts it on each and
    tells it which it is. On Kubernetes the image holds the installation.
    """
    in_image = settings.scheduler == "kubernetes"
    options: list[str] = []
    env = {**_THREADS, **(_storage(settings) if in_image else _path())}
    if settings.hosts > 1:
        options += ["--nodes", str(settings.hosts)] + (["--node-rank", macros.replica_id] if in_image else [])
        options += ["--interface", settings.host_interface, "--lost-seconds", str(settings.lost_host_seconds)]
        options += ["--max-restarts", str(settings.job_restarts)]
    else:
        env |= _ALONE
    role = Role(
        name=ROLE,
        image=settings.kubernetes_image or "" if in_image else "",
        entrypoint="python" if in_image else sys.executable,
        args=["-m", "trainer.agent", *options, *_told(work, settings.ranks)],
        env=env,
        num_replicas=settings.hosts if in_image else 1,
        resource=_resource(settings),
    )
    return _app(role)


def _app(role: Role) -> AppDef:
    return AppDef(name=ROLE, roles=[role])


def _told(work: Work, ranks: int) -> list[str]:
    return [work.entry, str(ranks), str(work.directory), *work.arguments]


def _path() -> dict[str, str]:
    return {"PYTHONPATH": ":".join([str(REPOSITORY), *(entry for entry in sys.path if entry)])}


def _storage(settings: Settings) -> dict[str, str]:
    """Where a lake in object storage is, of which the image knows nothing; its keys are a Secret's."""
    if not in_object_store(settings.lake):
        return {}
    told = {"home": str(settings.home.absolute())} | settings.model_dump(include=set(_STORAGE), exclude_none=True)
    return {f"USERMODEL_{name.upper()}": str(value) for name, value in told.items()}


def _resource(settings: Settings) -> Resource:
    """Of one host; no limit of memory where none is set."""
    memory = round(settings.job_memory_gib * _MIB_PER_GIB) or NULL_RESOURCE.memMB
    return Resource(cpu=settings.cores_per_host, gpu=settings.gpus_per_host, memMB=memory)
