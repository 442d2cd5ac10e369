"""What is sealed is what is run: parity with training, without our code, and nothing but a graph and its weights."""

from __future__ import annotations

import json
import pickle  # noqa: TID251  what an attacker would write
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from features.batches import Batch, Encoder
from features.fingerprint import file_sha256
from features.id_map import IdMap
from features.lake import Lake
from features.schema import DenseFeature, Managed, Schema, SparseFeature, Table
from infra.settings import REPOSITORY, Settings, child_environment
from snapshots.aligned import DayAlignment, read_alignment
from snapshots.export import CONTRACT, GRAPH, WEIGHTS, Snapshot, export_day, load_snapshot, read_contract
from snapshots.graph import ALIGNMENT
from snapshots.graph_file import load_graph
from snapshots.seal import MANIFEST, DamagedError
from tests.snapshots.world import DAYS, TinySource, commit_users, make_tower, tiny_recipe
from tests.towers import EXTRACTORS
from trainer.model.user_tower import UserTower
from trainer.recipe import Export, Recipe
from trainer.towers import InteractionModule, Residual

SCHEMA = TinySource().schema
LEAST_COSINE = {"fp32": 1 - 1e-6, "fp16": 1 - 1e-5, "int8": 0.999}
"""Of an embedding with the trained weights and with the sealed ones: the bound that the README states."""


def _recipe(schema: Schema = SCHEMA, *, tables: str = "fp32", kind: str = "all") -> Recipe:
    recipe = tiny_recipe()
    tower = recipe.user_tower
    if kind != "all":
        chosen = [one for one in EXTRACTORS if one.kind == kind] or [EXTRACTORS[0]]
        residual = Residual(num_outputs=2, hidden=(8,)) if kind == "residual" else None
        tower = replace(tower, modules=(InteractionModule(extractors=tuple(chosen), residual=residual),))
    return replace(
        recipe, source=TinySource(schema=schema), user_tower=tower, export=Export(tables=tables)  # type: ignore[arg-type]
    )  # fmt: skip


def _sealed(recipe: Recipe, settings: Settings, **given: object) -> tuple[Path, UserTower]:
    tower = make_tower(recipe)
    options = {"fingerprint": "f" * 64, "maps": {}, "settings": settings, **given}
    folder, _ = export_day(recipe, DAYS[0], make_tower=lambda: tower, **options)  # type: ignore[arg-type]
    return folder, tower


def _batch(schema: Schema, num_rows: int, *, longest: int = 4, maps: dict[str, IdMap] | None = None) -> Batch:
    """Lists of 0 to `longest` ids."""
    import pyarrow as pa

    rng = np.random.default_rng([num_rows, longest])
    columns: dict[str, object] = {"user_id": list(range(num_rows))}
    for feature in schema.sparse_of("user"):
        lists = [rng.integers(0, 10**6, rng.integers(0, longest + 1)).tolist() for _ in range(num_rows)]
        columns[feature.name] = pa.array(lists, pa.list_(pa.int64()))
    for dense in schema.dense_of("user"):
        columns[dense.name] = pa.array(rng.random(num_rows), pa.float32())
    return Encoder(schema, sides=("user",), maps=maps).encode(pa.table(columns))


def _both(snapshot: Snapshot, tower: UserTower, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
    with torch.inference_mode():
        return snapshot.embed(batch), tower(batch.user_sparse, batch.user_dense)


def _require_same(found: torch.Tensor, expected: torch.Tensor) -> None:
    """Bit for bit; for a single user matrix products may add in another order."""
    if len(found) > 1:
        assert torch.equal(found, expected)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", ["all", "mlp", "dot_compression", "deep_cross", "mlp_mixer", "residual"])
def test_every_block_gives_the_trained_bits(settings: Settings, kind: str) -> None:
    recipe = _recipe(kind=kind)
    folder, tower = _sealed(recipe, settings)
    snapshot = load_snapshot(folder)
    for batch in (_batch(SCHEMA, 50), _batch(SCHEMA, 1), _batch(SCHEMA, 3, longest=0), _batch(SCHEMA, 1, longest=1)):
        found, expected = _both(snapshot, tower, batch)
        assert found.shape == (len(batch.weights), 2, 8)
        _require_same(found, expected)


@pytest.mark.parametrize(
    "schema",
    [
        pytest.param(replace(SCHEMA, dense=()), id="no dense"),
        pytest.param(replace(SCHEMA, sparse=SCHEMA.sparse[2:]), id="no sparse"),
        pytest.param(replace(SCHEMA, sparse=SCHEMA.sparse[1:]), id="one list"),
        pytest.param(
            replace(SCHEMA, sparse=(SparseFeature(name="home", table="places"), *SCHEMA.sparse)), id="tables in turns"
        ),
        pytest.param(replace(SCHEMA, dense=(*SCHEMA.dense, DenseFeature(name="speed"))), id="two dense"),
    ],
)
def test_every_kind_of_schema_gives_the_trained_bits(settings: Settings, schema: Schema) -> None:
    folder, tower = _sealed(_recipe(schema), settings)
    snapshot = load_snapshot(folder)
    for num_rows in (1, 2, 40):
        _require_same(*_both(snapshot, tower, _batch(schema, num_rows)))


@pytest.mark.parametrize("tables", list(LEAST_COSINE))
def test_quantised_tables_stay_within_their_bound(settings: Settings, tables: str) -> None:
    folder, tower = _sealed(_recipe(tables=tables), settings)
    snapshot, batch = load_snapshot(folder), _batch(SCHEMA, 500)
    found, expected = _both(snapshot, tower, batch)
    cosine = torch.cosine_similarity(found, expected, dim=-1)
    assert cosine.min() >= LEAST_COSINE[tables]
    torch.testing.assert_close(found.norm(dim=-1), expected.norm(dim=-1), rtol=0.02, atol=0)
    kept = snapshot.weights["tables"]
    trained = tower.sparse.tables.embedding_bags["user_topics"].weight
    rows = kept.float()
    if tables == "int8":
        assert kept.dtype == torch.uint8
        scale = snapshot.weights["tables.scale"][:, None]
        rows = rows * scale + snapshot.weights["tables.offset"][:, None]
        assert ((rows - trained).abs() <= scale * 0.5001).all(), "half a step at most"
    else:
        assert torch.equal(rows, trained.half().float() if tables == "fp16" else trained)
    assert snapshot.contract.num_bytes == sum(one.nbytes for one in snapshot.weights.values())


def test_a_row_of_equal_values_is_exact_in_int8(settings: Settings) -> None:
    recipe = _recipe(tables="int8")
    tower = make_tower(recipe)
    with torch.no_grad():
        tower.sparse.tables.embedding_bags["user_topics"].weight.fill_(0.3)
    folder, _ = export_day(recipe, DAYS[0], fingerprint="f" * 64, make_tower=lambda: tower, maps={}, settings=settings)
    assert torch.equal(*_both(load_snapshot(folder), tower, _batch(SCHEMA, 20)))


def test_a_weight_beyond_float16_is_named(settings: Settings) -> None:
    recipe = _recipe(tables="fp16")
    tower = make_tower(recipe)
    with torch.no_grad():
        tower.sparse.tables.embedding_bags["user_topics"].weight[3, 3] = 1e6
    with pytest.raises(ValueError, match=r"1000000\.0, more than a float16 can"):
        export_day(recipe, DAYS[0], fingerprint="f" * 64, make_tower=lambda: tower, maps={}, settings=settings)


def test_an_alignment_is_the_last_step(settings: Settings) -> None:
    rng = np.random.default_rng(0)
    rotation = np.linalg.qr(rng.normal(size=(16, 16)))[0].astype(np.float32)
    document = DayAlignment(kind="procrustes")
    folder, tower = _sealed(_recipe(), settings, align=lambda _: (document, rotation))
    assert read_alignment(folder) == document
    snapshot, batch = load_snapshot(folder), _batch(SCHEMA, 30)
    found, plain = _both(snapshot, tower, batch)
    torch.testing.assert_close(found.reshape(30, 16), plain.reshape(30, 16) @ torch.from_numpy(rotation))
    assert snapshot.contract.aligned
    assert torch.equal(snapshot.weights[ALIGNMENT], torch.from_numpy(rotation))


@pytest.mark.parametrize("wrong", [np.eye(8, dtype=np.float32), np.eye(16), np.full((16, 16), np.nan, np.float32)])
def test_an_alignment_that_does_not_fit_is_refused(settings: Settings, wrong: np.ndarray) -> None:
    with pytest.raises(ValueError, match=r"float32 \[K \* D, K \* D\]"):
        _sealed(_recipe(), settings, align=lambda _: (DayAlignment(kind="procrustes"), wrong))


@pytest.mark.parametrize("tables", ["fp32", "int8"])
def test_the_graph_has_no_place_of_its_own(settings: Settings, tables: str) -> None:
    """On another device nothing is left behind on the CPU (shown on `meta`, which computes shapes alone)."""
    folder, _ = _sealed(_recipe(tables=tables), settings)
    snapshot = load_snapshot(folder)
    meta = torch.device("meta")
    found = snapshot.to(meta)(*(one.to(meta) for one in snapshot.inputs(_batch(SCHEMA, 6))))
    assert (found.device, found.shape) == (meta, (6, 2, 8))


STRANGER = """
import builtins, json, sys

plain_import = builtins.__import__

def only_theirs(name, *args, **kwargs):
    if name.split(".")[0] in {"torchrec", "fbgemm_gpu", "features", "trainer", "snapshots", "infra", "dags"}:
        raise ImportError(f"a stranger has no {name}")
    return plain_import(name, *args, **kwargs)

builtins.__import__ = only_theirs
import torch
from safetensors.torch import load_file

folder = sys.argv[1]
contract = json.load(open(f"{folder}/contract.json"))
weights = load_file(f"{folder}/user_tower.safetensors")
graph = torch.export.load(f"{folder}/user_tower.pt2").module()
users = json.load(open(sys.argv[2]))

def mixed(h):
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB), (31, 1)):
        h = ((h ^ (h >> shift)) * factor) % 2**64
    return h

tables = {table["name"]: table for table in contract["schema"]["tables"]}
rows, offsets = [], [0]
for feature in contract["schema"]["sparse"]:
    table = tables[feature["table"]]
    for user in users:
        rows += [contract["first_rows"][table["name"]] + mixed(i) % table["num_rows"] for i in user[feature["name"]]]
        offsets.append(len(rows))
dense = torch.tensor([[user[one["name"]] for one in contract["schema"]["dense"]] for user in users])
transforms = [one["transform"] for one in contract["schema"]["dense"]]
assert transforms == ["log1p"]
found = graph(
    [weights[w["name"]] for w in contract["weights"]],
    torch.tensor(rows), torch.tensor(offsets), torch.log1p(dense),
)
print(json.dumps(found.tolist()))
"""


def test_a_stranger_runs_it_by_the_contract_alone(settings: Settings, lake: Lake, tmp_path: Path) -> None:
    folder, tower = _sealed(_recipe(), settings)
    users = lake.read(commit_users(lake, DAYS[0], range(5)))
    columns = [feature.name for feature in (*SCHEMA.sparse_of("user"), *SCHEMA.dense)]
    (tmp_path / "users.json").write_text(json.dumps(users.select(columns).to_pylist()))
    (tmp_path / "stranger.py").write_text(STRANGER)
    done = subprocess.run(
        [sys.executable, "-W", "error::DeprecationWarning:__main__", "stranger.py", str(folder), "users.json"],
        cwd=tmp_path, capture_output=True, text=True, check=False, env=child_environment(OMP_NUM_THREADS="1"),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    batch = Encoder(SCHEMA, sides=("user",)).encode(users)
    with torch.inference_mode():
        expected = tower(batch.user_sparse, batch.user_dense)
    torch.testing.assert_close(torch.tensor(json.loads(done.stdout)), expected, rtol=1e-5, atol=1e-6)


def test_managed_ids_are_found_by_the_map(settings: Settings) -> None:
    schema = replace(SCHEMA, tables=(Table(name="topics", num_rows=50, ids=Managed(overflow_rows=2)), SCHEMA.tables[1]))
    ids = np.arange(10, dtype=np.int64)
    id_map = IdMap(day=1, ids=ids, rows=ids[::-1].copy(), seen=ids * 0 + 1, since=ids * 0, weights=np.ones(10))
    folder, tower = _sealed(_recipe(schema), settings, maps={"topics": id_map})
    assert (folder / "ids.topics.parquet").is_file()
    assert "ids.<table>.parquet" in read_contract(folder).how["managed"]
    batch = _batch(schema, 20, maps={"topics": id_map})
    assert torch.equal(*_both(load_snapshot(folder), tower, batch))


def test_the_graph_file_holds_no_pickle_and_nothing_of_this_machine(settings: Settings) -> None:
    folder, _ = _sealed(_recipe(tables="int8"), settings)
    with zipfile.ZipFile(folder / GRAPH) as archive:
        entries = {name.partition("/")[2]: archive.read(name) for name in archive.namelist()}
    assert entries["data/sample_inputs/model.pt"] == b""
    assert not any(content.startswith((b"\x80", b"PK")) for content in entries.values())
    assert str(REPOSITORY).encode() not in entries["models/model.json"]
    assert b"stack_trace" not in entries["models/model.json"]


def _swap(folder: Path, name: str, content: bytes) -> None:
    """With every checksum made to match."""
    folder.chmod(0o755)
    for file in (folder / name, folder / MANIFEST):
        file.chmod(0o644)
    (folder / name).write_bytes(content)
    manifest = json.loads((folder / MANIFEST).read_text())
    manifest["files"][name] = {"sha256": file_sha256(folder / name), "bytes": len(content)}
    (folder / MANIFEST).write_text(json.dumps(manifest))


def _repacked(path: Path, change: Callable[[dict[str, bytes]], None]) -> bytes:
    with zipfile.ZipFile(path) as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    change(entries)
    with zipfile.ZipFile(path.parent.parent / "repacked.zip", "w") as archive:
        for name, content in entries.items():
            archive.writestr(name, content)
    return (path.parent.parent / "repacked.zip").read_bytes()


def _named(entries: dict[str, bytes], end: str) -> str:
    return next(name for name in entries if name.endswith(end))


def _put(end: str, content: bytes) -> Callable[[dict[str, bytes]], None]:
    def change(entries: dict[str, bytes]) -> None:
        entries[_named(entries, end)] = content

    return change


def _add(name: str) -> Callable[[dict[str, bytes]], None]:
    def change(entries: dict[str, bytes]) -> None:
        entries[next(iter(entries)).partition("/")[0] + "/" + name] = pickle.dumps({})

    return change


def _in_graph(old: str, new: str) -> Callable[[dict[str, bytes]], None]:
    def change(entries: dict[str, bytes]) -> None:
        name = _named(entries, "models/model.json")
        text = entries[name].decode()
        assert old in text
        entries[name] = text.replace(old, new, 1).encode()

    return change


FOREIGN = [
    pytest.param(_put("sample_inputs/model.pt", pickle.dumps({})), "sample_inputs/model.pt.* may hold", id="example"),
    pytest.param(_add("data/constants/tensor_0"), "data/constants/tensor_0.* not loaded", id="constant"),
    pytest.param(_add("extra/notes.txt"), "extra/notes.txt", id="extra file"),
    pytest.param(
        _put("model_weights_config.json", b'{"config": {"w": {"use_pickle": true}}}'),
        "model_weights_config.json.* may hold", id="weights",
    ),
    pytest.param(_in_graph('"guards_code": []', '"guards_code": ["print(1)"]'), r"the guards \['print", id="guards"),
    pytest.param(_in_graph("torch.ops.aten.cat.default", "torch.load"), "the operator 'torch.load'", id="operator"),
    pytest.param(
        _in_graph("torch.ops.aten.cat.default", "torch.ops.aten.cat.default.__class__"), "the operator", id="attribute"
    ),
    pytest.param(
        _in_graph("\"Symbol('", "\"__import__('os').system('true') or Symbol('"), "the expression", id="expression"
    ),
    pytest.param(_in_graph('"as_none": true', '"as_string": "/etc/passwd"'), "kind 'as_string'", id="text"),
    pytest.param(_put("models/model.json", b"{"), "is no JSON", id="no JSON"),
    pytest.param(_put("models/model.json", b"{}"), "is no graph that torch", id="no graph"),
]  # fmt: skip


@pytest.mark.parametrize(("change", "words"), FOREIGN)
def test_a_graph_that_holds_more_than_a_graph_is_refused(
    settings: Settings, change: Callable[[dict[str, bytes]], None], words: str
) -> None:
    folder, _ = _sealed(_recipe(), settings)
    _swap(folder, GRAPH, _repacked(folder / GRAPH, change))
    with pytest.raises(DamagedError, match=words):
        load_snapshot(folder)


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        pytest.param(WEIGHTS, pickle.dumps({}), "is no safetensors file", id="a pickle of weights"),
        pytest.param(GRAPH, pickle.dumps({}), "is no .pt2 file", id="a pickle of a graph"),
        pytest.param(GRAPH, b"", "is no .pt2 file", id="empty"),
    ],
)
def test_what_is_no_artifact_is_refused(settings: Settings, name: str, content: bytes, words: str) -> None:
    folder, _ = _sealed(_recipe(), settings)
    _swap(folder, name, content)
    with pytest.raises(DamagedError, match=words):
        load_snapshot(folder)


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9, 0.999])
def test_a_cut_graph_is_refused(settings: Settings, share: float) -> None:
    folder, _ = _sealed(_recipe(), settings)
    content = (folder / GRAPH).read_bytes()
    _swap(folder, GRAPH, content[: int(share * len(content))])
    with pytest.raises(DamagedError, match=f"{re.escape(str(folder / GRAPH))} is no .pt2 file, or is cut off"):
        load_snapshot(folder)


def test_weights_of_another_tower_are_refused(settings: Settings, tmp_path: Path) -> None:
    folder, _ = _sealed(_recipe(), settings)
    other, _ = _sealed(_recipe(kind="mlp"), settings, fingerprint="e" * 64)
    _swap(folder, WEIGHTS, (other / WEIGHTS).read_bytes())
    with pytest.raises(DamagedError, match=f"does not hold the weights that {CONTRACT} describes"):
        load_snapshot(folder)


def test_a_graph_is_loaded_once_for_all_days(settings: Settings, tmp_path: Path) -> None:
    folder, _ = _sealed(_recipe(), settings)
    shutil.copy(folder / GRAPH, tmp_path / "copy.pt2")
    assert load_graph(tmp_path / "copy.pt2") is load_graph(folder / GRAPH), "a graph has no state of its own"
