"""The share of positives among a downstream model's examples: what it starts at."""

from __future__ import annotations

from features.lake import Lake, Partition
from features.windows import examples_of
from trainer.recipe import DownstreamRecipe


def positive_rate(lake: Lake, examples: Partition, downstream: DownstreamRecipe) -> float:
    """In (0, 1): half an example of either kind is added."""
    num, positives = 0, 0
    for piece in examples_of(lake, examples, downstream.examples):
        num += piece.num_rows
        positives += int(piece.read([downstream.task]).column(downstream.task).to_numpy().sum())
    return (positives + 0.5) / (num + 1)
