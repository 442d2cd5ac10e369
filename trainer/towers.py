"""The shape of the two towers (section 3): what a recipe chooses, and in what order.

Light to import: DAG files read recipes at parse time. The layers themselves are in `trainer.model`.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Literal


def _check_sizes(config: object) -> None:
    """ValueError unless every size is at least 1."""
    for size in fields(config):  # type: ignore[arg-type]
        value = getattr(config, size.name)
        for part in value if isinstance(value, tuple) else (value,):
            if isinstance(part, int) and part < 1:
                raise ValueError(f"{type(config).__name__}: {size.name} is {value}; sizes are at least 1")


@dataclass(frozen=True, kw_only=True)
class Mlp:
    """General nonlinear low-level implicit representations: N x D -> hidden -> outputs x D."""

    num_outputs: int
    hidden: tuple[int, ...]
    kind: Literal["mlp"] = "mlp"

    def __post_init__(self) -> None:
        _check_sizes(self)


@dataclass(frozen=True, kw_only=True)
class DotCompression:
    """Dot compression with attention (Eq. 2-4). num_compressed: embeddings that LC(X) and LC(X_dense) give."""

    num_outputs: int
    num_compressed: int
    hidden: tuple[int, ...]
    kind: Literal["dot_compression"] = "dot_compression"

    def __post_init__(self) -> None:
        _check_sizes(self)


@dataclass(frozen=True, kw_only=True)
class DeepCross:
    """Deep cross net (Eq. 5) of `num_layers` cross layers. X_0 is `num_compressed` weighted sums of the input."""

    num_outputs: int
    num_compressed: int
    num_layers: int
    kind: Literal["deep_cross"] = "deep_cross"

    def __post_init__(self) -> None:
        _check_sizes(self)


@dataclass(frozen=True, kw_only=True)
class MlpMixer:
    """MLP-mixer (Eq. 6-7): token mixing of width `token_hidden`, channel mixing of width `channel_hidden`."""

    num_outputs: int
    token_hidden: int
    channel_hidden: int
    kind: Literal["mlp_mixer"] = "mlp_mixer"

    def __post_init__(self) -> None:
        _check_sizes(self)


@dataclass(frozen=True, kw_only=True)
class PairwiseDots:
    """The dot products of all pairs, as in DLRM and in DHEN's layers; no extractor of the paper's user tower."""

    num_outputs: int
    kind: Literal["pairwise_dots"] = "pairwise_dots"

    def __post_init__(self) -> None:
        _check_sizes(self)


Extractor = Mlp | DotCompression | DeepCross | MlpMixer | PairwiseDots


@dataclass(frozen=True, kw_only=True)
class Residual:
    """The Residual Module of Eq. 1, an MLP: N x D -> hidden -> outputs x D; without `hidden` it is linear."""

    num_outputs: int
    hidden: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        _check_sizes(self)


@dataclass(frozen=True, kw_only=True)
class InteractionModule:
    """One level of Eq. 1: extractors side by side, in this order, then X_dense and the residual."""

    extractors: tuple[Extractor, ...]
    residual: Residual | None

    def __post_init__(self) -> None:
        if not self.extractors:
            raise ValueError("an interaction module has no feature extractor; name at least one")

    @property
    def num_outputs(self) -> int:
        """Embeddings of the level, X_dense not counted."""
        residual = self.residual.num_outputs if self.residual else 0
        return sum(extractor.num_outputs for extractor in self.extractors) + residual


@dataclass(frozen=True, kw_only=True)
class UserTower:
    """Section 3.2: N_0 initial embeddings of dimension D, through a pyramid of interaction modules, to K of D.

    Section 5.3: K = 2, D = 96.
    """

    modules: tuple[InteractionModule, ...]
    num_embeddings: int = 2
    """K."""
    dim: int = 96
    """D: of the tables' rows, of every embedding in between, and of the outputs."""
    num_dense: int = 4
    """N_dense: the embeddings that the dense features are projected to."""

    def __post_init__(self) -> None:
        _check_sizes(self)
        if self.dim % 4:
            raise ValueError(f"user tower dim is {self.dim}; embedding kernels need a multiple of 4")
        if not self.modules:
            raise ValueError("the user tower has no interaction module; it needs at least one (Eq. 1)")
        widths = [module.num_outputs for module in self.modules]
        if widths != sorted(widths, reverse=True):
            raise ValueError(f"the user tower's modules give {widths} embeddings; a pyramid does not widen")

    def without(self, kind: type[Extractor]) -> UserTower:
        """The tower without its extractors of `kind`."""
        return replace(
            self,
            modules=tuple(
                replace(module, extractors=tuple(one for one in module.extractors if not isinstance(one, kind)))
                for module in self.modules
            ),
        )


@dataclass(frozen=True, kw_only=True)
class MixTower:
    """Section 3.3, DHEN-style: layers of parallel extractors over the user embeddings and the item side."""

    layers: tuple[tuple[Extractor, ...], ...] = ()
    hidden: tuple[int, ...] = (256, 128)
    """Of the MLP from the last layer to the logits."""

    def __post_init__(self) -> None:
        if not all(self.layers):
            raise ValueError("a layer of the mix tower has no feature extractor; name at least one, or no layer")
