"""Downstream models that learn from a teacher beside the labels, and are served without one."""

from __future__ import annotations

from pathlib import Path
from typing import cast

import torch

from features.columns import Ids
from features.reader import DayReader
from infra.settings import Settings
from tests.trainer.downstream_world import CTR, SCHEMA, World, day
from trainer.downstream.arms import BASELINE, TEACHER, Arms, own_features, small_tables
from trainer.downstream.joined import JoinedBatch, JoiningEncoder, Lookup


class Constant:
    """A teacher that says the same of everything."""

    def lookup(self, keys: Ids) -> tuple[torch.Tensor, torch.Tensor]:
        return torch.full((len(keys), 1, 1), 3.0), torch.empty(len(keys), 0)


def test_an_arm_is_drawn_to_its_teacher_by_its_weight(tmp_path: Path) -> None:
    world, schema = (
        World(settings=Settings(home=tmp_path, _env_file=None), examples_per_day=2_000),
        small_tables(SCHEMA),
    )
    examples = world.commit_examples(day(1))

    def batches(taught: dict[str, Lookup]) -> list[JoinedBatch]:
        features = own_features(CTR, schema)
        encoder = JoiningEncoder(schema, task=CTR.task, features=features, embeddings=taught)
        return [cast(JoinedBatch, batch) for batch in DayReader(world.lake, examples, encoder, batch_size=256)]

    arms = Arms(CTR, schema, {BASELINE: (), "nothing": (), "much": ()}, distilled={"nothing": 0.0, "much": 100.0})
    arms.train(batches({TEACHER: Constant()}))
    found = arms.evaluate(batches({}))
    means = {name: logits.mean().item() for name, logits in found.logits.items()}
    assert torch.equal(found.logits["nothing"], found.logits[BASELINE])
    assert means[BASELINE] < 0
    assert 0.5 < means["much"] < 3.5
