"""Towers for two cores, which the small recipes share."""

from __future__ import annotations

from trainer.towers import (
    DeepCross,
    DotCompression,
    InteractionModule,
    MixTower,
    Mlp,
    MlpMixer,
    PairwiseDots,
    Residual,
    UserTower,
)


def small_user_tower() -> UserTower:
    """Two modules of all four extractors, K = 2 outputs of D = 32."""
    return UserTower(
        dim=32,
        modules=(
            InteractionModule(
                extractors=(
                    Mlp(num_outputs=4, hidden=(512,)),
                    DotCompression(num_outputs=2, num_compressed=4, hidden=(64,)),
                    DeepCross(num_outputs=2, num_compressed=4, num_layers=2),
                    MlpMixer(num_outputs=2, token_hidden=32, channel_hidden=64),
                ),
                residual=Residual(num_outputs=4),
            ),
            InteractionModule(
                extractors=(
                    Mlp(num_outputs=2, hidden=(256,)),
                    DotCompression(num_outputs=1, num_compressed=4, hidden=(64,)),
                    DeepCross(num_outputs=1, num_compressed=4, num_layers=2),
                    MlpMixer(num_outputs=1, token_hidden=16, channel_hidden=64),
                ),
                residual=Residual(num_outputs=2),
            ),
        ),
    )


def small_mix_tower() -> MixTower:
    """One layer of pairwise dot products beside an MLP."""
    return MixTower(layers=((PairwiseDots(num_outputs=8), Mlp(num_outputs=4, hidden=(256,))),))


def large_mix_tower() -> MixTower:
    """Two layers of three extractors each and a representation of 64 numbers: dear for a request, not for a batch."""
    return MixTower(
        layers=(
            (
                PairwiseDots(num_outputs=8),
                Mlp(num_outputs=8, hidden=(512,)),
                DeepCross(num_outputs=4, num_compressed=8, num_layers=2),
            ),
            (
                PairwiseDots(num_outputs=8),
                Mlp(num_outputs=4, hidden=(256,)),
                DotCompression(num_outputs=4, num_compressed=8, hidden=(128,)),
            ),
        ),
        hidden=(256, 64),
    )
