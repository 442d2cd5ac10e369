"""`fb_ctr`: the paper's FB CTR SUM user model (section 6.1.3) at its scale, and a miniature that two cores train."""

from __future__ import annotations

from dataclasses import replace
from datetime import date

from features.sources.synthetic import SyntheticWorld
from trainer.recipe import Recipe, Schedule, Task
from trainer.recipes.towers import small_mix_tower
from trainer.towers import DotCompression, InteractionModule, Mlp, MlpMixer, Residual, UserTower

WORLD = SyntheticWorld(
    name="fb_ctr",
    num_users=3_000_000,
    num_items=1_000_000,
    events_per_day=6_000_000,
    num_sparse=600,
    num_dense=1_000,
    ids_per_list=12,
    vocabulary=100_000,
    rows_per_table=1_384_000,  # x 301 tables x 96 x 4 bytes = 160 GB
    table_skew=1.0,
)


def _module(
    *, mlp: int, dot: int, mixer: int, residual: int, hidden: int, narrow: int, compressed: int
) -> InteractionModule:
    """One level: `mlp`, `dot`, `mixer` and `residual` are output embeddings, `hidden` and `narrow` widths."""
    return InteractionModule(
        extractors=(
            Mlp(num_outputs=mlp, hidden=(hidden,)),
            DotCompression(num_outputs=dot, num_compressed=compressed, hidden=(narrow,)),
            MlpMixer(num_outputs=mixer, token_hidden=narrow, channel_hidden=narrow),
        ),
        residual=Residual(num_outputs=residual, hidden=(hidden // 2,)),
    )


def fb_ctr() -> Recipe:
    """603 sparse and 1000 dense user features, 160 GB of user tower, 390 MFLOP per inference, four modules.

    The world behind it is synthetic; its planning needs none of it.
    """
    return Recipe(
        name="fb_ctr",
        source=WORLD,
        tasks=(Task(name="click"),),
        schedule=Schedule(start=date(2026, 1, 1)),
        user_tower=UserTower(
            num_dense=16,
            modules=(
                _module(mlp=32, dot=32, mixer=32, residual=32, hidden=768, narrow=128, compressed=16),
                _module(mlp=16, dot=16, mixer=16, residual=16, hidden=1024, narrow=128, compressed=16),
                _module(mlp=8, dot=8, mixer=8, residual=8, hidden=1024, narrow=128, compressed=8),
                _module(mlp=4, dot=4, mixer=4, residual=4, hidden=1024, narrow=128, compressed=8),
            ),
        ),
        mix_tower=small_mix_tower(),
        batch_size=512,
    )


def fb_ctr_mini() -> Recipe:
    """The same features in small tables, and a tower of the paper's compact size (20 MFLOP, section 6.4)."""
    return replace(
        fb_ctr(),
        name="fb_ctr_mini",
        source=replace(
            WORLD,
            name="fb_ctr_mini",
            num_users=6_000,
            num_items=2_000,
            events_per_day=20_000,
            ids_per_list=4,
            vocabulary=1_000,
            rows_per_table=4_000,
        ),
        user_tower=UserTower(
            dim=16,
            num_dense=8,
            modules=(
                _module(mlp=16, dot=16, mixer=16, residual=16, hidden=384, narrow=48, compressed=8),
                _module(mlp=8, dot=8, mixer=8, residual=8, hidden=256, narrow=32, compressed=8),
                _module(mlp=4, dot=4, mixer=4, residual=4, hidden=256, narrow=32, compressed=4),
                _module(mlp=2, dot=2, mixer=2, residual=2, hidden=256, narrow=32, compressed=4),
            ),
        ),
        batch_size=256,
    )
