"""Days in object storage that machines share: what one removes, lists or cannot read while another works."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest

from infra.settings import Settings
from tests.trainer.archive import world
from tests.trainer.test_retention import START, sealed
from trainer import waypoints
from trainer.archive.archive import Archive
from trainer.archive.keep import keep
from trainer.archive.lease import leased
from trainer.archive.upload import push
from trainer.checkpoint import DamagedCheckpointError
from trainer.retention import prune
from trainer.trained import TrainedDay, find_trained, newest_before, revisions


@pytest.fixture
def here(tmp_path: Path, bucket: str) -> Settings:
    return Settings(home=tmp_path / "here", storage_uri=bucket, _env_file=None)


@pytest.fixture
def there(here: Settings, tmp_path: Path) -> Settings:
    """Another machine, which has nothing yet."""
    (tmp_path / "there").mkdir()
    return here.model_copy(update={"home": tmp_path / "there"})


def archive_of(settings: Settings) -> Archive:
    archive = Archive.of(settings)
    assert archive is not None
    return archive


def days_in(settings: Settings) -> list[int]:
    return [(day.ds - START).days for day in revisions(settings, "tiny")]


def archived(settings: Settings, day: int, *, base: TrainedDay | None = None) -> TrainedDay:
    trained = sealed(settings, day, base=base)
    keep(archive_of(settings), trained.path)
    return trained


def test_a_day_that_another_machine_trains_again_is_left_alone(here: Settings, there: Settings) -> None:
    """With its waypoints, and what it adds to; when nobody does, all goes that is done with."""
    base = archived(here, 0)
    again = archived(here, 1, base=base)
    archived(here, 2)
    for destination in (again.path, again.path.with_name(f"ds={again.ds}-other000")):
        name = (waypoints.folder(destination) / "step=000000010").relative_to(here.home)
        push(archive_of(here), world.sealed(here.home, str(name)))
    folder = here.checkpoints / "tiny"
    with leased(archive_of(there), there.checkpoints / "tiny" / f"ds={again.ds}", token="again"):  # noqa: S106
        assert prune(here, "tiny", keep_days=1) == []
        assert days_in(there) == [0, 1, 2]
        assert len(archive_of(here).objects.children(archive_of(here).key_of(folder))[1]) == 5, "and two of waypoints"
    assert prune(here, "tiny", keep_days=1) == [again.path, base.path]
    assert days_in(there) == [2]
    assert archive_of(here).names(waypoints.folder(again.path)) == []
    other = waypoints.folder(again.path.with_name(f"ds={again.ds}-other000"))
    assert archive_of(here).names(other) == ["step=000000010"], "of other inputs, and young: who was killed goes on"


def no_manifest(archive: Archive, day: Path) -> None:
    archive.objects.put(archive.manifest_key(day), b"no manifest")


def no_pieces(archive: Archive, day: Path) -> None:
    archive.objects.delete([piece.key for piece in archive.objects.under(archive.key_of(day))])


@pytest.mark.parametrize("harm", [no_manifest, no_pieces])
def test_a_day_that_the_archive_damaged_hides_no_other(
    here: Settings,
    there: Settings,
    caplog: pytest.LogCaptureFixture,
    harm: Callable[[Archive, Path], None],
) -> None:
    days = [archived(here, day) for day in range(3)]
    harm(archive_of(here), days[1].path)
    assert days_in(there) == [0, 2]
    assert archive_of(there).key_of(there.checkpoints / "tiny" / days[1].path.name) in caplog.text, "it is named"
    assert find_trained(there, "tiny", days[2].ds) is not None
    for wants in (
        lambda: find_trained(there, "tiny", days[1].ds),
        lambda: newest_before(there, "tiny", days[1].ds + timedelta(1)),
    ):
        with pytest.raises(DamagedCheckpointError, match=days[1].path.name):
            wants()
    assert prune(there, "tiny", keep_days=2) == [], "what cannot be read is no reason to remove another"
    assert days_in(here) == [0, 1, 2], "who has it reads it"
