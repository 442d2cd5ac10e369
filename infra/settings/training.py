"""How a day is trained, and who runs it."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, Self

from pydantic import Field, model_validator

from infra.settings.storage import Storage


class Training(Storage):
    """Ranks, hosts and schedulers."""

    ranks: int = Field(2, ge=1, description="training ranks on this machine, one core each")
    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="where ranks compute; auto: a GPU each, if any")
    deadline_seconds: float = Field(
        120, gt=0, description="a training rank that waits longer for another, or for its data, fails and names it"
    )
    checkpoint_seconds: float = Field(
        300, ge=0, description="training saves so often within a day, where a killed day goes on; 0: never"
    )
    scheduler: Literal["local", "slurm", "kubernetes"] = Field(
        "local", description="who runs training: this machine, Slurm, or Kubernetes with Volcano"
    )
    hosts: int = Field(1, ge=1, description="hosts that train a day together, each with `ranks` ranks; not with local")
    host_interface: str = Field(
        "eth0", description="network interface between the hosts of a job; Slurm on one machine: lo"
    )
    lost_host_seconds: int = Field(
        15,
        ge=3,
        description="a host of several whose network is silent for so long is lost: the job fails, or starts its ranks "
        "again; at most deadline_seconds, which is of ranks whose host answers",
    )
    job_dir: Path | None = Field(
        None,
        description="logs and signs of life of jobs, seen by all hosts; default: logs/training in the shared folder",
    )
    job_hours: float = Field(6, gt=0, description="the scheduler ends a job of Slurm or Kubernetes after so long")
    job_cores: int = Field(0, ge=0, description="cores of each host for a job; 0: as many as ranks")
    job_memory_gib: float = Field(
        0,
        ge=0,
        description="memory of each host for a job, GiB; 0: the partition's default (Kubernetes needs a number)",
    )
    job_restarts: int = Field(
        0, ge=0, description="so often do the hosts of a job start their ranks again, before it fails"
    )
    slurm_partition: str | None = Field(None, description="partition of Slurm; default: the cluster's")
    slurm_port: int = Field(
        6817, ge=1, le=65000, description="port of `infra slurm up`'s controller; its nodes take the next ones"
    )
    kubernetes_namespace: str = Field("default", description="namespace of jobs")
    kubernetes_queue: str = Field("default", description="Volcano's queue")
    kubernetes_image: str | None = Field(None, description="image with this installation; needed with kubernetes")
    kubernetes_service_account: str = Field("default", description="of a job's pods, which get no token of it")
    kubernetes_volumes: str = Field(
        "", description="shared volumes of a job, separated by blanks: CLAIM:/PATH, the same path as on this machine"
    )
    kubernetes_storage_secret: str = Field(
        "", description="SECRET/KEY whose entry is object storage's keys, as AWS's own file: a job's pods read it so"
    )
    kubernetes_secrets: str = Field(
        "",
        description="names of Secrets, separated by blanks, whose keys are a job's variables (the lake's credentials)",
    )

    @model_validator(mode="after")
    def _lost_hosts_are_noticed_first(self) -> Self:
        if self.hosts > 1 and self.lost_host_seconds > self.deadline_seconds:
            raise ValueError(
                f"USERMODEL_LOST_HOST_SECONDS is {self.lost_host_seconds} and USERMODEL_DEADLINE_SECONDS "
                f"{self.deadline_seconds:g}: a rank that waits for a silent host would give up before that is lost; "
                "lower the first, or raise the second"
            )
        return self

    @model_validator(mode="after")
    def _jobs_fit_the_scheduler(self) -> Self:
        if self.scheduler == "local" and self.hosts > 1:
            raise ValueError(
                f"USERMODEL_HOSTS is {self.hosts} and USERMODEL_SCHEDULER local, which is one: name slurm or kubernetes"
            )
        if self.scheduler == "kubernetes" and not (self.kubernetes_image and self.job_memory_gib):
            raise ValueError("jobs on Kubernetes need USERMODEL_KUBERNETES_IMAGE and USERMODEL_JOB_MEMORY_GIB")
        if self.scheduler == "kubernetes" and self.device == "auto":
            raise ValueError("a job asks Kubernetes for GPUs or for none: set USERMODEL_DEVICE to cuda or cpu")
        if self.scheduler == "kubernetes":
            self._require_volumes()
        return self

    def _require_volumes(self) -> None:
        """Who starts a job's ranks hands them folders, also where what they seal goes to object storage."""
        mounted = [Path(one.partition(":")[2]) for one in self.kubernetes_volumes.split()]
        lake = [] if "://" in self.lake else [Path(self.lake)]
        for folder in (self.checkpoints, self.jobs, *lake):
            if not any(folder.absolute().is_relative_to(path) for path in mounted):
                raise ValueError(
                    f"{folder} is on no volume of USERMODEL_KUBERNETES_VOLUMES ({self.kubernetes_volumes or 'none'}): "
                    "a job's pods and who starts them share checkpoints and job folders, with object storage too. "
                    "Name a ReadWriteMany claim, CLAIM:/PATH, that is mounted at the same PATH here, above that folder"
                )

    @property
    def cores_per_host(self) -> int:
        """That a job asks for on each host."""
        return self.job_cores or self.ranks

    @property
    def gpus_per_host(self) -> int:
        """That a job asks for on each host: one per rank, or none."""
        return self.ranks if self.device == "cuda" else 0

    @property
    def jobs(self) -> Path:
        """Where jobs keep their logs, one folder each; every host of a job sees it."""
        return self.job_dir or self.shared / "logs" / "training"

    @property
    def slurm_programs(self) -> Path:
        """Where `infra slurm up` puts the clients of its cluster: `sbatch` and the others."""
        return self.home / "slurm" / "bin"
