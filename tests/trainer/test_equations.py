"""Each equation of section 3 against a plain NumPy transcription with the same weights.

The paper writes one example with embeddings as columns, X in R^{D x N}; so do the transcriptions.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import nn

from tests.towers import EXTRACTORS
from tests.trainer.planted import SCHEMA
from trainer import towers
from trainer.model.deep_cross import DeepCross
from trainer.model.dot_compression import DotCompression
from trainer.model.interaction import InteractionModule
from trainer.model.linear_compression import LinearCompression
from trainer.model.mix_tower import MixTower
from trainer.model.mlp import Mlp
from trainer.model.mlp_mixer import MlpMixer
from trainer.model.pairwise_dots import Dots, PairwiseDots
from trainer.model.user_tower import LARGEST, UserTower, bounded

Array = npt.NDArray[np.float64]
B, N, D, DENSE = 5, 7, 4, 2


def inputs(num_inputs: int = N, num_dense: int = DENSE) -> tuple[torch.Tensor, torch.Tensor]:
    """X [B, N, D], whose last embeddings are X_dense [B, N_dense, D]."""
    x = torch.tensor(np.random.default_rng(0).normal(size=(B, num_inputs, D)))
    return x, x[:, num_inputs - num_dense :]


def check(module: nn.Module, expected: list[Array], x: torch.Tensor, dense: torch.Tensor) -> None:
    """The module gives `expected`, one [D, M] array per example."""
    found = module(x, dense).detach().numpy()
    np.testing.assert_allclose(found, np.stack([array.T for array in expected]), rtol=1e-9, atol=1e-12)


def randomised(module: nn.Module) -> nn.Module:
    """In float64, every weight random: biases and norms too."""
    generator = torch.Generator().manual_seed(1)
    module.double()
    for parameter in module.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
    return module


def weight(module: nn.Module) -> Array:
    return module.weight.detach().numpy()


def linear(layer: nn.Module, h: Array) -> Array:
    return weight(layer) @ h + layer.bias.detach().numpy()


def relu(h: Array) -> Array:
    return np.maximum(h, 0)


def mlp(layers: nn.Sequential, h: Array) -> Array:
    """Linear layers with ReLU between them."""
    for index in range(0, len(layers) - 1, 2):
        h = relu(linear(layers[index], h))
    return linear(layers[-1], h)


def layer_norm(norm: nn.LayerNorm, x: Array) -> Array:
    """Over the D rows of each column."""
    normed = (x - x.mean(axis=0)) / np.sqrt(x.var(axis=0) + norm.eps)
    return normed * weight(norm)[:, None] + norm.bias.detach().numpy()[:, None]


def flat(x: Array) -> Array:
    """Embedding after embedding."""
    return x.T.reshape(-1)


def unflat(h: Array, num: int) -> Array:
    """The inverse: [D, num]."""
    return h.reshape(num, -1).T


def examples(x: torch.Tensor, dense: torch.Tensor) -> Iterator[tuple[Array, Array]]:
    """(X in R^{D x N}, X_dense in R^{D x N_dense}) of each example."""
    for one, of_dense in zip(x.numpy(), dense.numpy(), strict=True):
        yield one.T, of_dense.T


def np_mlp(module: nn.Module, x: Array, x_dense: Array) -> Array:
    hidden = mlp(module.layers, flat(x))
    return unflat(hidden, hidden.size // len(x))


def np_dot_compression(module: nn.Module, x: Array, x_dense: Array) -> Array:
    """Eq. 2-4."""

    def branch(of: nn.Module) -> Array:
        lc_x = x @ weight(of.sparse).T  # weighted sums of the embeddings
        lc_dense = [linear(of.dense, flat(x_dense))] if of.dense is not None else []
        return mlp(of.layers, np.concatenate([*lc_dense, flat(lc_x)]))

    y = branch(module.attention).reshape(len(x), -1)  # [D, M]
    z = branch(module.residual).reshape(x.shape[1], -1)  # [N, M]
    return x @ (x.T @ y + z)


def np_deep_cross(module: nn.Module, x: Array, x_dense: Array) -> Array:
    """Eq. 5 over X_0, the compressed and flattened input."""
    first = flat(x @ weight(module.compress).T)
    crossed = first
    for layer in module.layers:
        crossed = first * linear(layer, crossed) + crossed
    return unflat(crossed, first.size // len(x)) @ weight(module.output).T


def np_mlp_mixer(module: nn.Module, x: Array, x_dense: Array) -> Array:
    """Eq. 6-7: W_1 and W_2 mix the N columns (tokens), W_3 and W_4 the D rows (channels)."""
    y = x + (weight(module.w2) @ relu(weight(module.w1) @ layer_norm(module.token_norm, x).T)).T
    z = y + weight(module.w4) @ relu(weight(module.w3) @ layer_norm(module.channel_norm, y))
    return z @ weight(module.output).T


def np_pairwise_dots(module: nn.Module, x: Array, x_dense: Array) -> Array:
    """DLRM's interaction: all dot products of two different embeddings."""
    dots = [x[:, i] @ x[:, j] / np.sqrt(len(x)) for i in range(x.shape[1]) for j in range(i)]
    mixed = linear(module.project, np.array(dots))
    return unflat(mixed, mixed.size // len(x))


TRANSCRIBED = {
    Mlp: np_mlp,
    DotCompression: np_dot_compression,
    DeepCross: np_deep_cross,
    MlpMixer: np_mlp_mixer,
    PairwiseDots: np_pairwise_dots,
}


def np_interaction(module: nn.Module, x: Array, x_dense: Array) -> Array:
    """Parallel extractors, concatenated."""
    normed = layer_norm(module.norm, x)
    outputs = [TRANSCRIBED[type(extractor)](extractor, normed, x_dense) for extractor in module.extractors]
    return np.concatenate(outputs, axis=1)


def np_level(module: nn.Module, x: Array, x_dense: Array) -> Array:
    """Eq. 1: X_n = Concat(Interaction(X_{n-1}), X_dense, Residual(X_{n-1}))."""
    parts = [np_interaction(module.interaction, x, x_dense), x_dense]
    if module.residual is not None:
        parts.append(np_mlp(module.residual, x, x_dense))
    return np.concatenate(parts, axis=1)


@pytest.mark.parametrize("num_outputs", [1, 3])
@pytest.mark.parametrize("num_dense", [0, DENSE], ids=["no-dense", "dense"])
@pytest.mark.parametrize("hidden", [(), (6,), (6, 5)], ids=["linear", "one-hidden", "two-hidden"])
def test_dot_compression_is_equations_2_to_4(num_outputs: int, num_dense: int, hidden: tuple[int, ...]) -> None:
    config = towers.DotCompression(num_outputs=num_outputs, num_compressed=3, hidden=hidden)
    module = randomised(DotCompression(config, num_inputs=N, dim=D, num_dense=num_dense))
    x, dense = inputs(num_dense=num_dense)
    check(module, [np_dot_compression(module, *example) for example in examples(x, dense)], x, dense)


@pytest.mark.parametrize("num_layers", [1, 3])
def test_the_deep_cross_net_is_equation_5(num_layers: int) -> None:
    config = towers.DeepCross(num_outputs=2, num_compressed=3, num_layers=num_layers)
    module = randomised(DeepCross(config, num_inputs=N, dim=D))
    x, dense = inputs()
    check(module, [np_deep_cross(module, *example) for example in examples(x, dense)], x, dense)


def test_the_mlp_mixer_is_equations_6_and_7() -> None:
    module = randomised(MlpMixer(towers.MlpMixer(num_outputs=2, token_hidden=3, channel_hidden=6), num_inputs=N, dim=D))
    x, dense = inputs()
    check(module, [np_mlp_mixer(module, *example) for example in examples(x, dense)], x, dense)


def test_pairwise_dots_are_those_of_dlrm() -> None:
    module = randomised(PairwiseDots(towers.PairwiseDots(num_outputs=2), num_inputs=N, dim=D))
    x, dense = inputs()
    check(module, [np_pairwise_dots(module, *example) for example in examples(x, dense)], x, dense)


def test_the_dots_gradient_is_that_of_finite_differences() -> None:
    x, _ = inputs()
    assert torch.autograd.gradcheck(Dots(N), (x.requires_grad_(),))


def test_the_mlp_sees_all_embeddings_at_once() -> None:
    module = randomised(Mlp(towers.Mlp(num_outputs=2, hidden=(6,)), num_inputs=N, dim=D))
    x, dense = inputs()
    check(module, [np_mlp(module, *example) for example in examples(x, dense)], x, dense)


def test_linear_compression_is_a_set_of_weighted_sums() -> None:
    module = randomised(LinearCompression(N, 3))
    x, _ = inputs()
    expected = [
        sum(w * column for w, column in zip(row, one, strict=True)) for one in x.numpy() for row in weight(module)
    ]
    np.testing.assert_allclose(module(x).detach().numpy().reshape(-1, D), expected)


ORDERS = {
    "all": EXTRACTORS,
    "reversed": EXTRACTORS[::-1],
    **{extractor.kind: (extractor,) for extractor in EXTRACTORS},
}


@pytest.mark.parametrize("extractors", ORDERS.values(), ids=ORDERS)
@pytest.mark.parametrize(
    "residual", [None, towers.Residual(num_outputs=2, hidden=(3,))], ids=["no-residual", "residual"]
)
def test_a_level_is_equation_1(extractors: tuple[towers.Extractor, ...], residual: towers.Residual | None) -> None:
    config = towers.InteractionModule(extractors=extractors, residual=residual)
    module = randomised(InteractionModule(config, num_inputs=N, dim=D, num_dense=DENSE))
    x, dense = inputs()
    check(module, [np_level(module, *example) for example in examples(x, dense)], x, dense)
    assert module(x, dense).shape == (B, config.num_outputs + DENSE, D)


def test_the_pyramid_stacks_equation_1() -> None:
    config = towers.UserTower(
        dim=D,
        num_dense=DENSE,
        modules=tuple(
            towers.InteractionModule(extractors=EXTRACTORS[:count], residual=towers.Residual(num_outputs=1))
            for count in (4, 2, 1)
        ),
    )
    tower = randomised(UserTower(SCHEMA, config))
    sparse, dense = inputs(num_inputs=3, num_dense=0)[0], inputs(num_inputs=DENSE)[1]
    expected = []
    for x_sparse, x_dense in examples(sparse, dense):
        x = np.concatenate([x_sparse, x_dense], axis=1)
        for level in tower.levels:
            x = np_level(level, x, x_dense)
        last = linear(tower.output, flat(x)).reshape(2, D)
        expected.append(last / np.sqrt(1 + (last**2).mean(axis=1, keepdims=True) / LARGEST**2))
    np.testing.assert_allclose(tower.compress(sparse, dense).detach().numpy(), expected, rtol=1e-9)


def test_short_embeddings_stay_and_long_ones_are_bounded() -> None:
    direction = torch.tensor(np.random.default_rng(2).normal(size=(1, D)))
    direction /= direction.square().mean().sqrt()
    torch.testing.assert_close(bounded(0.01 * direction), 0.01 * direction, rtol=1e-4, atol=0.0)
    torch.testing.assert_close(bounded(1e6 * direction), LARGEST * direction)


def test_the_mix_tower_sees_users_through_their_embeddings_alone() -> None:
    names = [
        name
        for name, _ in MixTower(
            SCHEMA, towers.MixTower(layers=(EXTRACTORS[:2],)), num_user_embeddings=2, dim=D, num_tasks=1
        ).named_parameters()
        if "embedding_bags" in name
    ]
    assert names == ["sparse.tables.embedding_bags.item_topic.weight", "sparse.tables.embedding_bags.item_item.weight"]


@pytest.mark.parametrize(
    ("build", "message"),
    [
        pytest.param(lambda: towers.Mlp(num_outputs=0, hidden=()), "Mlp: num_outputs is 0", id="no-output"),
        pytest.param(lambda: towers.Mlp(num_outputs=1, hidden=(4, 0)), r"Mlp: hidden is \(4, 0\)", id="no-width"),
        pytest.param(lambda: towers.InteractionModule(extractors=(), residual=None), "no feature extractor", id="none"),
        pytest.param(lambda: towers.MixTower(layers=((),)), "no feature extractor", id="empty-layer"),
        pytest.param(lambda: towers.UserTower(modules=()), "no interaction module", id="no-module"),
        pytest.param(
            lambda: towers.UserTower(dim=6, modules=(towers.InteractionModule(extractors=EXTRACTORS, residual=None),)),
            "dim is 6",
            id="odd-dim",
        ),
        pytest.param(
            lambda: towers.UserTower(
                modules=tuple(
                    towers.InteractionModule(extractors=EXTRACTORS[:count], residual=None) for count in (1, 4)
                )
            ),
            r"give \[2, 5\] embeddings; a pyramid does not widen",
            id="widening",
        ),
    ],
)
def test_what_makes_no_tower_is_refused(build: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build()  # type: ignore[operator]
