"""Vectors and tables in fewer bits: how far they move, and what they take."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from infra.experiments.precision import STORAGES, in_steps, table_mib, with_tables
from tests.snapshots.world import make_tower, tiny_recipe

VECTORS = np.random.default_rng(0).normal(size=(50, 2, 16)).astype(np.float32)


@pytest.mark.parametrize("bits", [8, 4, 2])
def test_no_value_moves_by_more_than_half_a_step(bits: int) -> None:
    rounded = in_steps(VECTORS, bits=bits)
    largest = np.abs(VECTORS).max(axis=-1, keepdims=True)
    half = largest / (2**bits - 2)
    assert (np.abs(rounded - VECTORS) <= half * 1.0001).all()
    np.testing.assert_allclose(np.abs(rounded).max(axis=-1, keepdims=True), largest, rtol=1e-6)
    assert max(len(np.unique(vector)) for vector in rounded.reshape(-1, 16)) <= 2**bits - 1
    np.testing.assert_allclose(in_steps(rounded, bits=bits), rounded, atol=1e-6)


def test_a_vector_of_zeros_stays() -> None:
    assert not in_steps(np.zeros((3, 4), dtype=np.float32), bits=8).any()


@pytest.mark.parametrize(("name", "num_bytes"), [("fp32", 768), ("fp16", 384), ("int8", 200), ("int4", 104)])
def test_bytes_of_a_user(name: str, num_bytes: int) -> None:
    assert STORAGES[name].bytes_per_user(num_embeddings=2, dim=96) == num_bytes


def test_int8_tables_move_by_half_a_step_and_leave_the_tower_alone() -> None:
    tower = make_tower(tiny_recipe())
    assert tower.sparse.tables is not None
    before = [rows.detach().clone() for rows in tower.sparse.tables.parameters()]
    copy = with_tables(tower, "int8")
    assert copy.sparse.tables is not None
    for rows, moved, kept in zip(
        before, copy.sparse.tables.parameters(), tower.sparse.tables.parameters(), strict=True
    ):
        half = (rows.amax(dim=1) - rows.amin(dim=1)) / 255 / 2
        assert ((moved - rows).abs() <= half[:, None] * 1.001 + 1e-7).all()
        assert not torch.equal(moved, rows)
        assert torch.equal(kept, rows)
    assert table_mib(tower, "fp16") == table_mib(tower, "fp32") / 2
