"""The user tower alone, as a sealed folder that loads without the trainer's checkpoint, recipe or pickles.

- `user_tower.safetensors`: the weights, float32; of an aligned snapshot `alignment` too, [K D, K D], its last step
- `alignment.json`: of a recipe with an alignment, which space the snapshot was mapped to, and how well
- `ids.<table>.parquet`: of each managed table, which id owns which row
- `contract.json`: inputs in order, tables and hash sizes, K, D, the tower's config, versions
- `manifest.json`: SHA-256 and size of each
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

from features.id_map import IdMap
from infra.settings import Settings
from snapshots.contract import Contract, contract_of
from snapshots.seal import DamagedError, seal, verify

if TYPE_CHECKING:
    from torch import nn

    from snapshots.aligned import Align
    from snapshots.aligned_tower import AlignedTower
    from trainer.model.user_tower import UserTower
    from trainer.recipe import Recipe

log = logging.getLogger(__name__)

WEIGHTS = "user_tower.safetensors"
CONTRACT = "contract.json"
_MAP = "alignment"  # among the weights


def snapshot_folder(settings: Settings, model: str, ds: date, *, fingerprint: str) -> Path:
    """Where the day's snapshot lives."""
    return settings.artifacts / model / f"ds={ds}-{fingerprint[:8]}"


def export_snapshot(
    make_tower: Callable[[], nn.Module],
    contract: Contract,
    folder: Path,
    *,
    maps: Mapping[str, IdMap],
    align: Align | None = None,
) -> str:
    """Seal the weights of `make_tower()`, the contract and the id maps of its managed tables as `folder`; the SHA-256
    of its manifest. align: asked for the map of the tower's outputs when they are sealed, and never again.

    SealedError where `folder` was sealed with another fingerprint.
    """
    import torch
    from safetensors.torch import save_file

    def write(aside: Path) -> None:
        tower = make_tower()
        weights = {name: tensor.detach().cpu().contiguous() for name, tensor in tower.state_dict().items()}
        if align is not None:
            document, matrix = align(tower)
            document.write(aside)
            weights |= {} if matrix is None else {_MAP: torch.from_numpy(matrix)}
        save_file(weights, aside / WEIGHTS)
        for table in contract.schema.managed:
            maps[table.name].owning.write(aside / _map_name(table.name))
        contract.write(aside / CONTRACT)

    manifest_sha256 = seal(folder, fingerprint=contract.fingerprint, write=write)
    log.info("sealed model=%s ds=%s path=%s manifest=%s", contract.model, contract.ds, folder, manifest_sha256)
    return manifest_sha256


def export_day(
    recipe: Recipe,
    ds: date,
    *,
    fingerprint: str,
    make_tower: Callable[[], nn.Module],
    maps: Mapping[str, IdMap],
    settings: Settings,
    align: Align | None = None,
) -> tuple[Path, str]:
    """Seal the day's user tower under `settings.artifacts`; its folder and its manifest's SHA-256.

    maps: of the managed tables, by name; more than the user side's do no harm. align: as for `export_snapshot`.
    """
    versions = {name: version(name) for name in ("torch", "torchrec", "safetensors")}
    contract = contract_of(recipe, ds, training=fingerprint, versions=versions)
    folder = snapshot_folder(settings, recipe.name, ds, fingerprint=fingerprint)
    return folder, export_snapshot(make_tower, contract, folder, maps=maps, align=align)


def read_contract(folder: Path) -> Contract:
    """The snapshot's contract."""
    return Contract.read(folder / CONTRACT)


def read_snapshot_maps(folder: Path) -> dict[str, IdMap]:
    """The id maps of a snapshot's managed tables; `load_snapshot` verifies their checksums."""
    return {table.name: IdMap.read(folder / _map_name(table.name)) for table in read_contract(folder).schema.managed}


def _map_name(table: str) -> str:
    return f"ids.{table}.parquet"


def load_snapshot(folder: Path, *, manifest_sha256: str | None = None) -> UserTower | AlignedTower:
    """The user tower with its alignment, in eval mode, after every checksum has been verified.

    DamagedError for a file that is not what was sealed or is no safetensors file: nothing is ever unpickled.
    """
    verify(folder, manifest_sha256=manifest_sha256)
    contract = read_contract(folder)
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    from snapshots.aligned_tower import AlignedTower
    from trainer.model.user_tower import UserTower

    tower = UserTower(contract.schema, contract.user_tower)
    try:
        weights = load_file(folder / WEIGHTS)
    except SafetensorError as error:
        raise DamagedError(f"{folder / WEIGHTS} is no safetensors file ({error}); it is not loaded") from error
    matrix = weights.pop(_MAP, None)
    unfit = {name: tuple(tensor.shape) for name, tensor in tower.state_dict().items()}
    if unfit != {name: tuple(tensor.shape) for name, tensor in weights.items()}:
        raise DamagedError(f"{folder / WEIGHTS} does not hold the weights that {CONTRACT} describes")
    tower.load_state_dict(weights)
    return tower.eval() if matrix is None else AlignedTower(tower, matrix).eval()
