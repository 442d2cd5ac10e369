"""The same global batches at any number of ranks, by any placement and pipeline, give the same weights."""

from __future__ import annotations

import pytest
import torch

from tests.trainer.agreement import assert_agree
from tests.trainer.test_checkpoint import tensors
from trainer.launch import run_ranks

JOBS = (
    (1, {"1-rank": "planned,by_hand,0", "1-rank-anchored": "planned,by_hand,0.5"}),
    (
        2,
        {
            "2-ranks": "planned,by_hand,0",
            "2-ranks-overlapped": "planned,overlapped,0",
            "2-ranks-anchored": "planned,by_hand,0.5",
            "2-ranks-anchored-overlapped": "planned,overlapped,0.5",
        },
    ),
    (2, {"2-ranks-again": "planned,by_hand,0"}),
    (4, {"4-ranks": "planned,by_hand,0", "4-ranks-row-wise": "row_wise,by_hand,0"}),
)
"""(ranks, runs by name). The ranks of one job do its runs one after the other: to start them takes longer."""


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, torch.Tensor]]:
    """Every tensor of each run's checkpoint, optimizer included."""
    found = {}
    for ranks, runs in JOBS:
        folder = tmp_path_factory.mktemp("job")
        arguments = [str(folder), *(f"{name},{told}" for name, told in runs.items())]
        run_ranks("tests.trainer.global_batches:main", arguments, ranks=ranks, directory=folder)
        found |= {name: tensors(folder / name / "checkpoint", folder / f"{name}.pt") for name in runs}
    return found


@pytest.mark.slow
@pytest.mark.parametrize("name", ["2-ranks-again", "2-ranks-overlapped"])
def test_the_same_ranks_give_the_same_bits(weights: dict[str, dict[str, torch.Tensor]], name: str) -> None:
    expected, found = weights["2-ranks"], weights[name]
    assert expected.keys() == found.keys()
    assert [key for key in expected if not torch.equal(expected[key], found[key])] == []


@pytest.mark.slow
@pytest.mark.parametrize("name", ["2-ranks", "4-ranks", "4-ranks-row-wise"])
def test_other_ranks_give_the_same_weights(weights: dict[str, dict[str, torch.Tensor]], name: str) -> None:
    expected, found = weights["1-rank"], weights[name]
    assert expected.keys() == found.keys()
    for key, tensor in expected.items():
        assert_agree(found[key], tensor, name=f"{name}: {key}")


@pytest.mark.slow
def test_regularizers_agree_over_ranks_and_pipelines(weights: dict[str, dict[str, torch.Tensor]]) -> None:
    alone, two = weights["1-rank-anchored"], weights["2-ranks-anchored"]
    overlapped, free = weights["2-ranks-anchored-overlapped"], weights["1-rank"]
    for key, tensor in alone.items():
        assert_agree(two[key], tensor, name=key)
    assert [key for key in two if not torch.equal(two[key], overlapped[key])] == []
    assert not torch.equal(alone["/model/user_tower.output.weight"], free["/model/user_tower.output.weight"])


@pytest.mark.slow
def test_they_have_learnt(weights: dict[str, dict[str, torch.Tensor]]) -> None:
    moved = [key for key in weights["1-rank"] if "momentum" in key and weights["1-rank"][key].any()]
    assert len(moved) == 5, "one per table: Adagrad's sums are zero until a table learns"
