"""Where the embeddings rank among the features of a consumer that follows the days (section 6.1.2)."""

from __future__ import annotations

from typing import cast

from infra.experiments.following import Joined
from infra.experiments.lab import Lab
from trainer.downstream import explain
from trainer.downstream.arms import Arms, own_features, small_tables
from trainer.downstream.joined import JoinedBatch, JoiningEncoder
from trainer.importance import Importance, measure
from trainer.recipe import DownstreamRecipe
from trainer.sample import chunks_of, sample_rows

ROWS, REPEATS = 4_096, 2
"""Of the examples that features are permuted among, and how often."""


def importance_of(
    lab: Lab, consumer: DownstreamRecipe, model: Arms, *, arm: str, day: int, joined: Joined
) -> Importance:
    """Of the arm's embeddings, all of them as one, by permutation on the examples of a day that the model has not
    learnt."""
    schema = small_tables(lab.source.schema)
    own = own_features(consumer, schema)
    encoder = JoiningEncoder(schema, task=consumer.task, features=own, embeddings={arm: joined.trained(day)})
    sample = sample_rows(
        lab.lake,
        lab.lake.get(f"examples/{lab.source.name}", lab.days[day]),
        columns=encoder.columns,
        num_rows=ROWS,
        seed=consumer.seed,
        where=consumer.examples,
    )
    batches = [cast(JoinedBatch, encoder.encode(chunk)) for chunk in chunks_of(sample)]
    sizes = {arm: sum(num for num, _ in joined.shapes)}
    subject = explain.Consumer(
        model, explain.own_of(schema, own), task=consumer.task, batches=batches, num_embeddings=sizes, arm=arm
    )
    (ranking,) = measure(subject, repeats=REPEATS, seed=consumer.seed)
    (together,) = (one for one in ranking.importances if one.feature.name == explain.TOGETHER)
    return together


def num_ranked(lab: Lab, consumer: DownstreamRecipe) -> int:
    """Features that are ranked: the consumer's own, and the embeddings as one."""
    return len(own_features(consumer, small_tables(lab.source.schema))) + 1
