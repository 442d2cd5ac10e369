"""Jobs that outlive the process that waits for them: submitted, joined, waited for, cancelled.

A process that is killed outright leaves its job alone, and the next attempt at the day joins it. One that is asked
to end (SIGTERM, Ctrl-C: a person gave the task up) cancels it first. A job that may run on keeps its day
(`LeftRunningError`), whatever ended who waited for it.
"""

from __future__ import annotations

import logging
import time
from contextlib import suppress
from functools import partial
from pathlib import Path

from torchx.specs import AppDef, AppState

from infra.settings import Settings
from trainer.launch.ending import AskedToEnd
from trainer.launch.reason import HOPELESS, explain
from trainer.launch.record import JobRecord, find_records, remove_record, write_record
from trainer.launch.role import Work, remote_app
from trainer.launch.scheduler import Scheduler, Status
from trainer.locks import KeptError, release

log = logging.getLogger(__name__)

_POLL_SECONDS = 2.0
_UNREACHABLE_SECONDS = 600.0


class LeftRunningError(KeptError):
    """Nobody waits for the job any more, but it may run on, with its day: the next attempt at that joins it."""


def scheduler_of(name: str, settings: Settings) -> Scheduler:
    """Where jobs of a record live. ValueError for `local` and unknown ones."""
    if name == "slurm":
        from trainer.launch.slurm import Slurm

        return Slurm(settings)
    if name == "kubernetes":
        from trainer.launch.kubernetes import Kubernetes

        return Kubernetes(settings)
    raise ValueError(f"{name!r} is no scheduler of jobs that outlive us; it is slurm or kubernetes")


def manifest(work: Work, *, settings: Settings, token: str) -> str:
    """What the scheduler of the settings would be given for the job: a batch script, or YAML."""
    scheduler = scheduler_of(settings.scheduler, settings)
    return scheduler.manifest(remote_app(work, settings=settings), directory=work.directory, token=token)


def run(work: Work, record: JobRecord, folder: Path, *, settings: Settings) -> None:
    """Submit a job, keep its record in `folder`, and wait until it is over.

    RuntimeError with the reason when it does not succeed; LeftRunningError where it may run on, for its scheduler could
    not be asked, or did not cancel it when this process was asked to end.
    """
    scheduler = scheduler_of(record.scheduler, settings)
    app = remote_app(work, settings=settings)
    with AskedToEnd() as asked:
        write_record(record, folder)
        try:
            submitted = record.named(_submit(scheduler, app, record))
        except RuntimeError:
            remove_record(folder)
            raise
        log.info("submitted %s, logs in %s", submitted.describe(), record.directory)
        _finish(scheduler, submitted, folder, asked, from_start=True)


def join(record: JobRecord, folder: Path, *, settings: Settings) -> None:
    """Wait for the job of an earlier attempt, if the scheduler knows it. As `run` otherwise."""
    scheduler = scheduler_of(record.scheduler, settings)
    with AskedToEnd() as asked:
        try:
            job, status = _seen(scheduler, record)
        except (ConnectionError, RuntimeError) as error:
            raise LeftRunningError(
                f"whether {record.describe()} runs on cannot be asked: {error}; run the day again when it can"
            ) from error
        if job is None or status is None:
            log.warning("%s of an earlier attempt is gone", record.describe())
            remove_record(folder)
            return
        log.info("joining %s of an earlier attempt (%s)", record.named(job).describe(), status.state.name)
        _finish(scheduler, record.named(job), folder, asked, from_start=False)


def cancel(record: JobRecord, folder: Path, *, settings: Settings) -> None:
    """End the job, forget it, and give back the day's lock if it holds it."""
    scheduler = scheduler_of(record.scheduler, settings)
    job = record.job or scheduler.find(record.token)
    if job is not None:
        scheduler.cancel(job)
    remove_record(folder)
    release(folder.parent / f"ds={record.ds}.lock", token=record.token)
    log.info("cancelled %s of model=%s ds=%s", record.describe(), record.model, record.ds)


def cancel_day(model: str, ds: str, *, settings: Settings) -> list[str]:
    """End the jobs of a day, whatever they train it from; which those were. ValueError: there is none."""
    found = [pair for pair in find_records(settings.checkpoints) if (pair[1].model, pair[1].ds) == (model, ds)]
    if not found:
        raise ValueError(f"no job trains {model} on {ds}; see `usermodel trainer jobs`")
    for folder, record in found:
        cancel(record, folder, settings=settings)
    return [record.describe() for _, record in found]


def cancel_others(mine: Path, *, model: str, ds: str, settings: Settings) -> None:
    """End jobs that train the same day from other inputs. The caller holds the lock on the day."""
    for folder, record in find_records(settings.checkpoints):
        if (record.model, record.ds) == (model, ds) and folder != mine:
            log.info("the day's inputs changed: %s trains it from others", record.describe())
            cancel(record, folder, settings=settings)


def jobs(settings: Settings) -> list[tuple[JobRecord, Status | None]]:
    """Every job that a record names, as its scheduler sees it."""
    found = []
    for _, record in find_records(settings.checkpoints):
        job, status = _seen(scheduler_of(record.scheduler, settings), record)
        found.append((record if job is None else record.named(job), status))
    return found


def _seen(scheduler: Scheduler, record: JobRecord) -> tuple[str | None, Status | None]:
    """The job's id and what its scheduler says of it; None where there is none."""
    job = record.job or scheduler.find(record.token)
    return job, None if job is None else scheduler.status(job)


def _submit(scheduler: Scheduler, app: AppDef, record: JobRecord) -> str:
    """The id of the job. RuntimeError: the scheduler did not take it."""
    try:
        return scheduler.submit(app, directory=Path(record.directory), token=record.token)
    except RuntimeError as error:
        job = None
        with suppress(ConnectionError, RuntimeError):
            job = scheduler.find(record.token)
        if job is None:
            raise
        log.warning("%s took the job (%s), though its answer was lost: %s", record.scheduler, job, error)
        return job


def _finish(scheduler: Scheduler, record: JobRecord, folder: Path, asked: AskedToEnd, *, from_start: bool) -> None:
    """Write down which job it is and wait for it; its record goes with it."""
    directory = Path(record.directory)
    try:
        write_record(record, folder)
        asked.answer()
        status = _wait(scheduler, record, directory, from_start=from_start)
    except LeftRunningError:
        raise
    except Exception as error:
        raise LeftRunningError(
            f"{record.describe()} runs on, but is not watched: {error}; run the day again"
        ) from error
    except BaseException:
        _cancel_asked(scheduler, record)
        remove_record(folder)
        raise
    remove_record(folder)
    if status is None or status.state != AppState.SUCCEEDED:
        state = "UNKNOWN" if status is None else status.state.name
        raise RuntimeError(
            f"training job {state}: {explain(status, directory)} ({record.describe()}, log: {directory})"
        )


def _cancel_asked(scheduler: Scheduler, record: JobRecord) -> None:
    """LeftRunningError where that fails: nobody may take the day from a job that may run."""
    try:
        scheduler.cancel(str(record.job))
    except Exception as error:
        raise LeftRunningError(
            f"this process was asked to end, but {record.describe()} could not be cancelled ({error}). It may run on, "
            f"and keeps model={record.model} ds={record.ds}: `usermodel trainer cancel` ends it once its scheduler "
            "answers, and the day run again joins it"
        ) from error
    log.warning("cancelled %s: this process was asked to end", record.describe())


def _wait(scheduler: Scheduler, record: JobRecord, directory: Path, *, from_start: bool) -> Status | None:
    job, heard, shown = str(record.job), time.monotonic(), ""
    lines = scheduler.lines(job, directory=directory, from_start=from_start)
    while True:
        try:
            status = scheduler.status(job)
            for line in iter(partial(next, lines), ""):
                log.info("| %s", line)
            heard = time.monotonic()
        except ConnectionError as error:
            if time.monotonic() - heard > _UNREACHABLE_SECONDS:
                raise LeftRunningError(
                    f"{record.describe()} runs on, but its scheduler could not be asked for "
                    f"{_UNREACHABLE_SECONDS:.0f} s: {error}; run the day again when it can"
                ) from error
            log.warning("%s cannot be asked: %s", record.scheduler, error)
        else:
            if status is None or status.is_over:
                return status
            if status.reason in HOPELESS:
                scheduler.cancel(job)
                return Status(state=AppState.FAILED, reason=status.reason, detail=status.detail)
            if (told := f"{status.state.name} {status.detail}".strip()) != shown:
                log.info("%s: %s", record.describe(), told)
                shown = told
        time.sleep(_POLL_SECONDS)
