"""Train one day of one user model: a TorchX job of torchrun ranks, run once per content."""

from __future__ import annotations

import logging
import math
import time
import uuid
from contextlib import ExitStack
from datetime import date
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Protocol

from features.days import day_before
from features.fingerprint import fingerprint
from features.lake import Lake, Partition
from features.storage_errors import StorageError
from infra.settings import Settings
from trainer import identities, waypoints
from trainer.archive.archive import Archive
from trainer.archive.download import bring
from trainer.archive.following import following, forget, recall
from trainer.archive.keep import keep
from trainer.archive.lease import Lease, day_held, leased
from trainer.assignment import Assignment, write_assignment
from trainer.checkpoint import remove_partial
from trainer.config import TrainingConfig
from trainer.launch import remote, run_ranks
from trainer.launch.record import JobRecord, read_record
from trainer.launch.remote import LeftRunningError
from trainer.launch.role import Work
from trainer.locks import LockedError, exclusive
from trainer.profile import Profile, read_profile
from trainer.recipe import Recipe
from trainer.trained import (
    DOCUMENT,
    TrainedDay,
    checkpoint_path,
    find_base,
    find_trained,
    newest_before,
    on_disk,
    read_trained,
)

log = logging.getLogger(__name__)


class Launch(Protocol):
    """What `trainer.launch.run_ranks` does."""

    def __call__(self, entry: str, arguments: list[str], /, *, ranks: int, directory: Path) -> None:
        """Returns when all ranks have ended well. RuntimeError with the failing rank's message."""


_ASSIGNMENT = "assignment.json"
_FORMAT = 2
"""Changes when the same inputs would give other weights: every day is then trained anew."""


def train(
    recipe: Recipe, ds: date, *, settings: Settings, after_gap: bool = False, launch: Launch | None = None
) -> TrainedDay:
    """Learn the day's examples, from the weights of the day before.

    The same inputs give the same `fingerprint`, and a day whose checkpoint has it is returned as it is. The
    number of ranks is no input: it changes the order of the examples, not what is learnt from, and a day must
    not be trained again because the machine changed. An attempt that was killed is gone on with, at the same
    number of ranks; the job of one that runs on, on Slurm or Kubernetes, is waited for in place of another.
    launch: starts the ranks in place of the settings' scheduler.

    ValueError: no examples of the day, a gap before it without `after_gap`, or inputs that the day was trained from
    before it was trained from others. LockedError: somebody else is training it. RuntimeError: the job failed; its
    message is the failing rank's, or what the scheduler did to it. LeftRunningError: the job may run on, and the
    same again joins it. NotArchivedError: the day is trained, and the same again archives it.
    """
    examples, archive = Lake(settings.lake).get(f"examples/{recipe.source.name}", ds), Archive.of(settings)
    parent = find_parent(settings, recipe.name, ds, after_gap=after_gap)
    config = TrainingConfig.of(recipe)
    key = day_fingerprint(config, examples, parent)
    destination = checkpoint_path(settings, recipe.name, ds, key)
    lock = settings.checkpoints / recipe.name / f"ds={ds}.lock"
    joined = _join_earlier(archive, destination, lock, settings=settings)
    if joined is not None:
        return joined
    token = uuid.uuid4().hex[:12]
    with day_held(archive, lock.with_suffix(""), token=token) as lease:
        if archive is not None:
            bring(archive, destination)
        existing = read_trained(destination)
        previous = find_trained(settings, recipe.name, ds)
        if existing is not None:
            log.info("unchanged model=%s ds=%s fingerprint=%s", recipe.name, ds, key[:8])
            return _kept(archive, _newest(existing, previous), lease)
        for leftover in remove_partial(destination.parent, final=destination):
            log.info("removed what an earlier attempt left: %s", leftover)
        remote.cancel_others(waypoints.folder(destination), model=recipe.name, ds=str(ds), settings=settings)
        waypoints.prepare(destination, siblings=f"ds={ds}-*")
        recall(archive, destination)
        ids = waypoints.folder(destination).absolute() / identities.FOLDER
        identities.decide(ids, config, examples, lake=Lake(settings.lake), parent=parent, token=token)
        assignment = Assignment(
            config=config,
            ds=ds,
            lake=settings.lake,
            examples=examples,
            parent=parent,
            fingerprint=key,
            revision=previous.revision + 1 if previous else 0,
            gap_days=gap_days(ds, parent),
            base=None if parent is None else find_base(parent),
            checkpoints=recipe.checkpoints,
            destination=destination.absolute(),
            lock=lock.absolute(),
            token=token,
            device=settings.device,
            deadline_seconds=settings.deadline_seconds,
            outlives=settings.scheduler != "local",
            checkpoint_seconds=settings.checkpoint_seconds,
            ids=ids,
        )
        log.info("training model=%s ds=%s fingerprint=%s %s", recipe.name, ds, key[:8], _origin(ds, parent))
        with following(archive, destination):
            _run(assignment, settings=settings, launch=launch)
        trained = read_trained(destination)
        if trained is None:
            raise RuntimeError(f"the job ended well, but {destination} is not a complete checkpoint; train {ds} again")
        trained = _kept(archive, trained, lease)
    _log_result(trained)
    return trained


def _kept(archive: Archive | None, trained: TrainedDay, lease: Lease | None) -> TrainedDay:
    """The day, in the archive as well; its waypoints have done their work. NotArchivedError: as `keep`."""
    waypoints.clear(trained.path)
    if not keep(archive, trained.path, document=DOCUMENT, may_commit=lambda: None if lease is None else lease.check()):
        theirs = read_trained(trained.path)
        assert theirs is not None, "it was brought whole"
        trained = theirs
    forget(archive, trained.path)
    return trained


def _newest(existing: TrainedDay, newest: TrainedDay | None) -> TrainedDay:
    if newest is not None and newest.revision > existing.revision:
        raise ValueError(
            f"{existing.ds} was trained from these inputs as revision {existing.revision}, and from others since: its "
            f"model is revision {newest.revision}, {newest.path}. Delete that directory to go back to this one"
        )
    return existing


def profile(recipe: Recipe, ds: date, *, settings: Settings, steps: int) -> Profile:
    """Take `steps` steps of the day under a profiler, from the weights of the newest day before; publish nothing.

    ValueError: no examples of the day, or too few of them. RuntimeError: the job failed.
    """
    if steps < 1:
        raise ValueError(f"{steps} steps; profile at least one")
    examples = Lake(settings.lake).get(f"examples/{recipe.source.name}", ds)
    config, token = TrainingConfig.of(recipe), uuid.uuid4().hex[:12]
    parent = find_parent(settings, recipe.name, ds, after_gap=True)
    with TemporaryDirectory(prefix="profile-") as scratch:
        ids = Path(scratch) / identities.FOLDER
        identities.decide(ids, config, examples, lake=Lake(settings.lake), parent=parent, token=token)
        assignment = Assignment(
            config=config,
            ds=ds,
            lake=settings.lake,
            examples=examples,
            parent=parent,
            fingerprint="",
            revision=0,
            destination=checkpoint_path(settings, recipe.name, ds, "profile").absolute(),
            lock=settings.checkpoints / recipe.name / f"profile-{token}.lock",
            token=token,
            device=settings.device,
            deadline_seconds=settings.deadline_seconds,
            profile_steps=steps,
            ids=ids,
        )
        return read_profile(_run(assignment, settings=settings))


def day_fingerprint(config: TrainingConfig, examples: Partition, parent: TrainedDay | None) -> str:
    """Of everything that decides the day's weights."""
    return fingerprint(
        _FORMAT,
        config,
        examples.table,
        examples.ds,
        examples.fingerprint,
        parent.fingerprint if parent else None,
    )


def find_parent(settings: Settings, model: str, ds: date, *, after_gap: bool) -> TrainedDay | None:
    """The trained day before `ds`; None when there is no earlier one at all; ValueError for a gap."""
    newest = newest_before(settings, model, ds)
    if newest is None:
        return None
    if newest.ds != day_before(ds):
        if not after_gap:
            raise ValueError(
                f"{model} is not trained on {day_before(ds)}, the day before {ds}; its newest good day is "
                f"{newest.ds}. Train the days between first, or go on from {newest.ds} with --after-gap"
            )
        log.warning("model=%s ds=%s skips the days after %s (--after-gap)", model, ds, newest.ds)
    return on_disk(settings, newest)


def gap_days(ds: date, parent: TrainedDay | None) -> int:
    """Days between the parent's and `ds`."""
    return 0 if parent is None else (ds - parent.ds).days - 1


def _origin(ds: date, parent: TrainedDay | None) -> str:
    if parent is None:
        return "cold start: no earlier day is trained"
    missed = gap_days(ds, parent)
    after = f" after a gap of {missed} days" if missed else ""
    return f"warm start from {parent.ds} fingerprint={parent.fingerprint[:8]}{after}"


def job_directory(settings: Settings, model: str, ds: date, *, token: str) -> Path:
    """Of the job of an attempt at a day: what it is told, its logs, its hosts' signs of life."""
    return settings.jobs.absolute() / f"{model}-ds={ds}-{token}"


def work_in(directory: Path) -> Work:
    """What the ranks of the job of `directory` do."""
    return Work(entry="trainer.worker:main", arguments=(str(directory / _ASSIGNMENT),), directory=directory)


def _join_earlier(archive: Archive | None, destination: Path, lock: Path, *, settings: Settings) -> TrainedDay | None:
    """The day of the job that an attempt left when it was killed: the lock, the lease and the waypoints are those of
    that attempt, and so is the end. None where there is no such job (any more), nor its day."""
    folder = waypoints.folder(destination)
    record = read_record(folder)
    if record is None:
        return None
    with exclusive(lock, token=record.token), ExitStack() as held:
        try:
            lease = held.enter_context(leased(archive, lock.with_suffix(""), token=record.token))
        except (LockedError, StorageError) as error:
            raise LeftRunningError(f"{record.describe()} may run on, and is not waited for: {error}") from error
        with following(archive, destination):
            remote.join(record, folder, settings=settings)
        trained = read_trained(destination)
        if trained is None:
            return None
        trained = _kept(archive, _newest(trained, find_trained(settings, trained.model, trained.ds)), lease)
    _log_result(trained)
    return trained


def _run(assignment: Assignment, *, settings: Settings, launch: Launch | None = None) -> Path:
    """Run the job; its directory."""
    directory = job_directory(settings, assignment.config.name, assignment.ds, token=assignment.token)
    directory.mkdir(parents=True)
    assignment.destination.parent.mkdir(parents=True, exist_ok=True)
    write_assignment(assignment, directory / _ASSIGNMENT)
    started = time.monotonic()
    if assignment.outlives and launch is None:
        record = JobRecord(
            model=assignment.config.name,
            ds=str(assignment.ds),
            fingerprint=assignment.fingerprint,
            scheduler=settings.scheduler,
            token=assignment.token,
            directory=str(directory),
            submitted=time.time(),
        )
        remote.run(work_in(directory), record, waypoints.folder(assignment.destination), settings=settings)
    else:
        work = work_in(directory)
        start = launch or run_ranks
        start(work.entry, list(work.arguments), ranks=settings.ranks, directory=directory)
    log.info("job done model=%s ds=%s in %.1f s", assignment.config.name, assignment.ds, time.monotonic() - started)
    return directory


def _log_result(trained: TrainedDay) -> None:
    for task, values in trained.metrics.items():
        shown = {name: math.nan if value is None else value for name, value in values.items()}
        log.info(
            "trained model=%s ds=%s task=%s ne=%.4f calibration=%.3f auc=%.4f positives=%d examples=%d",
            trained.model,
            trained.ds,
            task,
            shown["ne"],
            shown["calibration"],
            shown["auc"],
            shown["positives"],
            shown["examples"],
        )
