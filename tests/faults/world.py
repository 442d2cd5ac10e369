"""What scenarios start from, made once: an undisturbed day, and one that was killed half-way."""

from __future__ import annotations

import shutil
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from features.fingerprint import file_sha256
from features.lake import Lake
from tests.faults.attempts import EVERY, Fault, attempt, failure, settings_of, steps_saved
from tests.trainer.planted import DAY, commit_day
from tests.trainer.test_checkpoint import tensors
from trainer.trained import TrainedDay

if TYPE_CHECKING:
    from tests.faults.cluster import SlurmCluster
    from tests.faults.online import Online
    from tests.faults.orchestra import Orchestra
    from tests.object_store import ObjectServer

NUM_ROWS, NUM_STEPS = 4000, 32
KILLED_AT = 14


@dataclass(frozen=True, kw_only=True)
class Undisturbed:
    """The day that every disturbed one is compared with."""

    home: Path
    trained: TrainedDay
    tensors: dict[str, torch.Tensor] = field(repr=False)


class World:
    """Made on demand under `folder`, and never changed after."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._running = ExitStack()

    def close(self) -> None:
        """End what runs."""
        self._running.close()

    @cached_property
    def online(self) -> Online:
        """The online service, which scenarios share and leave whole."""
        from tests.faults.online import online

        return self._running.enter_context(online(self.folder / "online", self.store))

    @cached_property
    def object_storage(self) -> ObjectServer:
        """An S3 server, which scenarios share: each has a prefix of its own."""
        from tests.object_store import object_server

        return self._running.enter_context(object_server())

    @cached_property
    def orchestra(self) -> Orchestra:
        """Airflow with two schedulers and two edge workers, which scenarios share and leave whole."""
        from tests.faults.orchestra import orchestra

        return self._running.enter_context(orchestra(self.folder / "orchestra"))

    @cached_property
    def slurm(self) -> SlurmCluster:
        """A cluster of two nodes, which scenarios share and leave whole. SkippedError where there is none."""
        from tests.faults.cluster import cluster

        return self._running.enter_context(cluster(self.folder / "slurm"))

    @cached_property
    def _landed(self) -> Path:
        """A home that holds the planted day's examples, and no more."""
        commit_day(Lake(settings_of(self.folder / "landed").lake), DAY, num_rows=NUM_ROWS)
        return self.folder / "landed"

    @cached_property
    def undisturbed(self) -> Undisturbed:
        """The day, trained at two ranks that do not save on the way."""
        home = self.fresh(self.folder / "undisturbed")
        trained = attempt(settings_of(home), Fault(every=NUM_STEPS + 1))
        return Undisturbed(home=home, trained=trained, tensors=self.tensors(trained))

    @cached_property
    def _killed(self) -> Path:
        home = self.fresh(self.folder / "killed")
        message = failure(settings_of(home), Fault(moment="learning", step=KILLED_AT))
        assert "a rank was killed: Signal 9" in message, message
        assert steps_saved(home) == [EVERY, 2 * EVERY]
        return home

    @cached_property
    def store(self) -> Path:
        """An MLflow database with its tables made."""
        from mlflow import MlflowClient

        path = self.folder / "mlflow.db"
        MlflowClient(tracking_uri=f"sqlite:///{path}").search_experiments()
        return path

    def fresh(self, home: Path) -> Path:
        """`home`, with the planted day to be trained."""
        return shutil.copytree(self._landed, home)

    def killed(self, home: Path) -> Path:
        """`home`, with the day killed at batch 14 and the waypoints of steps 6 and 12."""
        return shutil.copytree(self._killed, home, ignore=shutil.ignore_patterns("logs"))

    def trained(self, home: Path) -> tuple[Path, TrainedDay]:
        """`home`, with the undisturbed day."""
        shutil.copytree(self.undisturbed.home, home, ignore=shutil.ignore_patterns("logs"))
        path = self.undisturbed.trained.path.relative_to(self.undisturbed.home)
        return home, replace(self.undisturbed.trained, path=home / path)

    def tensors(self, trained: TrainedDay) -> dict[str, torch.Tensor]:
        """Everything that the checkpoint holds, unsharded."""
        return tensors(trained.path, self.folder / "scratch.pt")

    def require_same(self, trained: TrainedDay) -> None:
        """AssertionError unless it is the undisturbed day to the bit, each example counted once, nothing left."""
        expected = self.undisturbed
        assert trained.fingerprint == expected.trained.fingerprint
        assert trained.metrics == expected.trained.metrics
        assert trained.metrics["click"]["examples"] == NUM_ROWS
        found = self.tensors(trained)
        assert found.keys() == expected.tensors.keys()
        apart = [name for name, tensor in expected.tensors.items() if not torch.equal(tensor, found[name])]
        assert not apart, f"{len(apart)} of {len(found)} tensors differ: {apart[:3]}"
        leftovers = [path.name for path in trained.path.parent.glob(".*")]
        assert not leftovers, f"left behind: {leftovers}"


def bytes_of(folder: Path) -> dict[Path, str]:
    """SHA-256 of every file."""
    return {path.relative_to(folder): file_sha256(path) for path in sorted(folder.rglob("*")) if path.is_file()}
