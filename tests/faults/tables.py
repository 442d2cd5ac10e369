"""Faults of those who write the lake's tables."""

from __future__ import annotations

import os
import time
from datetime import timedelta
from pathlib import Path

import numpy as np

from features.examples import BuiltDay
from features.fingerprint import fingerprint
from features.lake import DamagedTableError, Lake, Partition
from tests.faults.scenario import Outcome, Trial
from tests.faults.writing import (
    MANY_ROWS,
    NUM_EVENTS,
    SPAWN,
    TABLE,
    build,
    build_in_process,
    build_together,
    kill_after,
    rows,
    write_many,
)
from tests.features.worlds import settings_in
from tests.trainer.planted import DAY


def writer_killed(trial: Trial) -> Outcome:
    """A table's writer killed at any moment: readers have the old partition or the new one; orphans are vacuumed."""
    draw, lake = trial.draw(), Lake(trial.folder)
    lake.commit(TABLE, DAY, rows(0, 3), fingerprint=fingerprint("first"))
    began = time.monotonic()
    lake.commit(TABLE, DAY + timedelta(1), rows(0, MANY_ROWS), fingerprint=fingerprint("timed"))
    seconds = time.monotonic() - began
    kills, broken, counts = trial.times(5, 30), [], {"old": 0, "new": 0}
    old = (fingerprint("first")[:15], np.arange(3))
    for number in range(kills):
        key = fingerprint("killed", number)
        kill_after(write_many, trial.folder, number, key, seconds=draw.uniform(0, seconds))
        new = (key[:15], np.arange(number, number + MANY_ROWS))
        found = lake.get(TABLE, DAY)
        values = lake.read(found)["value"].to_numpy()
        if not any(found.fingerprint == name and np.array_equal(values, whole) for name, whole in (old, new)):
            broken.append(f"kill {number}: {values.size} rows of {found.fingerprint} are neither {old[0]} nor {new[0]}")
        counts["new" if found.fingerprint == new[0] else "old"] += 1
        old = new if found.fingerprint == new[0] else old
    lake.commit(TABLE, DAY, rows(50, 3), fingerprint=fingerprint("rerun"))
    assert lake.read(lake.get(TABLE, DAY))["value"].to_pylist() == [50, 51, 52]
    orphans = vacuum(lake)
    return Outcome(
        injected=kills,
        broken=tuple(broken),
        lost=f"{counts['old']} x the old day, {counts['new']} x the new; {orphans} files vacuumed",
    )


def vacuum(lake: Lake) -> int:
    """Files that no day needs, deleted; what is left is what the table names."""
    delta = lake.open(TABLE)
    assert delta is not None
    gone = delta.vacuum(retention_hours=0, dry_run=False, enforce_retention_duration=False, full=True)
    kept = {path.name for path in Path(lake.uri(TABLE)).rglob("*.parquet") if "_delta_log" not in path.parts}
    named = {Path(uri).name for uri in delta.file_uris()}
    assert kept == named, f"{sorted(kept ^ named)[:3]} are on disk or in the table alone"
    return len(gone)


def builder_killed(trial: Trial) -> Outcome:
    """`build_examples` killed at any moment: each of its tables is whole or not there; the next run completes them."""
    draw, home = trial.draw(), trial.folder / "home"
    began = time.monotonic()
    expected = build(trial.folder / "undisturbed")
    seconds = time.monotonic() - began
    kills, broken = trial.times(2, 10), []
    for number in range(kills):
        kill_after(build_in_process, home, seconds=draw.uniform(0, seconds))
        lake = Lake(settings_in(home).lake)
        for kind, num_rows in (("examples", expected.num_examples), ("user_features", expected.num_users)):
            found = lake.find(f"{kind}/tiny", DAY)
            if found is not None and lake.dataset(found).count_rows() != num_rows:
                broken.append(f"kill {number}: {kind} has {lake.dataset(found).count_rows()} of {num_rows} rows")
    built = build(home)
    assert built.examples.fingerprint == expected.examples.fingerprint
    ours, theirs = (Lake(settings_in(at).lake) for at in (home, trial.folder / "undisturbed"))
    for left, right in zip(partitions(built), partitions(expected), strict=True):
        assert ours.read(left).equals(theirs.read(right)), f"{left.table} differs from the undisturbed run's"
    return Outcome(injected=kills, broken=tuple(broken), lost="the killed run's work")


def partitions(built: BuiltDay) -> tuple[Partition, ...]:
    """What was committed."""
    return built.examples, built.user_features, built.rejected


def built_twice(trial: Trial) -> Outcome:
    """The same day built by two at once, then again: every table has one version of it, both end well."""
    home, broken = trial.folder / "home", []
    rounds = trial.times(1, 5)
    for number in range(rounds):
        at = home / str(number)
        barrier = SPAWN.Barrier(2)
        workers = [SPAWN.Process(target=build_together, args=(at, barrier)) for _ in range(2)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join(120)
        again, lake = build(at), Lake(settings_in(at).lake)
        commits = [times_committed(lake, partition.table) for partition in partitions(again)]
        ended = [worker.exitcode for worker in workers]
        if ended != [0, 0] or commits != [1, 1, 1] or not again.unchanged or again.num_examples != NUM_EVENTS:
            broken.append(f"exit {ended}, committed {commits} times, {again.num_examples} examples of {NUM_EVENTS}")
    return Outcome(injected=2 * rounds, broken=tuple(broken))


def times_committed(lake: Lake, table: str) -> int:
    """How often rows were; two that make the table at once may leave two commits without any."""
    delta = lake.open(table)
    return 0 if delta is None else sum("usermodel.fingerprint" in commit for commit in delta.history())


def empty_commit(trial: Trial) -> Outcome:
    """A zero-byte file in a Delta log: whoever reads or writes the table is told; the other days are as they were."""
    draw, lake, broken = trial.draw(), Lake(trial.folder), []
    for number in range(4):
        lake.commit(TABLE, DAY + timedelta(number), rows(number, 5), fingerprint=fingerprint(number))
    log = trial.folder / TABLE / "_delta_log"
    commits = sorted(log.glob("*.json"))
    chosen = commits if not trial.quick else draw.sample(commits, k=3)
    for commit in chosen:
        content = commit.read_bytes()
        os.truncate(commit, 0)
        for what, use in (
            ("reading", lambda: lake.get(TABLE, DAY)),
            ("writing", lambda: lake.commit(TABLE, DAY, rows(9, 9), fingerprint=fingerprint("late"))),
        ):
            try:
                use()
            except DamagedTableError as error:
                if commit.name not in str(error):
                    broken.append(f"{what} with an empty {commit.name}: {error}")
            else:
                broken.append(f"{what} with an empty {commit.name} went on")
        commit.write_bytes(content)
    assert [lake.read(lake.get(TABLE, DAY + timedelta(n)))["value"][0].as_py() for n in range(4)] == [0, 1, 2, 3]
    return Outcome(injected=2 * len(chosen), broken=tuple(broken), lost="nothing, once the file is restored")
