"""Embeddings whose space turns from day to day, more than the model's own does: what a consumer can bear.

What is turned holds the same as before: every version's vectors are multiplied by one orthogonal matrix, so a consumer
that knew it would lose nothing. What is blurred has the same cosine between days, but of noise that is each user's own.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from infra.experiments.lab import Computed
from snapshots.embeddings import fp16_exact

_TURN, _BLUR = 1, 2


@dataclass(kw_only=True)
class Turning:
    """Per day and embedding another rotation, each by the same angle in random planes after the one of the day
    before."""

    cosine: float
    """Between a vector and itself a day later."""
    seed: int

    def rotations(self, version: int, *, num: int, dim: int) -> NDArray[np.float64]:
        """Of a version, [K, D, D]; that of day 0 is the identity."""
        found = np.stack([np.eye(dim)] * num)
        for day in range(1, version + 1):
            rng = np.random.default_rng([_TURN, self.seed, day])
            found = np.stack([of @ _rotation(rng, dim, self.cosine) for of in found])
        return found

    def apply(self, computed: Computed, version: int) -> Computed:
        """What a snapshot would have given whose space has turned since day 0."""
        num, dim = computed.vectors.shape[1:]
        turned = np.einsum("nkd,kde->nke", computed.vectors, self.rotations(version, num=num, dim=dim))
        return replace(computed, vectors=fp16_exact(turned.astype(np.float32)))


def blur(computed: Computed, day: int, *, cosine: float, seed: int) -> Computed:
    """Noise in every vector, drawn anew each day, so that two days' noise alone leaves that cosine between them."""
    vectors = computed.vectors.astype(np.float64)
    rng = np.random.default_rng([_BLUR, seed, day])
    noise = rng.standard_normal(vectors.shape)
    lengths = np.linalg.norm(vectors, axis=2, keepdims=True)
    noise -= vectors * (noise * vectors).sum(axis=2, keepdims=True) / np.maximum(lengths, 1e-12) ** 2
    noise *= lengths / np.linalg.norm(noise, axis=2, keepdims=True)
    blurred = np.sqrt(cosine) * vectors + np.sqrt(1 - cosine) * noise
    return replace(computed, vectors=fp16_exact(blurred.astype(np.float32)))


def _rotation(rng: np.random.Generator, dim: int, cosine: float) -> NDArray[np.float64]:
    """[D, D], turning every vector by one angle: D / 2 random planes that are orthogonal to each other. An odd last
    dimension stays."""
    basis, _ = np.linalg.qr(rng.standard_normal((dim, dim)))
    turn, sine = np.eye(dim), np.sqrt(1 - cosine**2)
    for first in _even(dim):
        turn[first : first + 2, first : first + 2] = [[cosine, -sine], [sine, cosine]]
    rotation: NDArray[np.float64] = basis @ turn @ basis.T
    return rotation


def _even(dim: int) -> Iterable[int]:
    return range(0, dim - 1, 2)
