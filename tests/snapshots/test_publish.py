from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version
from pathlib import Path

import pytest
import torch

from features.batches import Encoder
from features.lake import Lake
from infra.settings import Settings
from snapshots.export import CONTRACT, WEIGHTS, export_day, load_snapshot, read_contract
from snapshots.publish import code_version, publish
from snapshots.registry import MissingVersionError, Registry
from snapshots.seal import DamagedError, SealedError
from tests.snapshots.world import DAYS, commit_users, make_tower, publish_day, trained_day
from trainer import tracking
from trainer.recipe import Recipe


def _seal(recipe: Recipe, settings: Settings, *, fingerprint: str = "f" * 64, seed: int = 0) -> Path:
    folder, _ = export_day(
        recipe,
        DAYS[0],
        fingerprint=fingerprint,
        make_tower=lambda: make_tower(recipe, seed=seed),
        maps={},
        settings=settings,
    )
    return folder


def test_a_loaded_snapshot_computes_the_same_bits(recipe: Recipe, settings: Settings, lake: Lake) -> None:
    users = lake.read(commit_users(lake, DAYS[0], range(100)))
    tower = make_tower(recipe)
    loaded = load_snapshot(_seal(recipe, settings))
    batch = Encoder(recipe.source.schema, sides=("user",)).encode(users)
    with torch.inference_mode():
        assert torch.equal(tower(batch.user_sparse, batch.user_dense), loaded.embed(batch))


def test_the_contract_names_the_inputs_and_nothing_of_the_item_side(recipe: Recipe, settings: Settings) -> None:
    folder = _seal(recipe, settings)
    contract = json.loads((folder / CONTRACT).read_text())
    assert [feature["name"] for feature in contract["schema"]["sparse"]] == ["liked", "seen"]
    assert contract["schema"]["tables"] == [{"name": "topics", "num_rows": 50, "ids": {"kind": "hashed"}}]
    assert contract["user_tower"]["num_embeddings"] == 2
    assert contract["user_tower"]["dim"] == 8
    assert set(contract["versions"]) == {"torch", "torchrec", "safetensors"}
    assert read_contract(folder).user_tower == recipe.user_tower


def test_a_sealed_snapshot_is_never_written_again(recipe: Recipe, settings: Settings) -> None:
    folder = _seal(recipe, settings)
    before = (folder / WEIGHTS).read_bytes()
    assert _seal(recipe, settings, seed=1) == folder, "the same fingerprint is the same snapshot"
    with pytest.raises(SealedError, match="sealed with fingerprint"):
        _seal(recipe, settings, fingerprint="f" * 63 + "0", seed=1)
    assert (folder / WEIGHTS).read_bytes() == before
    assert folder.stat().st_mode & 0o222 == 0
    assert all(file.stat().st_mode & 0o222 == 0 for file in folder.iterdir())


def test_what_an_interrupted_export_left_is_replaced(recipe: Recipe, settings: Settings) -> None:
    aside = settings.artifacts / "tiny" / f".ds={DAYS[0]}-ffffffff.partial"
    aside.mkdir(parents=True)
    (aside / WEIGHTS).write_bytes(b"half")
    folder = _seal(recipe, settings)
    assert not aside.exists()
    load_snapshot(folder)


def _flip_a_bit(folder: Path) -> None:
    content = bytearray((folder / WEIGHTS).read_bytes())
    content[len(content) // 2] ^= 1
    _overwrite(folder / WEIGHTS, bytes(content))


def _truncate(folder: Path) -> None:
    _overwrite(folder / WEIGHTS, (folder / WEIGHTS).read_bytes()[:-1])


def _remove(folder: Path) -> None:
    folder.chmod(0o755)
    (folder / WEIGHTS).unlink()


def _add_a_file(folder: Path) -> None:
    folder.chmod(0o755)
    (folder / "more.bin").write_bytes(b"x")


def _overwrite(path: Path, content: bytes) -> None:
    path.chmod(0o644)
    path.write_bytes(content)


DAMAGE = [
    pytest.param(_flip_a_bit, "SHA-256", id="one bit flipped"),
    pytest.param(_truncate, "SHA-256", id="truncated"),
    pytest.param(_remove, "missing", id="a file missing"),
    pytest.param(_add_a_file, "not sealed with it", id="a file added"),
]


@pytest.mark.parametrize(("damage", "message"), DAMAGE)
def test_a_damaged_snapshot_is_refused(recipe: Recipe, settings: Settings, damage, message: str) -> None:
    folder = _seal(recipe, settings)
    damage(folder)
    with pytest.raises(DamagedError, match=message):
        load_snapshot(folder)


def test_a_manifest_that_is_not_the_registered_one_is_refused(recipe: Recipe, settings: Settings) -> None:
    folder = _seal(recipe, settings)
    with pytest.raises(DamagedError, match="registered was 00"):
        load_snapshot(folder, manifest_sha256="00")


def test_publishing_twice_makes_one_version(recipe: Recipe, settings: Settings) -> None:
    tower = make_tower(recipe)
    first = publish_day(recipe, DAYS[0], tower, settings=settings)
    assert publish_day(recipe, DAYS[0], tower, settings=settings) == first
    assert first.number == 1
    assert first.decision == "pending"
    registry = Registry(settings)
    assert registry.alias("tiny", "candidate") == first
    assert registry.alias("tiny", "champion") is None
    assert first.tags["examples.table"] == "examples/tiny"
    assert first.metrics["click"]["ne"] == 0.9


def test_concurrent_publishers_make_one_version(recipe: Recipe, settings: Settings) -> None:
    trained_day(DAYS[0], settings=settings)  # the examples are there
    with ThreadPoolExecutor(2) as pool:
        versions = list(
            pool.map(lambda _: publish_day(recipe, DAYS[0], make_tower(recipe), settings=settings), range(2))
        )
    assert versions[0].number == versions[1].number
    assert len(Registry(settings).client.search_model_versions("name = 'tiny'")) == 1


def test_killed_after_the_upload_the_retry_makes_one_version(
    recipe: Recipe, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    def die(*_args: object, **_kwargs: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(Registry, "set_alias", die)
        with pytest.raises(KeyboardInterrupt):
            publish_day(recipe, DAYS[0], make_tower(recipe), settings=settings)
    version = publish_day(recipe, DAYS[0], make_tower(recipe), settings=settings)
    client = Registry(settings).client
    assert [int(v.version) for v in client.search_model_versions("name = 'tiny'")] == [version.number]
    assert Registry(settings).alias("tiny", "candidate") == version


def test_lineage_and_trend_are_in_mlflow(recipe: Recipe, settings: Settings) -> None:
    first = publish_day(recipe, DAYS[0], make_tower(recipe), settings=settings)
    second = publish_day(
        recipe, DAYS[1], make_tower(recipe, noise=0.1), settings=settings, parent=first,
        metrics={"ne": 0.8, "calibration": 1.1, "auc": None},
    )  # fmt: skip
    assert second.parent == first.number
    client = Registry(settings).client
    run = client.get_run(second.run_id)
    assert run.data.metrics == {"ne/click": 0.8, "calibration/click": 1.1}
    (dataset,) = run.inputs.dataset_inputs
    assert dataset.dataset.digest == trained_day(DAYS[1], settings=settings).examples.fingerprint
    trend = tracking.open_trend(client, tracking.experiment(client, "tiny"))
    history = client.get_metric_history(trend, "ne/click")
    assert [(point.step, point.value) for point in history] == [(0, 0.9), (1, 0.8)]


def test_a_day_that_was_not_trained_says_what_to_run(recipe: Recipe, settings: Settings) -> None:
    with pytest.raises(ValueError, match="usermodel trainer train --recipe tiny --ds 2026-01-01"):
        publish(recipe, DAYS[0], settings=settings)
    with pytest.raises(MissingVersionError, match="usermodel snapshots publish --recipe tiny"):
        Registry(settings).get("tiny", DAYS[0])


def test_mlflow_down_says_where_and_which_setting(recipe: Recipe, tmp_path: Path) -> None:
    down = Settings(home=tmp_path, mlflow_uri="http://127.0.0.1:9", _env_file=None)
    with pytest.raises(ConnectionError, match=r"http://127.0.0.1:9 .*USERMODEL_MLFLOW_URI"):
        publish_day(recipe, DAYS[0], make_tower(recipe), settings=down)
    assert not down.artifacts.exists(), "nothing is sealed that could not be registered"


def test_without_git_the_code_is_the_packages_version(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert code_version() == version("usermodel")
