"""Files that are not what was written: flipped bits, cut ends, pickles."""

from __future__ import annotations

import json
import pickle  # noqa: TID251  what an attacker would write
import random
import shutil
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa

from features.batches import Encoder
from features.fingerprint import file_sha256
from features.lake import Lake
from features.reader import DayReader
from snapshots.export import GRAPH, WEIGHTS, export_day, load_snapshot
from snapshots.seal import MANIFEST as SEAL
from snapshots.seal import DamagedError
from tests.faults.attempts import EVERY, attempt, lines_of, settings_of
from tests.faults.scenario import Outcome, Trial
from tests.snapshots.world import DAYS, make_tower, tiny_recipe
from tests.trainer.planted import DAY, SCHEMA, planted_recipe
from trainer import waypoints
from trainer.checkpoint import MANIFEST, STATE, DamagedCheckpointError, verify
from trainer.trained import TrainedDay, load_user_tower, read_trained

Refuses = Callable[[], bool]


def flip(path: Path, place: float, bit: int) -> None:
    """One bit, at a share of the file's length."""
    content = bytearray(path.read_bytes())
    content[min(int(place * len(content)), len(content) - 1)] ^= 1 << bit
    path.write_bytes(content)


def cut(path: Path, place: float) -> None:
    """Keep this share of it."""
    content = path.read_bytes()
    path.write_bytes(content[: min(int(place * len(content)), len(content) - 1)])


def damage_each(files: list[Path], refuses: Refuses, *, draw: random.Random, times: int) -> Outcome:
    """Flip a bit, one time in four cut the end, `times` times over the files in turns and over their whole length;
    each time the file is restored. `refuses` tells whether whoever uses the files noticed."""
    missed = []
    for number in range(times):
        path = files[number % len(files)]
        round_, rounds = number // len(files), -(-times // len(files))
        place, bit, cuts = (round_ + draw.random()) / rounds, draw.randrange(8), number % 4 == 3
        kept, mode = path.read_bytes(), path.stat().st_mode
        path.chmod(0o644)
        if cuts:
            cut(path, place)
        else:
            flip(path, place, bit)
        if not refuses():
            missed.append(f"{path.name}: {'cut' if cuts else f'bit {bit} flipped'} at {place:.0%} of {len(kept)} bytes")
        path.write_bytes(kept)
        path.chmod(mode)
    assert not refuses(), "what is undamaged was refused"
    return Outcome(injected=times, broken=tuple(missed), lost=f"caught {times - len(missed)} of {times}")


def damaged_checkpoint(trial: Trial) -> Outcome:
    """A bit flipped or the end cut off in any file of a day's checkpoint: it is never loaded or trained on."""
    _, trained = trial.world.trained(trial.folder / "home")
    files = sorted(path for path in trained.path.rglob("*") if path.is_file())

    def refuses() -> bool:
        try:
            if read_trained(trained.path) is None:
                return True
            load_user_tower(planted_recipe(), trained)
        except DamagedCheckpointError:
            return True
        return False

    return damage_each(files, refuses, draw=trial.draw(), times=trial.times(16, 60))


def damaged_waypoint(trial: Trial) -> Outcome:
    """The same in a waypoint: it is set aside, the day goes on from the one before and ends as if undisturbed."""
    draw, home = trial.draw(), trial.world.killed(trial.folder / "home")
    (newest,) = (home / "checkpoints/tiny").glob(f".within-*/step={2 * EVERY:09}")
    destination = newest.parent.with_name(newest.parent.name.removeprefix(".within-"))
    files = sorted(path for path in newest.rglob("*") if path.is_file())

    def refuses() -> bool:
        if newest not in waypoints.sealed(destination):
            return True
        try:
            waypoints.read_waypoint(newest)
            verify(newest)
        except DamagedCheckpointError:
            return True
        return False

    found = damage_each(files, refuses, draw=draw, times=trial.times(15, 59))
    hit = draw.choice([path for path in files if path.suffix == ".distcp"])
    flip(hit, draw.random(), draw.randrange(8))
    with lines_of("trainer.launch") as lines:
        trained = attempt(settings_of(home))
    assert any(f"skipped the damaged waypoint {newest}" in line for line in lines), "the damage was not reported"
    assert any(f"resumed at step={EVERY} of" in line for line in lines), "it did not go on from the one before"
    trial.world.require_same(trained)
    injected, caught = found.injected + 1, found.survived + 1
    return Outcome(injected=injected, broken=found.broken, lost=f"caught {caught} of {injected}; {EVERY} steps redone")


def sealed_snapshot(home: Path) -> tuple[Path, str]:
    """A tower, exported; its folder and its manifest's SHA-256."""
    recipe = tiny_recipe()
    return export_day(
        recipe,
        DAYS[0],
        fingerprint="f" * 64,
        make_tower=lambda: make_tower(recipe),
        maps={},
        settings=settings_of(home),
    )


def damaged_snapshot(trial: Trial) -> Outcome:
    """The same in a published snapshot: it is never served."""
    folder, manifest = sealed_snapshot(trial.folder)
    folder.chmod(0o755)

    def refuses() -> bool:
        try:
            load_snapshot(folder, manifest_sha256=manifest)
        except DamagedError:
            return True
        return False

    return damage_each(sorted(folder.iterdir()), refuses, draw=trial.draw(), times=trial.times(15, 60))


def damaged_table(trial: Trial) -> Outcome:
    """The same in a Parquet file of the lake: whoever reads the partition is told, and nothing is learnt from it."""
    home = trial.world.fresh(trial.folder / "home")
    lake = Lake(settings_of(home).lake)
    partition = lake.get("examples/planted", DAY)
    files = [Path(uri.removeprefix("file://")) for uri in lake.files(partition)]

    def refuses() -> bool:
        seen = 0
        for use in (
            lambda: Lake(lake.root).read(partition),
            lambda: list(DayReader(Lake(lake.root), partition, Encoder(SCHEMA, tasks=("click",)), batch_size=64)),
        ):
            try:
                use()
            except (ValueError, OSError, RuntimeError, pa.ArrowException):
                seen += 1
        return seen == 2

    return damage_each(files, refuses, draw=trial.draw(), times=trial.times(16, 60))


class Exploit:
    """Unpickled, it makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return _leave_a_mark, (str(self.path),)


def _leave_a_mark(path: str) -> None:
    Path(path).touch()


def pickled(trial: Trial) -> Outcome:
    """A pickle where tensors are expected, every checksum made to match: it is refused and never unpickled."""
    mark, broken = trial.folder / "unpickled", []
    poison = pickle.dumps(Exploit(mark))
    used: dict[str, Callable[[], object]] = {}
    for name in (WEIGHTS, GRAPH):
        folder, _ = sealed_snapshot(trial.folder / name)
        folder.chmod(0o755)
        overwrite(folder / name, poison, manifest=folder / SEAL)
        used[f"{name} of a published snapshot"] = lambda folder=folder: load_snapshot(folder)
    _, trained = trial.world.trained(trial.folder / "home")
    names = [path.relative_to(trained.path) for path in sorted((trained.path / STATE).iterdir())]
    names.append(Path(STATE) / "__0.metadata")  # not there; DCP would read it first
    for path in names:
        copied = poisoned_copy(trained, path, poison, to=trial.folder / f"copy-{path.name}")
        used[f"{path} of a checkpoint"] = lambda copied=copied: load_user_tower(planted_recipe(), copied)
    for what, use in used.items():
        try:
            use()
        except (DamagedError, DamagedCheckpointError):
            pass
        except Exception as error:
            broken.append(f"{what}: {type(error).__name__}: {error}")
        else:
            broken.append(f"{what} was loaded")
        if mark.exists():
            broken.append(f"{what} was unpickled")
            mark.unlink()
    return Outcome(injected=len(used), broken=tuple(broken))


def poisoned_copy(trained: TrainedDay, name: Path, content: bytes, *, to: Path) -> TrainedDay:
    """The checkpoint with one file replaced, and the manifest made to match."""
    shutil.copytree(trained.path, to)
    overwrite(to / name, content, manifest=to / MANIFEST, key=name.as_posix())
    return TrainedDay(**{**vars(trained), "path": to})


def overwrite(path: Path, content: bytes, *, manifest: Path, key: str | None = None) -> None:
    """And its entry of the manifest."""
    for file in (file for file in (path, manifest) if file.exists()):
        file.chmod(0o644)
    path.write_bytes(content)
    listed = json.loads(manifest.read_text())
    listed["files"][key or path.name] = {"sha256": file_sha256(path), "bytes": len(content)}
    manifest.write_text(json.dumps(listed))
