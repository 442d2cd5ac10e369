"""The same bits as one worker that holds everything, for any number of shards."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
import pytest
import torch

from features.batches import Batch
from infra.settings import Settings
from serving.shards.client import ShardError
from serving.shards.sharded_snapshot import embedders, load_sharded
from snapshots.export import Snapshot, load_snapshot
from snapshots.seal import DamagedError
from tests.serving.shards.world import MODEL, Sealed, addresses, batch, connected, seal, serving
from tests.snapshots.world import TinySource

SCHEMA = TinySource().schema
WIDE = replace(SCHEMA, tables=tuple(replace(table, num_rows=5_000) for table in SCHEMA.tables))
BATCHES = [(1, 4), (1, 0), (2, 4), (3, 0), (50, 4), (64, 1), (512, 12)]
"""Users, and their longest list."""


@dataclass(frozen=True, kw_only=True)
class OneWorker:
    """A worker that holds the whole tables. vectors: of each batch."""

    settings: Settings
    sealed: Sealed
    whole: Snapshot
    vectors: list[tuple[Batch, torch.Tensor]]


@pytest.fixture(scope="module", params=["fp32", "fp16", "int8"])
def one_worker(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> OneWorker:
    """Sealed tables in each precision, those of int8 with an alignment, and what one worker makes of some users."""
    settings = Settings(home=tmp_path_factory.mktemp("sealed"), _env_file=None)
    sealed = seal(settings, tables=request.param, aligned=request.param == "int8", schema=WIDE)
    whole, batches = load_snapshot(sealed.folder), [batch(WIDE, users, longest=longest) for users, longest in BATCHES]
    with torch.inference_mode():
        return OneWorker(settings=settings, sealed=sealed, whole=whole, vectors=[(b, whole.embed(b)) for b in batches])


@pytest.mark.parametrize("num_shards", [1, 2, 3, 4])
def test_the_bits_of_one_worker(one_worker: OneWorker, num_shards: int) -> None:
    whole = one_worker.whole
    with serving(one_worker.settings, num_shards) as servers, connected(servers) as shards, torch.inference_mode():
        sharded = load_sharded(one_worker.sealed.folder, shards=shards)
        for users, expected in one_worker.vectors:
            assert torch.equal(sharded.embed(users), expected)
        assert not {"tables", "tables.scale", "tables.offset"} & sharded.weights.keys()
        _require_equal_shares(shards.status(), whole.weights)


def test_threads_share_the_connections(one_worker: OneWorker) -> None:
    with serving(one_worker.settings, 2) as servers, connected(servers) as shards, ThreadPoolExecutor(4) as threads:
        sharded = load_sharded(one_worker.sealed.folder, shards=shards)
        for found, (_, expected) in zip(
            threads.map(lambda one: sharded.embed(one[0]), one_worker.vectors * 3), one_worker.vectors * 3, strict=True
        ):
            assert torch.equal(found, expected)


def _require_equal_shares(status: list[dict[str, object]], weights: dict[str, torch.Tensor]) -> None:
    """Each holds 1/N of the tables' bytes, to a row."""
    tables = [weights[name] for name in weights if name.startswith("tables")]
    held = [sum(one["bytes"].values()) for one in status]  # type: ignore[attr-defined]
    assert sum(held) == sum(table.nbytes for table in tables)
    assert max(held) - min(held) <= sum(table[0].nbytes for table in tables)


def test_a_tower_without_tables(settings: Settings) -> None:
    schema = replace(SCHEMA, sparse=SCHEMA.sparse[2:])
    sealed = seal(settings, schema=schema)
    whole, users = load_snapshot(sealed.folder), batch(schema, 40)
    with serving(settings, 2) as servers, connected(servers) as shards, torch.inference_mode():
        assert torch.equal(load_sharded(sealed.folder, shards=shards).embed(users), whole.embed(users))


def test_more_shards_than_rows(settings: Settings) -> None:
    few = replace(SCHEMA, tables=(replace(SCHEMA.tables[0], num_rows=2), SCHEMA.tables[1]))
    sealed = seal(settings, schema=few)
    whole, users = load_snapshot(sealed.folder), batch(few, 9)
    with serving(settings, 3) as servers, connected(servers) as shards, torch.inference_mode():
        assert torch.equal(load_sharded(sealed.folder, shards=shards).embed(users), whole.embed(users))
        assert [sum(one["bytes"].values()) for one in shards.status()] == [32, 32, 0]


def test_a_setting_says_which_models_lie_with_shards(settings: Settings) -> None:
    sealed = seal(settings)
    rows = pa.table(
        {"user_id": [1, 2], "liked": [[5, 6], []], "seen": [[7], [8, 9]], "age": pa.array([30, 40], pa.float32())}
    )
    with serving(settings, 2) as servers:
        given = settings.model_copy(update={"serving_shards": f"other=a:1 {MODEL}={','.join(addresses(servers))}"})
        made = [embedders(found)(sealed.folder, sealed.manifest_sha256) for found in (given.shards(), {})]
        assert [list(server.held.num_bytes()) for server in servers] == [[sealed.manifest_sha256]] * 2
        assert np.array_equal(*(embedder.embed(rows) for embedder in made))


@pytest.mark.parametrize("text", ["demo", "=a:1", "demo=", "demo=a", "demo=a:1,", "demo=a:1,b"])
def test_a_setting_that_names_no_shards(settings: Settings, text: str) -> None:
    with pytest.raises(ValueError, match=r"USERMODEL_SERVING_SHARDS has 'demo|USERMODEL_SERVING_SHARDS has '=a"):
        settings.model_copy(update={"serving_shards": text}).shards()


def test_both_versions_of_a_swap_are_served(settings: Settings) -> None:
    old, new = seal(settings), seal(settings, day=1)
    users = batch(SCHEMA, 20)
    with serving(settings, 2) as servers, connected(servers) as shards, torch.inference_mode():
        before = load_sharded(old.folder, shards=shards)
        after = load_sharded(new.folder, shards=shards)
        assert [len(one["bytes"]) for one in shards.status()] == [2, 2]
        assert torch.equal(before.embed(users), load_snapshot(old.folder).embed(users))
        for server in servers:
            server.held.keep_seconds = 0.0
        assert torch.equal(after.embed(users), load_snapshot(new.folder).embed(users))
        assert [list(one["bytes"]) for one in shards.status()] == [[new.manifest_sha256]] * 2, "the old one is let go"
        with pytest.raises(ShardError, match="is loading version"):
            before.embed(users)
        shards.load(old.manifest_sha256)
        assert torch.equal(before.embed(users), load_snapshot(old.folder).embed(users))


def test_another_manifest_is_not_served(settings: Settings) -> None:
    sealed = seal(settings)
    with serving(settings, 1) as servers, connected(servers) as shards:
        with pytest.raises(DamagedError, match="registered was"):
            load_sharded(sealed.folder, manifest_sha256="0" * 64, shards=shards)
        with pytest.raises(ValueError, match="lie with shards"):
            load_sharded(sealed.folder, shards=shards).to(torch.device("cuda"))
