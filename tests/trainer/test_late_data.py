"""Rows that reach a closed day make a new revision of it; what was sealed stays as it is."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest

from features.fingerprint import file_sha256
from features.lake import Lake
from infra.settings import Settings
from tests.trainer.planted import DAY, commit_day, planted_recipe
from trainer.job import train
from trainer.trained import find_trained, revisions


def sealed(folder: Path) -> dict[Path, str]:
    return {path: file_sha256(path) for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.mark.slow
def test_a_late_partition_makes_a_new_revision_and_a_gap_is_written_down(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path, ranks=1, _env_file=None)
    lake, recipe = Lake(settings.lake), planted_recipe()
    on_time = commit_day(lake, DAY, num_rows=640)
    first = train(recipe, DAY, settings=settings)
    before = sealed(first.path)

    late = commit_day(lake, DAY, num_rows=704)
    again = train(recipe, DAY, settings=settings)
    assert (first.revision, again.revision) == (0, 1)
    assert (first.num_examples, again.num_examples) == (640, 704)
    assert (first.examples, again.examples) == (on_time, late)
    assert first.path != again.path
    assert sealed(first.path) == before
    assert revisions(settings, "tiny") == [first, again]
    assert find_trained(settings, "tiny", DAY) == again
    assert lake.read(first.examples).num_rows == 640, "what the first revision learnt can still be read"

    after = DAY + timedelta(3)
    commit_day(lake, after, num_rows=640)
    with pytest.raises(ValueError, match="--after-gap"):
        train(recipe, after, settings=settings)
    later = train(recipe, after, settings=settings, after_gap=True)
    assert (later.parent_ds, later.parent_fingerprint, later.gap_days) == (DAY, again.fingerprint, 2)
    assert later.carried_over is not None
    assert later.carried_over.changes == ()
