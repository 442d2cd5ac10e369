"""Faults of what runs the day: a scheduler that dies, an edge worker's host that dies."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date
from pathlib import Path

from infra.airflow import TaskState
from infra.settings import Settings
from snapshots.inference import infer_shard
from snapshots.registry import Registry
from tests.faults.orchestra import ENDED, TICKS, Orchestra, small
from tests.faults.scenario import Outcome, Trial
from tests.faults.small_day import NUM_TICKS
from tests.faults.world import bytes_of

_STEPS = ("build_examples", "train", "publish", "plan_inference", "commit_inference", "check_shift", "gate", "promote")
_SHARED = ("lake", "landing", "checkpoints", "snapshots")


@dataclass(frozen=True, kw_only=True)
class _Killed:
    """What became of a scheduler that was killed."""

    broken: tuple[str, ...]
    seconds: float
    """Till it was healthy again."""
    attempts: int
    """At the task that it ran."""


def two_schedulers(trial: Trial) -> Outcome:
    """One of two schedulers is killed in the middle of a day: one run per interval, every step succeeds once, the day
    has one version, and the scheduler comes back."""
    orchestra = trial.world.orchestra
    orchestra.airflow.unpause(TICKS)
    kills = [_kill_scheduler(orchestra, abandon=False)]
    if not trial.quick:
        kills.append(_kill_scheduler(orchestra, abandon=True))
    orchestra.until(lambda: len(_ticks(orchestra, "success")) >= NUM_TICKS, "all intervals ran")
    broken = [line for killed in kills for line in killed.broken]
    if (every := len(_ticks(orchestra, *ENDED, "running", "queued"))) != NUM_TICKS:
        broken.append(f"{every} runs of {NUM_TICKS} intervals")
    told = ", ".join(f"back after {killed.seconds:.0f} s, {killed.attempts} attempts" for killed in kills)
    return Outcome(injected=len(kills), broken=tuple(broken), lost=f"no run; {told} at the task it ran")


def _ticks(orchestra: Orchestra, *states: str) -> list[str]:
    """Runs of the short intervals; the id names the interval."""
    return [run.run_id for run in orchestra.airflow.runs({TICKS: "UTC"}) if run.state in states]


def _kill_scheduler(orchestra: Orchestra, *, abandon: bool) -> _Killed:
    """abandon: its task outlives it for so long that the other scheduler takes the task over."""
    with orchestra.holding("train") as held:
        ds = orchestra.begin()
        orchestra.until(held, f"{ds} trains")
        [running] = [task for task in orchestra.tasks(ds) if task.task == "train"]
        name = running.host.split("@")[0]
        orchestra.kill(name)
        if abandon:
            orchestra.until(lambda: len(held()) > 1, "the other scheduler tries again")
    seconds = orchestra.until(lambda: orchestra.state(name) == "healthy", f"{name} is back")
    orchestra.finish(ds)
    attempts = max(task.try_number for task in orchestra.tasks(ds) if task.task == "train")
    return _Killed(broken=tuple(_not_once(orchestra, ds)), seconds=seconds, attempts=attempts)


def _not_once(orchestra: Orchestra, ds: date) -> Iterator[str]:
    """What of the day was not done exactly once."""
    if [run.state for run in orchestra.runs(ds)] != ["success"]:
        yield f"{ds} has the runs {orchestra.runs(ds)}"
    succeeded = Counter((task.task, task.shard) for task in orchestra.tasks(ds) if task.state == "success")
    wanted = [*((step, -1) for step in _STEPS), *(("infer_shard", shard) for shard in range(small().inference.shards))]
    if succeeded != Counter(wanted):
        yield f"{ds} succeeded in {succeeded}"
    registry = Registry(orchestra.settings)
    versions = [version for version in registry.versions("small") if version.ds == ds]
    if [version.decision for version in versions] != ["promoted"]:
        yield f"{ds} has the versions {versions}"
    elif registry.aliases("small")["champion"] != versions[0].number:
        yield f"{ds} is not the champion's day"


def edge_worker_killed(trial: Trial) -> Outcome:
    """The host of one of two edge workers dies in the middle of a shard: the other worker embeds it, and the day is
    what one worker alone makes of it."""
    orchestra = trial.world.orchestra
    alone = orchestra.settings.model_copy(update={"storage_uri": str(trial.folder / "alone")})
    with orchestra.holding("infer_shard") as held:
        ds = orchestra.begin()
        orchestra.until(lambda: len(held()) == 2, "both workers have a shard")
        hosts = _hosts(orchestra.tasks(ds), "running")
        for name in _SHARED:
            shutil.copytree(orchestra.settings.shared / name, alone.shared / name)
        orchestra.kill_host("gpu-2")
    orchestra.finish(ds)
    broken = list(_not_once(orchestra, ds))
    if sorted(hosts.values()) != sorted(orchestra.workers):
        broken.append(f"the shards ran on {hosts}")
    [lost] = [shard for shard, host in hosts.items() if host == "gpu-2"]
    if set(_hosts(orchestra.tasks(ds), "success").values()) != {"gpu-1"}:
        broken.append(f"the shards ended on {_hosts(orchestra.tasks(ds), 'success')}")
    for shard in range(small().inference.shards):
        infer_shard(small(), ds, shard, settings=alone)
    if not (expected := _embedded(alone, ds)) or _embedded(orchestra.settings, ds) != expected:
        broken.append("the embeddings are not those of one worker")
    attempts = max(task.try_number for task in orchestra.tasks(ds) if task.shard == lost)
    orchestra.bring_back("gpu-2")
    orchestra.until(lambda: {one.state for one in orchestra.airflow.workers()} == {"idle"}, "both workers are idle")
    return Outcome(injected=1, broken=tuple(broken), lost=f"the shard's first attempts; it had {attempts}")


def _hosts(tasks: list[TaskState], state: str) -> dict[int, str]:
    """By shard, who runs or ran it."""
    return {task.shard: task.host for task in tasks if task.task == "infer_shard" and task.state == state}


def _embedded(settings: Settings, ds: date) -> dict[Path, str]:
    """The day's embeddings, file by file."""
    return bytes_of(Path(settings.lake) / "candidate_embeddings" / "small" / f"ds={ds}")
