"""What a changed recipe takes over, bit for bit: weights, and the optimizer's state with them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
import torch

from features.schema import DenseFeature, Schema, SparseFeature, Table
from infra.settings import Settings
from tests.towers import EXTRACTORS, tiny_user_tower
from tests.trainer.planted import SCHEMA, PlantedSource, planted_recipe
from tests.trainer.test_checkpoint import assignment_from, tensors
from trainer import sharding
from trainer.assignment import write_assignment
from trainer.carryover.compare import Comparison, compare
from trainer.carryover.document import ModelDocument
from trainer.carryover.summary import summarise
from trainer.checkpoint import save_state
from trainer.config import TrainingConfig
from trainer.launch import run_ranks
from trainer.origin import warm_start
from trainer.recipe import Optimizer, Task
from trainer.towers import Mlp
from trainer.trained import TrainedDay

DIM = 16
BAGS = "sparse.tables.embedding_bags"
LEVEL = "user_tower.levels.0"
FIRST = f"{LEVEL}.interaction.extractors"

Expected = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
"""(the parent's tensor, the initial one) -> today's. Moments: the initial ones are zeros."""


def fresh(old: torch.Tensor, initial: torch.Tensor) -> torch.Tensor:
    return initial


def pick(axis: int, *groups: int | None, width: int = 1, tail: int = 0) -> Expected:
    """Today's indices along `axis`, in groups of `width`: group g of the parent, or None for a new one; then `tail`
    more indices, the parent's last."""

    def expected(old: torch.Tensor, initial: torch.Tensor) -> torch.Tensor:
        parts = []
        for position, group in enumerate(groups):
            source, start = (initial, position) if group is None else (old, group)
            parts.append(source.narrow(axis, start * width, width))
        if tail:
            parts.append(old.narrow(axis, old.shape[axis] - tail, tail))
        return torch.cat(parts, dim=axis)

    return expected


def x0(*groups: int | None) -> dict[str, Expected]:
    """The layers that take X_0: the user's sparse embeddings in these groups, then its 4 dense ones."""
    return {
        f"{FIRST}.0.layers.0.weight": pick(1, *groups, width=DIM, tail=4 * DIM),
        f"{FIRST}.1.attention.sparse.weight": pick(1, *groups, tail=4),
        f"{FIRST}.1.residual.sparse.weight": pick(1, *groups, tail=4),
        f"{FIRST}.1.residual.layers.2.weight": pick(0, *groups, tail=4),
        f"{FIRST}.1.residual.layers.2.bias": pick(0, *groups, tail=4),
        f"{FIRST}.2.compress.weight": pick(1, *groups, tail=4),
        f"{FIRST}.3.w1.weight": pick(1, *groups, tail=4),
        f"{FIRST}.3.w2.weight": pick(0, *groups, tail=4),
        f"{FIRST}.3.output.weight": pick(1, *groups, tail=4),
        f"{LEVEL}.residual.layers.0.weight": pick(1, *groups, width=DIM, tail=4 * DIM),
    }


def rows(table: str, expected: Expected) -> dict[str, Expected]:
    return {
        f"{tower}.{BAGS}.{side}_{table}.weight": expected
        for tower, side in (("user_tower", "user"), ("mix_tower", "item"))
    }


def resized(name: str, num_rows: int) -> Schema:
    tables = (replace(t, num_rows=num_rows) if t.name == name else t for t in SCHEMA.tables)
    return replace(SCHEMA, tables=tuple(tables))


def recipe_of(schema: Schema = SCHEMA, **changes: object) -> TrainingConfig:
    return TrainingConfig.of(planted_recipe(source=PlantedSource(schema=schema), **changes))


@dataclass(frozen=True, kw_only=True)
class Case:
    """A changed recipe. changed: by name, what is not simply the parent's; gone: tensors that are not there."""

    config: TrainingConfig
    changed: Mapping[str, Expected] = field(default_factory=dict)
    gone: frozenset[str] = frozenset()
    fresh_state: tuple[str, ...] = ()
    """Name prefixes whose weights are carried and whose optimizer's state is not."""


USER, ITEM = SCHEMA.sparse[:3], SCHEMA.sparse[3:]
PROJECT = "user_tower.dense.project.weight"
WIDER = tiny_user_tower(dim=DIM)
WIDER = replace(
    WIDER,
    modules=(
        replace(WIDER.modules[0], extractors=(Mlp(num_outputs=2, hidden=(24,)), *EXTRACTORS[1:])),
        WIDER.modules[1],
    ),
)
CASES = {
    "nothing-changed": Case(config=recipe_of()),
    "new-table": Case(
        config=recipe_of(
            replace(
                SCHEMA,
                tables=(*SCHEMA.tables, Table(name="place", num_rows=40)),
                sparse=(*USER[:2], SparseFeature(name="place", table="place"), USER[2], *ITEM),
            )
        ),
        changed={**x0(0, 1, None, 2), f"user_tower.{BAGS}.user_place.weight": fresh},
    ),
    "removed-table": Case(
        config=recipe_of(replace(SCHEMA, tables=SCHEMA.tables[1:], sparse=(*USER[1:], *ITEM))),
        changed=x0(1, 2),
        gone=frozenset({f"user_tower.{BAGS}.user_user.weight"}),
    ),
    "grown-by-multiple": Case(
        config=recipe_of(resized("topic", 192)),
        changed=rows("topic", lambda old, initial: torch.cat([old, old, old])),
    ),
    "re-hashed": Case(config=recipe_of(resized("topic", 100)), changed=rows("topic", fresh)),
    "shrunk": Case(config=recipe_of(resized("topic", 32)), changed=rows("topic", fresh)),
    "new-dense": Case(
        config=recipe_of(replace(SCHEMA, dense=(SCHEMA.dense[0], DenseFeature(name="speed"), *SCHEMA.dense[1:]))),
        changed={PROJECT: pick(1, 0, None, 1)},
    ),
    "removed-dense": Case(config=recipe_of(replace(SCHEMA, dense=SCHEMA.dense[1:])), changed={PROJECT: pick(1, 1)}),
    "another-transform": Case(
        config=recipe_of(replace(SCHEMA, dense=(replace(SCHEMA.dense[0], transform="identity"), *SCHEMA.dense[1:]))),
        changed={PROJECT: pick(1, None, 1)},
    ),
    "reordered-features": Case(
        config=recipe_of(
            replace(SCHEMA, sparse=(*USER[::-1], *ITEM), dense=(SCHEMA.dense[1], SCHEMA.dense[0], SCHEMA.dense[2]))
        ),
        changed={**x0(2, 1, 0), PROJECT: pick(1, 1, 0)},
    ),
    "new-task": Case(
        config=recipe_of(
            replace(SCHEMA, tasks=("like", *SCHEMA.tasks)),
            tasks=(Task(name="buy"), Task(name="like"), Task(name="click")),
        ),
        changed={"mix_tower.output.weight": pick(0, 1, None, 0), "mix_tower.output.bias": pick(0, 1, None, 0)},
    ),
    "removed-task": Case(
        config=recipe_of(tasks=(Task(name="buy"),)),
        changed={"mix_tower.output.weight": pick(0, 1), "mix_tower.output.bias": pick(0, 1)},
    ),
    "changed-tower": Case(
        config=recipe_of(user_tower=WIDER),
        changed={f"{FIRST}.0.layers.{name}": fresh for name in ("0.weight", "0.bias", "2.weight")},
    ),
    "another-table-optimizer": Case(
        config=recipe_of(optimizer=Optimizer(sparse="adagrad")),
        fresh_state=(f"user_tower.{BAGS}", f"mix_tower.{BAGS}"),
    ),
    "another-dense-optimizer": Case(config=recipe_of(optimizer=Optimizer(dense="adagrad")), fresh_state=("dense.",)),
}


def check(case: Case, *, old: dict[str, torch.Tensor], initial: dict[str, torch.Tensor], now: Path) -> None:
    """Every tensor of `now` is what the case says, made from `old` and `initial`."""
    found = tensors(now, now.with_suffix(".pt"))
    assert found.keys() == initial.keys()
    for path, tensor in found.items():
        _, kind, *rest = path.split("/")
        if kind == "model":
            (name,) = rest
            before, zeros = old.get(path), initial[path]
        else:
            name, key = rest[1].removeprefix("dense."), rest[2]
            before, zeros = old.get(path), torch.zeros_like(initial[path])
            if rest[1].startswith(case.fresh_state) if case.fresh_state else False:
                assert not tensor.any(), path
                continue
            if key == "step":
                is_fresh = case.changed.get(name) is fresh
                assert tensor == (0 if is_fresh else before), path
                continue
        expected = case.changed.get(name)
        if expected is None:
            assert before is not None, path
            assert torch.equal(tensor, before), f"{path} is not the parent's"
        else:
            wanted = expected(before if before is not None else zeros, zeros)
            assert torch.equal(tensor, wanted), f"{path} is not what the change asks for"


def start(case: Case, parent: TrainedDay, to: Path) -> tuple[Comparison, dict[str, torch.Tensor]]:
    """Warm-start in this process, save to `to`; what was compared, and the tensors of a cold start."""
    cold = sharding.build(case.config, local_world_size=1)
    cold.dense.init_state()
    save_state(to.with_name("cold"), cold.state_dict())
    sharded = sharding.build(case.config, local_world_size=1)
    comparison = warm_start(sharded, parent, config=case.config)
    save_state(to, sharded.state_dict())
    return comparison, tensors(to.with_name("cold"), to.with_name("cold.pt"))


@pytest.mark.parametrize("name", CASES)
def test_truth_table(name: str, pair: tuple[TrainedDay, TrainedDay], tmp_path: Path, one_rank: None) -> None:
    case, parent = CASES[name], pair[1]
    old = tensors(parent.path, tmp_path / "old.pt")
    assert all(tensor.any() for path, tensor in old.items() if "momentum" in path or "exp_avg" in path)
    comparison, initial = start(case, parent, tmp_path / "now")
    check(case, old=old, initial=initial, now=tmp_path / "now")
    outcomes = {change.name: change.outcome for change in comparison.tensors}
    assert {n for n, outcome in outcomes.items() if outcome not in ("carried", "dropped")} == set(case.changed)
    assert {n for n, outcome in outcomes.items() if outcome == "dropped"} == case.gone
    assert {n for n, outcome in outcomes.items() if outcome == "fresh"} == {
        n for n, expected in case.changed.items() if expected is fresh
    }
    assert comparison.is_unchanged == (name == "nothing-changed")


@pytest.mark.slow
def test_two_ranks_take_over_the_same(
    home: Settings, pair: tuple[TrainedDay, TrainedDay], tmp_path: Path, one_rank: None
) -> None:
    schema = resized("topic", 192)
    schema = replace(
        schema,
        tables=(*(t for t in schema.tables if t.name != "user"), Table(name="place", num_rows=40)),
        sparse=(*USER[1:], SparseFeature(name="place", table="place"), *ITEM),
        dense=(DenseFeature(name="speed"), *SCHEMA.dense),
    )
    case = Case(
        config=recipe_of(schema, tasks=(Task(name="buy"), Task(name="click"))),
        changed={
            **x0(1, 2, None),
            **CASES["grown-by-multiple"].changed,
            f"user_tower.{BAGS}.user_place.weight": fresh,
            PROJECT: pick(1, None, 0, 1),
            "mix_tower.output.weight": pick(0, 1, 0),
            "mix_tower.output.bias": pick(0, 1, 0),
        },
    )
    old = tensors(pair[1].path, tmp_path / "old.pt")
    _, initial = start(case, pair[1], tmp_path / "now")
    check(case, old=old, initial=initial, now=tmp_path / "now")

    job = tmp_path / "job"
    job.mkdir()
    assignment = replace(assignment_from(pair[1], home), config=case.config)
    write_assignment(assignment, job / "assignment.json")
    arguments = [str(job / "assignment.json"), str(tmp_path / "two")]
    run_ranks("tests.trainer.carryover.start:main", arguments, ranks=2, directory=job)
    check(case, old=old, initial=initial, now=tmp_path / "two")


def test_another_hash_starts_every_table_fresh() -> None:
    today = ModelDocument(config=recipe_of())
    found = compare(replace(today, hashing="murmur"), today)
    assert {c.outcome for c in found.tensors if c.is_table} == {"fresh"}
    assert {c.outcome for c in found.tensors if not c.is_table} == {"carried"}


def test_another_dimension_starts_every_table_fresh() -> None:
    before, today = (ModelDocument(config=recipe_of(user_tower=tiny_user_tower(dim=dim))) for dim in (16, 8))
    found = compare(before, today)
    assert {(c.outcome, c.why) for c in found.tensors if c.is_table} == {("fresh", "dimension 16 -> 8")}
    summary = summarise(found)
    assert summary.num_fresh == sum(c.outcome == "fresh" for c in found.tensors)
    assert summary.num_carried + summary.num_in_part + summary.num_fresh == len(found.tensors)
