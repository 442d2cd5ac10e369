"""The day's trained user tower becomes a sealed, registered version, alias `candidate`."""

from __future__ import annotations

import json
import logging
import shutil
import subprocess
from collections.abc import Callable
from datetime import date
from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as package_version
from typing import TYPE_CHECKING

from features.selection import described
from infra.settings import REPOSITORY, Settings
from snapshots.aligned import align_day, read_alignment, snapshot_fingerprint
from snapshots.description import describe
from snapshots.embeddings import table_of
from snapshots.export import CONTRACT, export_day
from snapshots.folder import reference_to
from snapshots.learnt import learnt_tags
from snapshots.lock import model_lock
from snapshots.metrics import metrics_tags
from snapshots.registry import Registry, Version, partition_tags
from snapshots.runs import links_of, log_metrics, log_params, log_text, open_version_run
from snapshots.seal import freeze, verify
from trainer.archive.archive import Archive
from trainer.archive.keep import keep
from trainer.identities import read_maps

if TYPE_CHECKING:
    from trainer.model.user_tower import UserTower
    from trainer.planning.document import SavedPlan
    from trainer.recipe import Recipe
    from trainer.trained import TrainedDay

log = logging.getLogger(__name__)


def publish(recipe: Recipe, ds: date, *, settings: Settings) -> Version:
    """Seal, archive and register the tower that was trained on `ds`. ValueError when it was not trained;
    NotArchivedError: it is sealed and not registered, and the same again finishes it."""
    from trainer.trained import find_trained, load_user_tower, on_disk

    trained = find_trained(settings, recipe.name, ds)
    if trained is None:
        raise ValueError(
            f"{recipe.name} is not trained on {ds}; "
            f"run `usermodel trainer train --recipe {recipe.name} --ds {ds}` first"
        )
    on_disk(settings, trained)
    return publish_tower(recipe, trained, lambda: load_user_tower(recipe, trained), settings=settings)


def publish_tower(
    recipe: Recipe,
    trained: TrainedDay,
    make_tower: Callable[[], UserTower],
    *,
    settings: Settings,
) -> Version:
    """Seal and register `make_tower()`, called only when the tower is not sealed yet."""
    ds, key = trained.ds, snapshot_fingerprint(recipe, trained.fingerprint)
    registry = Registry(settings)
    _ = registry.client  # MLflow down is found out before anything is written
    maps = read_maps(trained.path, recipe.schema)
    with model_lock(settings, recipe.name) as check:
        folder, manifest = export_day(
            recipe,
            ds,
            fingerprint=key,
            make_tower=make_tower,
            maps=maps,
            settings=settings,
            align=align_day(recipe, ds, maps, registry=registry) if recipe.alignment is not None else None,
            examples=trained.where,
        )
        if not keep(Archive.of(settings), folder, may_commit=check):
            manifest = verify(folder)
            freeze(folder)
        aligned = read_alignment(folder)
        run_id = open_version_run(registry, recipe, ds, fingerprint=key, inputs=[trained.examples])
        parent, plan = _parent(registry, trained), _plan(trained)
        check()
        version = registry.register(
            recipe.name,
            ds,
            fingerprint=key,
            run_id=run_id,
            reference=json.loads((folder / CONTRACT).read_text(encoding="utf-8")),
            tags={
                "parent": "" if parent is None else str(parent.number),
                "parent_ds": "" if trained.parent_ds is None else trained.parent_ds.isoformat(),
                "path": reference_to(folder, settings),
                "manifest_sha256": manifest,
                **metrics_tags(trained.metrics),
                "embeddings_table": table_of(recipe.name),
                "code_version": code_version(),
                "checkpoint": "full" if trained.stored is None else trained.stored.sentence,
                "training": trained.fingerprint,
                **({} if aligned is None else aligned.tags),
                "plan": "none" if plan is None else plan.summary(),
                **partition_tags("examples", trained.examples),
                **learnt_tags(trained),
            },
        )
        if "verdict" not in version.tags:  # once it is judged, the report describes it
            registry.describe(version, describe(version, parent, links=links_of(registry, version)))
        if version.decision == "pending":
            registry.set_alias(recipe.name, "candidate", version.number)
    values = {f"{metric}/{task}": value for task, of in trained.metrics.items() for metric, value in of.items()}
    tables = {name: value for use in trained.tables for name, value in use.metrics.items()}
    fitted = {} if aligned is None else aligned.metrics
    log_metrics(registry, recipe, version, values | tables | _of_checkpoint(trained) | fitted)
    log_params(registry, version, _params(recipe))
    if plan is not None:
        log_text(registry, version, plan.to_csv(), "training/plan.csv")
    log.info("published model=%s ds=%s version=%d path=%s", recipe.name, ds, version.number, version.path)
    return version


def _plan(trained: TrainedDay) -> SavedPlan | None:
    """The training's sharding plan, where the checkpoint is still there to tell."""
    from trainer.planning.inherit import read_plan

    return read_plan(trained.path) if trained.path.is_dir() else None


def _params(recipe: Recipe) -> dict[str, object]:
    """What of the recipe decides the weights, for MLflow's table of runs."""
    tower, optimizer = recipe.user_tower, recipe.optimizer
    return {
        "tasks": " ".join(task.name for task in recipe.tasks),
        "examples": described(recipe.examples) or "all",
        "features": len(recipe.schema.sparse) + len(recipe.schema.dense),
        "table_rows": sum(table.num_rows for table in recipe.schema.tables),
        "num_embeddings": tower.num_embeddings,
        "dim": tower.dim,
        "modules": len(tower.modules),
        "batch_size": recipe.batch_size,
        "sparse": f"{optimizer.sparse} {optimizer.sparse_lr:g}",
        "dense": f"{optimizer.dense} {optimizer.dense_lr:g}",
        "seed": recipe.seed,
    }


def _of_checkpoint(trained: TrainedDay) -> dict[str, float | None]:
    """What the day's checkpoint took, and why."""
    if (stored := trained.stored) is None:
        return {}
    touched: dict[str, float | None] = {f"touched/{table}": share for table, share in stored.touched.items()}
    return touched | {"checkpoint/bytes": stored.num_bytes, "checkpoint/full_bytes": stored.full_bytes}


def code_version() -> str:
    """The commit that this code was run from, or the package's version where there is no repository, or no git."""
    if (REPOSITORY / ".git").exists() and shutil.which("git"):
        found = subprocess.run(
            ["git", "rev-parse", "HEAD"], cwd=REPOSITORY, capture_output=True, text=True, check=False
        )
        if found.returncode == 0:
            return found.stdout.strip()
    try:
        return package_version("usermodel")
    except PackageNotFoundError:
        return "unknown"


def _parent(registry: Registry, trained: TrainedDay) -> Version | None:
    """The version of the weights that training began from; None for a cold start or an unpublished parent."""
    if trained.parent_ds is None:
        return None
    parent = registry.find(trained.model, trained.parent_ds, training=trained.parent_fingerprint)
    if parent is None:
        log.warning("parent not published model=%s ds=%s parent_ds=%s", trained.model, trained.ds, trained.parent_ds)
    return parent
