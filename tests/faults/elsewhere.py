"""Faults of a machine that others go on for: they share object storage, and no folder."""

from __future__ import annotations

import pytest

from infra.settings import get_settings
from tests.faults.attempts import EVERY, settings_of, wait_for
from tests.faults.scenario import Outcome, Trial
from tests.faults.training import resume, waiting_job
from tests.faults.world import NUM_STEPS
from tests.object_store import BUCKET
from trainer.archive.archive import Archive
from trainer.locks import EXPIRY_SECONDS
from trainer.trained import trained_days

_INTERVALS = 2


def host_lost(trial: Trial) -> Outcome:
    """A host lost in the middle of a day: another goes on from its last archived waypoint, to the bit; at most one
    interval is redone."""
    draw, _ = trial.draw(), trial.world.undisturbed  # made without storage
    first, second = (trial.world.fresh(trial.folder / name) for name in ("first", "second"))
    step = draw.randint(_INTERVALS * EVERY + 1, NUM_STEPS - 2)
    with pytest.MonkeyPatch.context() as environment:
        uri = f"s3://{BUCKET}/{trial.folder.name}-{trial.seed}"
        trial.world.object_storage.use(environment, USERMODEL_STORAGE_URI=uri, USERMODEL_LAKE_URI=str(first / "lake"))
        archive = Archive.of(settings_of(first))
        assert archive is not None
        newest = f"step={step // EVERY * EVERY:09}.manifest.json"
        with waiting_job(first, step=step, log=trial.folder / "log"):
            archived = wait_for(lambda: any(one.key.endswith(newest) for one in archive.objects.under("checkpoints")))
            assert archived, f"{newest} was not archived while the job went on"
        _forget_lease(archive)
        trained, resumed_at = resume(second)
        trial.world.require_same(trained)
        redone = step - resumed_at
        assert 0 <= redone <= EVERY, f"lost at {step}, went on at {resumed_at}"
        assert [day.fingerprint for day in trained_days(settings_of(first), "tiny")] == [trained.fingerprint]
        left = [one.key for one in archive.objects.under("checkpoints") if ".within-" in one.key]
        assert not left, f"archived waypoints are left: {left[:3]}"
    get_settings.cache_clear()
    return Outcome(injected=1, lost=f"{redone} of {NUM_STEPS} steps redone; the lease of {EXPIRY_SECONDS:.0f} s")


def _forget_lease(archive: Archive) -> None:
    """As if its time were over."""
    archive.objects.delete([one.key for one in archive.objects.under("leases")])
