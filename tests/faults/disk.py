"""A disk that is full: the kernel refuses to let a file grow (RLIMIT_FSIZE), in this process and all that it starts."""

from __future__ import annotations

import resource
import shutil
import signal
from collections.abc import Iterator
from contextlib import chdir, contextmanager
from dataclasses import replace
from pathlib import Path

from features.examples import build_examples
from features.lake import Lake
from infra.settings import Settings
from snapshots.inference import infer
from tests.faults.attempts import EVERY, Fault, attempt, failure, settings_of, steps_saved
from tests.faults.scenario import Outcome, Trial, error_of
from tests.faults.world import NUM_STEPS, bytes_of
from tests.features.worlds import TINY
from tests.snapshots.world import DAYS, commit_users, make_tower, publish_day, tiny_recipe
from tests.trainer.planted import DAY
from trainer.trained import trained_days

_USERS = 6_000
_REFUSED = "File too large"
"""What the kernel's EFBIG is called."""
_TABLES = ("examples", "user_features", "examples_rejected")


@contextmanager
def full_disk(most_bytes: int) -> Iterator[None]:
    """No file grows beyond `most_bytes`."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (most_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, handler)


def full_while_building(trial: Trial) -> Outcome:
    """No room while examples are built: an error that says so, the day's old tables stay, the retry replaces them."""
    draw, settings, broken = trial.draw(), settings_of(trial.folder / "home"), []
    small = build_examples(replace(TINY, events_per_day=500), DAY, settings=settings, reject_max_share=0.05)
    shutil.rmtree(settings.landing)
    TINY.open(landing=settings.landing, data_dir=None).log_files(DAY)  # there was room for the log
    lake = Lake(settings.lake)
    before = {kind: lake.find(f"{kind}/tiny", DAY) for kind in _TABLES}
    times = trial.times(4, 20)
    for _ in range(times):
        limit = draw.randrange(200, 60_000)
        with full_disk(limit):
            message = error_of(lambda: build_examples(TINY, DAY, settings=settings, reject_max_share=0.05))
        kept = lake.get("examples/tiny", DAY)
        if _REFUSED not in message or kept.fingerprint != small.examples.fingerprint:
            broken.append(f"at {limit} bytes: {message}; examples are {kept}, were {before['examples']}")
        if lake.read(kept).num_rows != small.num_examples:
            broken.append(f"at {limit} bytes: {lake.read(kept).num_rows} examples of {small.num_examples}")
    built = build_examples(TINY, DAY, settings=settings, reject_max_share=0.05)
    assert (built.num_examples, built.unchanged) == (TINY.events_per_day, False)
    return Outcome(injected=times, broken=tuple(broken), lost="the attempts")


def full_while_saving(trial: Trial) -> Outcome:
    """No room for a checkpoint: an error that says so, nothing is published, the retry goes on and ends the same."""
    draw, home = trial.draw(), trial.world.killed(trial.folder / "home")
    settings, saves = settings_of(home), draw.choice(["within the day", "at its end"])
    largest = max(path.stat().st_size for path in trial.world.undisturbed.trained.path.rglob("*.distcp"))
    every = EVERY if saves == "within the day" else NUM_STEPS + 1
    before = bytes_of(home / "checkpoints")
    with full_disk(draw.randrange(largest // 4, largest // 2)):
        message = failure(settings, Fault(every=every))
    assert _REFUSED in message, message
    assert trained_days(settings, "tiny") == []
    assert steps_saved(home) == [EVERY, 2 * EVERY]
    after = bytes_of(home / "checkpoints")
    assert {path: after[path] for path in before if ".lock" not in path.name} == {
        path: content for path, content in before.items() if ".lock" not in path.name
    }
    trained = attempt(settings)
    assert trained.resumed == 1
    trial.world.require_same(trained)
    return Outcome(injected=1, lost=f"the attempt that had no room {saves}")


def full_while_embedding(trial: Trial) -> Outcome:
    """No room for the embeddings: an error that says so, the table as it was, the retry writes them."""
    with chdir(trial.folder):  # MLflow's artifacts land in the working directory
        return _full_while_embedding(trial, settings=_with_store(trial))


def _full_while_embedding(trial: Trial, *, settings: Settings) -> Outcome:
    draw, recipe, broken, lake = trial.draw(), tiny_recipe(), [], Lake(settings.lake)
    for day in DAYS[:2]:
        commit_users(lake, day, range(_USERS))
        publish_day(recipe, day, make_tower(recipe), settings=settings)
    infer(recipe, DAYS[0], settings=settings)
    before = lake.open("candidate_embeddings/tiny")
    assert before is not None
    times = trial.times(3, 10)
    for _ in range(times):
        limit = draw.randrange(40_000, 80_000)  # SQLite, which shares the disk here, maps a file of 32 KiB to read
        with full_disk(limit):
            message = error_of(lambda: infer(recipe, DAYS[1], settings=settings))
        after = lake.open("candidate_embeddings/tiny")
        if _REFUSED not in message or after is None or after.version() != before.version():
            broken.append(f"at {limit} bytes: {message}; the table is at {after and after.version()}")
    found = infer(recipe, DAYS[1], settings=settings)
    assert (found.num_users, lake.days("candidate_embeddings/tiny")) == (_USERS, DAYS[:2])
    return Outcome(injected=times, broken=tuple(broken), lost="the attempts")


def _with_store(trial: Trial) -> Settings:
    """A home with a real MLflow store."""
    store: Path = shutil.copy(trial.world.store, trial.folder / "mlflow.db")
    return settings_of(trial.folder / "home").model_copy(update={"mlflow_uri": f"sqlite:///{store}"})
