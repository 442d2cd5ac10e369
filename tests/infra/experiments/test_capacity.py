"""What sharing a tower avoids, by hand."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from infra.experiments.capacity import Costs, avoided, multiply_adds, request_for, tower_multiply_adds
from trainer.recipes import get_recipe


@pytest.mark.parametrize(
    ("costs", "num_items", "sharing", "share"),
    [
        pytest.param(Costs(tower=100, item=10), 10, 4, (100 - 25) / 100, id="by-hand"),
        pytest.param(Costs(tower=100, item=5), 10, 4, (100 - 25) / 50, id="of-a-smaller-model"),
        pytest.param(Costs(tower=100, item=10), 10, 1, 0.0, id="each-computes"),
        pytest.param(Costs(tower=100, item=10), 10, math.inf, 1.0, id="never-computed"),
        pytest.param(Costs(tower=100, item=10), 1000, 4, 75 / 10_000, id="many-items"),
    ],
)
def test_avoided(costs: Costs, num_items: int, sharing: float, share: float) -> None:
    assert avoided(costs, num_items=num_items, sharing=sharing) == pytest.approx(share)


def test_a_request_of_that_cost_avoids_that_share() -> None:
    request = request_for(0.153, 195e6, sharing=10)
    assert request == pytest.approx(195e6 * 0.9 / 0.153)
    assert avoided(Costs(tower=195e6, item=request / 50), num_items=50, sharing=10) == pytest.approx(0.153)


def test_multiply_adds_are_counted_by_hand() -> None:
    layers = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4))
    rows = torch.zeros(32, 8)
    assert multiply_adds(lambda: layers(rows)) == 32 * (8 * 16 + 16 * 4)


def test_the_paper_s_tower() -> None:
    assert 2 * tower_multiply_adds(get_recipe("fb_ctr")) == pytest.approx(390e6, rel=0.05)
