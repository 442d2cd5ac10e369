"""Checkpoints to object storage and back (`trainer.archive`), against obstore's bare put and get of one such object.

The limit of an upload is `obstore.put` of a file of as many bytes at the same S3 server on loopback (moto, in Python,
in a process of its own), in turns; it reads and hashes every byte besides, and commits. A download also verifies, and
ends on the disk: its limit is the slower of `obstore.get` into memory and one sequential write and fsync
(`disk_write`) of as many bytes, which can overlap. `disk_read` is one read of them. `slowdown`: how much longer the
steps of a rank take while a waypoint is uploaded by another process of the machine, as in training; the server takes
its share of the same cores, which a real one does not. `memory_mib`: what an upload adds to a process.
"""

from __future__ import annotations

import multiprocessing
import statistics
import tempfile
import warnings
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pytest
import torch.distributed as dist
from obstore import get, put

from features.object_store import object_store
from tests.benchmarks.checkpoint import MB, Bench, forget, read_file, timed, write_file
from tests.benchmarks.common.memory import forget_peak, peak_mib
from tests.benchmarks.common.report import finish, machine, options_of, parser
from tests.object_store import BUCKET, object_server
from trainer import waypoints
from trainer.archive.archive import Archive
from trainer.archive.download import bring
from trainer.archive.objects import Objects
from trainer.archive.upload import push
from trainer.locks import exclusive

GOAL = 0.8
_QUICK_ROWS = 200_000


class Turns:
    """A rank, its waypoints, and the archive that they go to."""

    def __init__(self, home: Path, *, rows: int, uri: str) -> None:
        self._bench = Bench(home, rows=rows)
        self._archive = Archive(home=home, objects=Objects(uri, object_store))
        self._store, self._home, self._turn = object_store(uri), home, 0

    def turn(self) -> dict[str, float]:
        """One waypoint up beside steps, one down on another machine, and the bare ones."""
        self._turn += 1
        bench = self._bench
        bench.saver.save(self._turn, bench.state())
        bench.saver.finish()
        waypoint = waypoints.waypoint_path(bench.assignment.destination, self._turn)
        num_bytes = sum(file.stat().st_size for file in waypoint.rglob("*") if file.is_file())
        alone = statistics.median(bench.step() for _ in range(20))
        beside, memory = self._beside(waypoint)
        self._archive.remove(waypoint)
        upload = timed(lambda: push(self._archive, waypoint))
        there = Archive(home=self._home / "there", objects=self._archive.objects)
        download = timed(lambda: bring(there, there.home / waypoint.relative_to(self._home)))
        flat = self._home / "flat"
        write = write_file(flat, num_bytes)
        bare_put = timed(lambda: put(self._store, f"flat-{self._turn}", flat))
        bare_get = timed(lambda: get(self._store, f"flat-{self._turn}").bytes())
        read = read_file(flat)
        forget(flat)
        self._archive.remove(waypoint)
        self._archive.objects.delete([f"flat-{self._turn}"])
        return {
            "mb": num_bytes / MB,
            "upload": num_bytes / MB / upload,
            "download": num_bytes / MB / download,
            "bare_put": num_bytes / MB / bare_put,
            "bare_get": num_bytes / MB / bare_get,
            "disk_write": num_bytes / MB / write,
            "disk_read": num_bytes / MB / read,
            "upload_ratio": bare_put / upload,
            "download_ratio": max(bare_get, write) / download,
            "step_ms": 1000 * alone,
            "slowdown": beside / alone,
            "memory_mib": memory,
        }

    def _beside(self, waypoint: Path) -> tuple[float, float]:
        """(median seconds of a step while another process uploads, MiB that the upload added to it)."""
        ours, theirs = multiprocessing.Pipe()
        spawn = multiprocessing.get_context("spawn")
        told = (str(self._home), self._archive.objects.uri, str(waypoint), theirs)
        process = spawn.Process(target=upload_once, args=told)
        process.start()
        ours.recv()
        ours.send("go")
        steps = []
        while not ours.poll():
            steps.append(self._bench.step())
        memory = float(ours.recv())
        process.join()
        return statistics.median(steps or [self._bench.step()]), memory


def upload_once(home: str, uri: str, folder: str, pipe: Connection) -> None:
    """In a process of its own: tell that all is imported, wait, upload, tell the MiB that it took."""
    archive = Archive(home=Path(home), objects=Objects(uri, object_store))
    archive.names(Path(folder).parent)
    pipe.send("ready")
    pipe.recv()
    forget_peak()
    before = peak_mib()
    push(archive, Path(folder), at_a_time=2)
    pipe.send(peak_mib() - before)


def measure(*, rows: int, runs: int, home: Path) -> dict[str, Any]:
    """Medians over the turns, after one that warms up, with the extremes of what counts."""
    dist.init_process_group("gloo", init_method=f"file://{home / 'store'}", rank=0, world_size=1)
    with exclusive(home / "lock", token="bench"):  # noqa: S106
        turns = Turns(home, rows=rows, uri=f"s3://{BUCKET}/benchmark")
        seen = [turns.turn() for _ in range(1 + runs)][1:]
    dist.destroy_process_group()
    result: dict[str, Any] = {name: float(f"{statistics.median(one[name] for one in seen):.4g}") for name in seen[0]}
    for name in ("upload_ratio", "download_ratio", "slowdown"):
        values = sorted(one[name] for one in seen)
        result[f"{name}_range"] = [round(values[0], 3), round(values[-1], 3)]
    return result


def main() -> None:
    """Print the result."""
    arguments = parser(__doc__)
    arguments.add_argument("--rows", type=int, default=2_000_000, help="of the large table, 68 bytes each")
    parsed = arguments.parse_args()
    options = options_of(parsed)
    warnings.filterwarnings("ignore", category=FutureWarning, module=r"torch(rec)?\.")
    options.home.mkdir(parents=True, exist_ok=True)
    rows = _QUICK_ROWS if options.quick else parsed.rows
    with (
        machine() as seen,
        tempfile.TemporaryDirectory(dir=options.home) as home,
        object_server() as server,
        pytest.MonkeyPatch.context() as environment,
    ):
        server.use(environment)
        result = measure(rows=rows, runs=options.runs, home=Path(home))
    ratio = min(result["upload_ratio"], result["download_ratio"])
    finish("artifact_store", options=options, unit="MB/s", **result, machine=seen, goal=GOAL, ratio=ratio)


if __name__ == "__main__":
    main()
