"""What a shard refuses, and what a worker is told when a shard is gone, late, or not what it should be."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import numpy as np
import pytest
import torch
from pyarrow import flight

from features.batches import Batch
from infra.settings import REPOSITORY, Settings, child_environment
from serving.shards.client import ShardError, Shards
from serving.shards.partition import Share
from serving.shards.server import serve
from serving.shards.sharded_snapshot import load_sharded
from serving.shards.ticket import MAX_ROWS, Ticket
from snapshots.contract import WEIGHTS
from snapshots.export import load_snapshot
from tests.serving.shards.world import MODEL, Sealed, addresses, batch, connected, seal, serving
from tests.snapshots.world import TinySource

SCHEMA = TinySource().schema
DEADLINE_SECONDS = 3.0


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> tuple[Settings, Sealed]:
    """A sealed snapshot, to be read only."""
    settings = Settings(home=tmp_path_factory.mktemp("sealed"), _env_file=None)
    return settings, seal(settings)


def _ticket(*places: int, share: Share, sha256: str) -> bytes:
    return Ticket(manifest_sha256=sha256, share=share, places=np.array(places, dtype=np.int64)).encode()


ONE, TWO = Share(index=0, of=2), Share(index=1, of=2)
HOSTILE: dict[str, tuple[Callable[[str], bytes], str]] = {
    "nothing": (lambda sha: b"", "a ticket of 0 bytes"),
    "text": (lambda sha: b"GET / HTTP/1.1\r\n\r\n", "a ticket of 18 bytes"),
    "half a row": (lambda sha: _ticket(1, share=ONE, sha256=sha)[:-3], "a ticket of 45 bytes"),
    "a negative row": (lambda sha: _ticket(0, -1, share=ONE, sha256=sha), "asked for were -1 to 0"),
    "a row too far": (lambda sha: _ticket(25, 3, share=ONE, sha256=sha), "has rows 0 to 24"),
    "the largest row": (lambda sha: _ticket(2**63 - 1, share=ONE, sha256=sha), "has rows 0 to 24"),
    "too many rows": (lambda sha: bytes(40 + 8 * (MAX_ROWS + 1)), "and 8 for each of up to"),
    "another shard's": (lambda sha: _ticket(1, share=TWO, sha256=sha), "this is shard 0 of 2, not shard 1 of 2"),
    "of more shards": (lambda sha: _ticket(1, share=Share(index=0, of=3), sha256=sha), "not shard 0 of 3"),
    "a share that is none": (lambda sha: bytes(32) + b"\xff" * 8, "shards: there are 1 to"),
    "an unknown version": (lambda sha: _ticket(1, share=ONE, sha256="0" * 64), "no snapshot in .* SHA-256 0000"),
}


def test_hostile_tickets_are_refused_and_the_shard_serves_on(world: tuple[Settings, Sealed]) -> None:
    settings, sealed = world
    with serving(settings, 2) as servers, connected(servers) as shards:
        shards.load(sealed.manifest_sha256)
        with flight.connect(f"grpc+tcp://127.0.0.1:{servers[0].port}") as client:
            for name, (ticket, words) in HOSTILE.items():
                with pytest.raises(flight.FlightServerError, match=words) as refused:
                    client.do_get(flight.Ticket(ticket(sealed.manifest_sha256))).read_all()
                assert "Traceback" not in str(refused.value), name
            for kind, body in (("drop", b""), ("load", b"../../etc"), ("load", b"\xff" * 1_000), ("load", b"0" * 64)):
                with pytest.raises(flight.FlightServerError, match=r"is no action|is no SHA-256|no snapshot in"):
                    list(client.do_action(flight.Action(kind, body)))
            good = client.do_get(flight.Ticket(_ticket(3, 3, 0, share=ONE, sha256=sealed.manifest_sha256))).read_all()
        tables = load_snapshot(sealed.folder).weights["tables"].numpy()
        assert good.column("tables").to_pylist() == [tables[row].tobytes() for row in (6, 6, 0)]
        assert [list(one["bytes"]) for one in shards.status()] == [[sealed.manifest_sha256]] * 2


@pytest.mark.parametrize("damage", ["bytes", "shape"])
def test_damaged_weights_are_refused_until_they_are_mended(settings: Settings, damage: str) -> None:
    sealed = seal(settings)
    path = sealed.folder / WEIGHTS
    kept = path.read_bytes()
    path.chmod(0o644)
    path.write_bytes(kept[:-1] + bytes([kept[-1] ^ 1]) if damage == "bytes" else kept[: len(kept) // 2])
    with serving(settings, 1) as servers, connected(servers) as shards:
        with pytest.raises(ShardError, match=f"{WEIGHTS} has SHA-256"):
            shards.load(sealed.manifest_sha256)
        assert shards.status()[0]["bytes"].get(sealed.manifest_sha256) is None
        path.write_bytes(kept)
        shards.load(sealed.manifest_sha256)
        assert shards.status()[0]["bytes"] == {sealed.manifest_sha256: 50 * 8 * 4}


def test_addresses_in_another_order_are_an_error_and_not_other_rows(world: tuple[Settings, Sealed]) -> None:
    settings, sealed = world
    with serving(settings, 2) as servers:
        with Shards(addresses(servers)[::-1], deadline_seconds=10.0) as shards:
            snapshot = load_sharded(sealed.folder, shards=shards)
            with torch.inference_mode(), pytest.raises(ShardError, match="this is shard 1 of 2, not shard 0 of 2"):
                snapshot.embed(batch(SCHEMA, 9))
        with pytest.raises(ValueError, match="address of each shard once"):
            Shards([])


@contextmanager
def _process(settings: Settings, index: int, *, port: int = 0) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """A shard by its command, and its port."""
    command = f"-m infra.commands serving shard --recipe demo --index {index} --of 2 --port {port}"
    started = subprocess.Popen(
        [sys.executable, *command.split()], cwd=REPOSITORY, stdout=subprocess.PIPE, text=True,
        env=child_environment(USERMODEL_HOME=str(settings.home)),
    )  # fmt: skip
    try:
        assert started.stdout is not None
        yield started, int(started.stdout.readline().rpartition(":")[2])
    finally:
        started.kill()
        started.wait()
        started.stdout.close()


def test_a_shard_that_is_late_or_killed_is_named_and_found_again(settings: Settings) -> None:
    sealed, users = seal(settings), batch(SCHEMA, 30)
    shutil.copytree(settings.artifacts / MODEL, settings.artifacts / "demo")  # a recipe that the command knows
    with serving(settings, 2) as servers, ThreadPoolExecutor(1) as threads, torch.inference_mode():
        expected = load_snapshot(sealed.folder).embed(users)
        with _process(settings, 0) as (process, port):
            shards = Shards([f"127.0.0.1:{port}", addresses(servers)[1]], deadline_seconds=DEADLINE_SECONDS)
            snapshot = load_sharded(sealed.folder, shards=shards)
            assert torch.equal(snapshot.embed(users), expected)
            process.send_signal(signal.SIGSTOP)
            os.waitpid(process.pid, os.WUNTRACED)  # until it has stopped
            began = time.monotonic()
            with pytest.raises(ShardError, match=rf"shard 0 of 2 at 127.0.0.1:{port} does not answer within 3 s"):
                snapshot.embed(users)
            assert DEADLINE_SECONDS <= time.monotonic() - began < 3 * DEADLINE_SECONDS
            asking = threads.submit(snapshot.embed, users)
            time.sleep(0.3)  # the request lies with the shard
            assert not asking.done()
            process.kill()
            with pytest.raises(ShardError, match=r"shard 0 of 2 .* is gone .*--index 0 --of 2"):
                asking.result()
        with pytest.raises(ShardError, match="is gone"):
            snapshot.embed(users)
        with _process(settings, 0, port=port) as (process, _):
            assert torch.equal(_embedded(snapshot.embed, users), expected)
            process.send_signal(signal.SIGTERM)
            assert process.wait(timeout=20) == 0
        shards.close()


def _embedded(embed: Callable[[Batch], torch.Tensor], users: Batch) -> torch.Tensor:
    """Asks again while the shard loads: what a worker does with what is pending."""
    for _ in range(200):
        try:
            return embed(users)
        except ShardError:
            time.sleep(0.05)
    return embed(users)


def test_a_taken_port_is_said(world: tuple[Settings, Sealed]) -> None:
    settings, _ = world
    with serving(settings, 1) as (server,), pytest.raises(OSError, match=r"cannot listen on .* choose another --port"):
        serve(settings.artifacts, Share(index=0, of=1), host="127.0.0.1", port=server.port, ready=print)
