"""No rank hangs: not on uneven data, an empty shard, an error on another rank, nor one that stops."""

from __future__ import annotations

import signal
import socket
import struct
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pytest
import torch
from deltalake import write_deltalake
from torch.distributed.elastic.multiprocessing.api import SignalException

from features.fingerprint import fingerprint
from features.lake import Lake
from infra.settings import Settings
from tests.faults.attempts import processes_of, wait_for
from tests.trainer.hanging import HANGING_BATCH
from tests.trainer.planted import DAY, commit_day, planted_examples, planted_recipe
from trainer.assignment import Assignment, write_assignment
from trainer.config import TrainingConfig
from trainer.failure import Failure, cause, of_error, remedy
from trainer.heartbeat import Heartbeat, Phase, Post, explain_wait, is_alone, look_around
from trainer.job import train
from trainer.launch import run_ranks
from trainer.reach import Answer, Door, Place, address_towards

needs_linux = pytest.mark.skipif(sys.platform != "linux", reason="needs /proc and parent-death signals")


def settings_of(home: Path, *, ranks: int = 2, deadline: float = 3) -> Settings:
    return Settings(home=home, ranks=ranks, deadline_seconds=deadline, _env_file=None)


@pytest.mark.slow
@pytest.mark.parametrize("sizes", [(1,), (1, 4000, 3, 1, 990, 5)], ids=["an empty shard", "uneven row groups"])
def test_every_example_is_learnt_once_however_uneven_the_day(tmp_path: Path, sizes: tuple[int, ...]) -> None:
    settings = settings_of(tmp_path, deadline=60)
    table = commit_files(Lake(settings.lake), sizes)
    trained = train(planted_recipe(), DAY, settings=settings)
    assert trained.num_examples == trained.metrics["click"]["examples"] == table.num_rows
    assert trained.metrics["click"]["positives"] == sum(table.column("click").to_pylist())


def commit_files(lake: Lake, sizes: tuple[int, ...]) -> pa.Table:
    """The day as one file per size."""
    table = planted_examples(sum(sizes), seed=1)
    lake.commit("examples/planted", DAY, table.slice(0, sizes[0]), fingerprint=fingerprint(sizes))
    start = sizes[0]
    for size in sizes[1:]:
        rows = table.slice(start, size).append_column("ds", pa.array([DAY.isoformat()] * size))
        write_deltalake(lake.uri("examples/planted"), rows, mode="append")
        start += size
    assert len(lake.files(lake.get("examples/planted", DAY))) == len(sizes)
    return table


@pytest.mark.slow
@needs_linux
@pytest.mark.parametrize(("ranks", "hanging"), [(2, 1), (1, 0)], ids=["rank 1 of 2", "a rank alone"])
def test_a_rank_whose_storage_hangs_is_named(tmp_path: Path, ranks: int, hanging: int) -> None:
    settings = settings_of(tmp_path, ranks=ranks)
    examples = commit_day(Lake(settings.lake), DAY)
    assignment = Assignment(
        config=TrainingConfig.of(planted_recipe()),
        ds=DAY,
        lake=settings.lake,
        examples=examples,
        parent=None,
        fingerprint="f" * 64,
        revision=0,
        destination=tmp_path / "checkpoint",
        lock=tmp_path / "lock",
        token="token",  # noqa: S106
        device="cpu",
        deadline_seconds=settings.deadline_seconds,
    )
    write_assignment(assignment, tmp_path / "assignment.json")
    with pytest.raises(RuntimeError) as raised:
        run_ranks(
            "tests.trainer.hanging:main",
            [str(tmp_path / "assignment.json"), str(hanging)],
            ranks=ranks,
            directory=tmp_path,
        )
    message = str(raised.value)
    assert f"rank {hanging}" in message
    assert f"reading batch {HANGING_BATCH}" in message
    assert "USERMODEL_DEADLINE_SECONDS (now 3)" in message
    assert wait_for(lambda: not processes_of(tmp_path), seconds=10)
    assert not (tmp_path / "checkpoint").exists()


def leave_sign(directory: Path, rank: int, phase: Phase, *, step: int = 0, seconds_ago: float, silent: float) -> None:
    now = time.time()
    (directory / f"heartbeat-{rank}").write_bytes(struct.pack("<diid", now - seconds_ago, phase, step, now - silent))


@pytest.mark.parametrize(
    ("signs", "words", "others"),
    [
        pytest.param(
            [(Phase.LEARNING, 7, 20, 0), (Phase.LEARNING, 7, 19, 18)],
            ["waited for rank 1", "learning batch 7, 19.0 s ago", "not run for 18.0 s"],
            ["rank 2"],
            id="stopped",
        ),
        pytest.param(
            [(Phase.LEARNING, 7, 20, 0), (Phase.READING, 7, 21, 0), (Phase.LEARNING, 7, 20, 0)],
            ["waited for rank 1", "reading batch 7, 21.0 s ago"],
            ["rank 2", "not run"],
            id="reads",
        ),
        pytest.param(
            [(Phase.LEARNING, 7, 20, 0), (Phase.LEARNING, 7, 20, 0), (Phase.LEARNING, 6, 30, 0)],
            ["waited for rank 2", "learning batch 6"],
            ["rank 1"],
            id="a step behind",
        ),
        pytest.param(
            [(Phase.READING, 0, 20, 0), (Phase.LOADING, 0, 40, 0)],
            ["waited for rank 1", "loading the checkpoint, 40.0 s ago"],
            [],
            id="still loads",
        ),
        pytest.param([(Phase.LOADING, 0, 20, 0), None], ["waited for rank 1 (it never started)"], [], id="no start"),
        pytest.param(
            [(Phase.LEARNING, 7, 20, 0), (Phase.LEARNING, 7, 20, 0)], ["network", "rank 1"], [], id="none behind"
        ),
    ],
)
def test_the_rank_that_is_waited_for(
    tmp_path: Path, signs: list[tuple[Phase, int, float, float] | None], words: list[str], others: list[str]
) -> None:
    for rank, sign in enumerate(signs):
        if sign is not None:
            phase, step, seconds_ago, silent = sign
            leave_sign(tmp_path, rank, phase, step=step, seconds_ago=seconds_ago, silent=silent)
    told = explain_wait(Post(directory=tmp_path, rank=0, world_size=len(signs), deadline_seconds=20), {})
    assert all(word in told for word in words), told
    assert not any(word in told for word in others), told


def places(hosts: int) -> tuple[Place, ...]:
    return tuple(Place(host=f"host-{n}", address=f"198.18.0.{n}", port=1) for n in range(1, hosts + 1))


@pytest.mark.parametrize(
    ("answers", "words", "alone"),
    [
        pytest.param(
            {1: Answer.HERE, 2: Answer.SILENT, 3: Answer.HERE},
            ["waited for rank 2 on host-3 (198.18.0.3), which does not answer host-1", "others do"],
            False,
            id="one is cut off",
        ),
        pytest.param(
            {1: Answer.HERE, 2: Answer.SILENT, 3: Answer.SILENT}, ["rank 2 on", "rank 3 on", "do not"], False, id="two"
        ),
        pytest.param(
            dict.fromkeys((1, 2, 3), Answer.SILENT), ["no other host answers host-1 (198.18.0.1)"], True, id="this"
        ),
        pytest.param({1: Answer.SILENT}, ["host-1 (198.18.0.1)", "rank 1 on host-2"], False, id="of two, either"),
        pytest.param({1: Answer.GONE, 2: Answer.HERE}, ["rank 1 on host-2", "process is gone"], False, id="killed"),
        pytest.param({1: Answer.HERE}, ["rank 1 on host-2 (198.18.0.2) (last seen learning batch 6"], False, id="busy"),
    ],
)
def test_the_host_that_does_not_answer(
    tmp_path: Path, answers: dict[int, Answer], words: list[str], alone: bool
) -> None:
    for rank, step in enumerate([7, 6, *[7] * (len(answers) - 1)]):
        leave_sign(tmp_path, rank, Phase.LEARNING, step=step, seconds_ago=20, silent=0)
    hosts = len(answers) + 1
    post = Post(directory=tmp_path, rank=0, world_size=hosts, deadline_seconds=20, places=places(hosts))
    told = explain_wait(post, answers)
    assert all(word in told for word in words), told
    assert is_alone(post, answers) == alone


def test_a_port_answers_whatever_its_process_does_until_it_is_gone(tmp_path: Path) -> None:
    door = Door.open("127.0.0.1")
    assert door.place.ask() is Answer.HERE
    here = replace(door.place, host="host-1")
    post = Post(directory=tmp_path, rank=0, world_size=2, deadline_seconds=1, places=(here, door.place))
    assert look_around(post) == {1: Answer.HERE}
    assert look_around(replace(post, places=(here, here))) == {}, "its own host is not asked"
    door.close()
    assert door.place.ask() is Answer.GONE
    assert look_around(post) == {1: Answer.GONE}
    assert address_towards("127.0.0.1") == "127.0.0.1"


def test_the_cause_is_told_before_its_consequences(tmp_path: Path) -> None:
    assert cause(tmp_path) is None
    for rank, (when, kind) in enumerate([(1, "broken"), (2, "waited"), (4, "own"), (3, "own"), (0, "alone")]):
        Failure(rank=rank, time=when, kind=kind, type="T", message="m").write(tmp_path)  # type: ignore[arg-type]
    found = cause(tmp_path)
    assert found is not None
    assert found.rank == 3


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        pytest.param(ValueError("column age timed out"), "own", id="own"),
        pytest.param(RuntimeError("mat1 and mat2 shapes cannot be multiplied"), "own", id="own runtime"),
        pytest.param(
            RuntimeError("[/pytorch/third_party/gloo/gloo/transport/tcp/pair.cc:538] Connection closed by peer"),
            "broken",
            id="gloo closed",
        ),
        pytest.param(
            RuntimeError("[../third_party/gloo/gloo/transport/tcp/unbound_buffer.cc:81] Timed out waiting 5000ms"),
            "waited",
            id="gloo timeout",
        ),
        pytest.param(torch.distributed.DistNetworkError("Connection reset"), "broken", id="network"),
        pytest.param(SignalException("Process 7 got signal: 15", signal.SIGTERM), "broken", id="ended by torchrun"),
        pytest.param(torch.distributed.DistStoreError("wait timeout after 5000ms"), "waited", id="store"),
    ],
)
def test_errors_of_collectives_are_told_from_own_ones(tmp_path: Path, error: Exception, kind: str) -> None:
    leave_sign(tmp_path, 0, Phase.SAVING, seconds_ago=6, silent=0)
    leave_sign(tmp_path, 1, Phase.LEARNING, step=3, seconds_ago=6, silent=0)
    found = of_error(error, Post(directory=tmp_path, rank=0, world_size=2, deadline_seconds=20))
    assert found.kind == kind
    assert ("it waited for rank 1 (last seen learning batch 3" in found.message) == (kind != "own")
    assert str(error) in found.message


KERNELS = "[../third_party/gloo/gloo/transport/tcp/pair.cc:553] Read error [198.18.0.2]:4711: Connection timed out"
GLOOS = "[../third_party/gloo/gloo/transport/tcp/unbound_buffer.cc:81] Timed out waiting 5000ms for recv operation"


@pytest.mark.parametrize(
    ("lost", "answers", "original", "is_outage"),
    [
        pytest.param(15, {1: Answer.HERE}, GLOOS, False, id="slow"),
        pytest.param(15, {1: Answer.GONE}, "Connection closed by peer", False, id="killed"),
        pytest.param(15, {1: Answer.SILENT}, GLOOS, True, id="cut off"),
        pytest.param(15, {1: Answer.HERE}, KERNELS, True, id="cut off, and back"),
        pytest.param(0, {}, KERNELS, False, id="one host"),
    ],
)
def test_which_setting_ended_the_wait(
    tmp_path: Path, lost: int, answers: dict[int, Answer], original: str, is_outage: bool
) -> None:
    post = Post(directory=tmp_path, rank=0, world_size=2, deadline_seconds=120, places=places(2), lost_seconds=lost)
    told = remedy(post, answers, original=original)
    assert ("USERMODEL_LOST_HOST_SECONDS (now 15)" in told) == is_outage
    assert ("raise USERMODEL_DEADLINE_SECONDS (now 120)" in told) == (not is_outage)


def test_a_beat_costs_microseconds_and_no_room(tmp_path: Path) -> None:
    post = Post(directory=tmp_path, rank=0, world_size=1, deadline_seconds=60)
    heartbeat = Heartbeat(post, expired=lambda phase: None)
    started = time.perf_counter()
    for step in range(10_000):
        heartbeat.beat(Phase.LEARNING, step)
    assert (time.perf_counter() - started) / 10_000 < 100e-6
    heartbeat.stop()
    assert (tmp_path / "heartbeat-0").stat().st_size == 24


@contextmanager
def silent_place() -> Iterator[Place]:
    """A port whose kernel says nothing: its queue is full. An address of nobody's may be refused by a router."""
    with socket.create_server(("127.0.0.1", 0), backlog=0) as listening:
        address, port = listening.getsockname()
        with socket.create_connection((address, port)):
            yield Place(host="other", address=address, port=port)


@pytest.mark.parametrize(
    ("phase", "others", "expires"),
    [
        pytest.param(Phase.READING, (), True, id="reading"),
        pytest.param(Phase.SAVING, (), False, id="saving"),
        pytest.param(Phase.SAVING, (Answer.HERE,), False, id="saving, all answer"),
        pytest.param(Phase.SAVING, (Answer.SILENT,), True, id="saving, a host is silent"),
    ],
)
def test_the_deadline_is_of_the_pass_alone_or_of_a_silent_host(
    tmp_path: Path, phase: Phase, others: tuple[Answer, ...], expires: bool
) -> None:
    with closing(Door.open("127.0.0.1")) as door, silent_place() as silent:
        of = {Answer.HERE: replace(door.place, host="other"), Answer.SILENT: silent}
        post = Post(directory=tmp_path, rank=0, world_size=1 + len(others), deadline_seconds=0.2)
        expired: list[Phase] = []
        heartbeat = Heartbeat(post, expired=expired.append)
        if others:
            heartbeat.meet([door.place, *(of[answer] for answer in others)])
        heartbeat.beat(phase)
        assert wait_for(lambda: bool(expired), seconds=20 if expires else 0.6) == expires
        heartbeat.stop()


def test_a_host_answers_however_often_it_was_asked() -> None:
    door = Door.open("127.0.0.1")
    assert {door.place.ask(seconds=10) for _ in range(300)} == {Answer.HERE}
    door.close()
    assert door.place.ask(seconds=1) is Answer.GONE
