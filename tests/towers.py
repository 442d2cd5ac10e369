"""Small towers of every extractor, for the tests' recipes."""

from __future__ import annotations

from trainer.towers import DeepCross, DotCompression, InteractionModule, MixTower, Mlp, MlpMixer, Residual, UserTower

EXTRACTORS = (
    Mlp(num_outputs=2, hidden=(16,)),
    DotCompression(num_outputs=1, num_compressed=2, hidden=(8,)),
    DeepCross(num_outputs=1, num_compressed=2, num_layers=2),
    MlpMixer(num_outputs=1, token_hidden=8, channel_hidden=8),
)


def tiny_user_tower(*, dim: int) -> UserTower:
    """K = 2, two levels."""
    return UserTower(
        dim=dim,
        modules=(
            InteractionModule(extractors=EXTRACTORS, residual=Residual(num_outputs=2)),
            InteractionModule(extractors=EXTRACTORS[:2], residual=Residual(num_outputs=1, hidden=(8,))),
        ),
    )


def tiny_mix_tower() -> MixTower:
    """One layer."""
    return MixTower(layers=(EXTRACTORS[:2],), hidden=(32,))
