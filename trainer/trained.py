"""What training a day leaves behind: one sealed checkpoint per (model, day, fingerprint)."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import TypeAdapter, ValidationError

from features.lake import Partition
from features.selection import Selection
from features.table_use import TableUse
from infra.settings import Settings
from trainer.archive.archive import Archive
from trainer.archive.download import bring
from trainer.archive.download import read as read_archived
from trainer.carryover.summary import CarriedOver
from trainer.checkpoint import Base, DamagedCheckpointError, base_path, is_complete, verify, why_broken
from trainer.increments.form import BaseDay, Stored
from trainer.recipe import Recipe

if TYPE_CHECKING:
    from torch import nn

    from trainer.config import TrainingConfig
    from trainer.model.sum_model import SumModel
    from trainer.model.user_tower import UserTower

log = logging.getLogger(__name__)

DOCUMENT = "trained.json"
_DAY = re.compile(r"ds=\d{4}-\d{2}-\d{2}-")


@dataclass(frozen=True, kw_only=True)
class TrainedDay:
    """A user model after it has learnt one more day."""

    model: str
    ds: date
    fingerprint: str
    """Of everything that decides the weights: config, examples, parent."""
    parent_fingerprint: str | None
    """None after a cold start."""
    parent_ds: date | None
    examples: Partition
    num_examples: int
    """That it learnt."""
    metrics: dict[str, dict[str, float | None]]
    """Per task, progressive (scored before learnt): ne, calibration, auc, ctr, positives, examples. None
    where the value has no meaning, as the AUC of a day without positives."""
    seconds: float
    """In the training loop, checkpoint included, start of the job not; over all attempts, of one that was killed up
    to where the next went on."""
    ranks: int
    revision: int
    """Counts the times the day was trained from other inputs; the highest is the day's model."""
    path: Path
    resumed: int = 0
    """How often its training was killed and went on from a checkpoint within the day."""
    gap_days: int = 0
    """Days between the parent's and this one, which nothing was learnt from (`--after-gap`)."""
    tables: tuple[TableUse, ...] = ()
    """How the day used each embedding table."""
    carried_over: CarriedOver | None = None
    """What the warm start took over; None after a cold start."""
    stored: Stored | None = None
    """How the checkpoint was written; None for one from before there were increments."""
    where: tuple[Selection, ...] = ()
    """It learnt those of `examples` that every one of these selects."""


_DOCUMENTS = TypeAdapter(TrainedDay)


def to_json(trained: TrainedDay) -> str:
    """The `trained.json` of a checkpoint."""
    return _DOCUMENTS.dump_json(trained, indent=1).decode()


def checkpoint_path(settings: Settings, model: str, ds: date, fingerprint: str) -> Path:
    """Where the checkpoint lives once sealed."""
    return settings.checkpoints / model / f"ds={ds}-{fingerprint[:8]}"


def read_trained(path: Path) -> TrainedDay | None:
    """The trained day in a checkpoint directory; None when it is not complete, or its base is not."""
    if not is_complete(path):
        if (why := why_broken(path)) is not None:
            log.warning("not a trained day: %s", why)
        return None
    try:
        found = _DOCUMENTS.validate_json((path / DOCUMENT).read_bytes())
        return replace(found, path=path.absolute())  # checkpoints can be moved
    except (FileNotFoundError, ValidationError):
        return None


def find_base(trained: TrainedDay) -> BaseDay | None:
    """What an increment of the next day would add to: the checkpoint itself when it is full, else its own base."""
    path = base_path(trained.path) or trained.path
    full = trained if path == trained.path else read_trained(path)
    return None if full is None else BaseDay(ds=full.ds, base=Base.of(path))


def revisions(settings: Settings, model: str) -> list[TrainedDay]:
    """Every training of every day that is kept, here or in the archive, oldest day first, a day's oldest revision
    first. Of one that is in the archive alone `path` is where `on_disk` puts it. One that is damaged there is named in
    the log and left out: who wants that day is refused."""
    found = []
    for path in _names(settings, model):
        try:
            found += _read_all(settings, [path])
        except DamagedCheckpointError as error:
            log.error("no trained day: %s", error)
    return _in_order(found)


def trained_days(settings: Settings, model: str) -> list[TrainedDay]:
    """The newest revision of every trained day of the model, oldest day first."""
    return list({trained.ds: trained for trained in revisions(settings, model)}.values())


def newest_before(settings: Settings, model: str, ds: date) -> TrainedDay | None:
    """The newest trained day before `ds`; None when there is none. DamagedCheckpointError names what of it the archive
    damaged: nobody goes on from an older day, or begins anew, unasked."""
    names = [path for path in _names(settings, model) if _day_of(path) < ds]
    for day in sorted({_day_of(path) for path in names}, reverse=True):
        if found := _read_all(settings, [path for path in names if _day_of(path) == day]):
            return found[-1]
    return None


def find_trained(settings: Settings, model: str, ds: date) -> TrainedDay | None:
    """The day's model, newest revision; None when the day is not trained. DamagedCheckpointError: as `newest_before`;
    whether the revision that is damaged is the newest cannot be told."""
    found = _read_all(settings, [path for path in _names(settings, model) if _day_of(path) == ds])
    return found[-1] if found else None


def on_disk(settings: Settings, trained: TrainedDay) -> TrainedDay:
    """The same, its files in the home: they are brought from the archive where they are not."""
    archive = Archive.of(settings)
    if archive is not None and not bring(archive, trained.path):
        raise FileNotFoundError(f"{trained.path} is neither here nor in the archive; train {trained.ds} again")
    return trained


def _names(settings: Settings, model: str) -> list[Path]:
    """Where checkpoints of the model lie, or would when they were brought."""
    folder, archive = settings.checkpoints / model, Archive.of(settings)
    here = {path.name for path in folder.glob("ds=*") if path.is_dir()}
    there = set() if archive is None else set(archive.names(folder))
    return [folder / name for name in sorted(here | there) if _DAY.match(name)]


def _day_of(path: Path) -> date:
    return date.fromisoformat(path.name[3:13])


def _read_all(settings: Settings, paths: Iterable[Path]) -> list[TrainedDay]:
    """By day and revision; what is not complete is left out."""
    archive = Archive.of(settings)
    found = [read_trained(path) or (None if archive is None else _read_archived(archive, path)) for path in paths]
    return _in_order(day for day in found if day is not None)


def _in_order(days: Iterable[TrainedDay]) -> list[TrainedDay]:
    return sorted(days, key=lambda trained: (trained.ds, trained.revision))


def _read_archived(archive: Archive, path: Path) -> TrainedDay | None:
    content = read_archived(archive, path, DOCUMENT)
    try:
        return None if content is None else replace(_DOCUMENTS.validate_json(content), path=path.absolute())
    except ValidationError as error:
        raise DamagedCheckpointError(
            f"{archive.uri_of(path)}: {DOCUMENT} is no document of a trained day ({error}); nothing of it is used. "
            f"Delete {archive.uri_of(path)}.manifest.json and train that day again"
        ) from error


def load_user_tower(recipe: Recipe, trained: TrainedDay) -> UserTower:
    """The day's user tower as a plain module on CPU, in eval mode. No process group is needed.

    DamagedCheckpointError when a file is not what was written, or when the checkpoint holds another tower
    than the recipe describes.
    """
    import torch

    from trainer.config import TrainingConfig
    from trainer.model.user_tower import UserTower

    tower = UserTower(
        recipe.schema,
        recipe.user_tower,
        device=torch.device("cpu"),
    )
    _require_same_model(TrainingConfig.of(recipe), trained, prefix="user_tower.", what="user tower")
    _fill(tower, recipe.name, trained, prefix="user_tower.", what="user tower")
    return tower


def load_model(recipe: Recipe, trained: TrainedDay) -> SumModel:
    """The day's whole model as a plain module on CPU, in eval mode, as `load_user_tower` loads a part of it."""
    from trainer.config import TrainingConfig

    config = TrainingConfig.of(recipe)
    _require_same_model(config, trained, prefix="", what="model")
    return load_as_trained(trained, config)


def load_as_trained(trained: TrainedDay, config: TrainingConfig) -> SumModel:
    """The same by the config that it was trained with, the checkpoint's own, whatever the recipe says today.

    DamagedCheckpointError when a file is not what was written; ValueError when `config` is of no SUM model.
    """
    import torch

    from trainer.config import Sum
    from trainer.model.sum_model import SumModel

    if not isinstance(config.model, Sum):
        raise ValueError(f"{trained.path} holds a {config.model.kind}, not a user model")
    model = SumModel(config, config.model, device=torch.device("cpu"))
    _fill(model, config.name, trained, prefix="", what="model")
    return model


def _fill(module: nn.Module, recipe: str, trained: TrainedDay, *, prefix: str, what: str) -> None:
    """Give `module` its weights, those whose names begin with `prefix` in the checkpoint, and end its training."""
    from trainer.increments.load import load_state

    verify(trained.path)
    state = {"model": {prefix + name: tensor for name, tensor in module.state_dict().items()}}
    try:
        load_state(trained.path, state, no_dist=True)
    except (RuntimeError, ValueError, KeyError) as error:
        raise DamagedCheckpointError(
            f"{trained.path} does not hold the {what} of recipe {recipe} ({error}); "
            "was the recipe changed since? train the day again"
        ) from error
    module.load_state_dict({name.removeprefix(prefix): tensor for name, tensor in state["model"].items()})
    module.eval()


def _require_same_model(config: TrainingConfig, trained: TrainedDay, *, prefix: str, what: str) -> None:
    """Shapes alone would let a recipe with the same features in another order read the weights of one as another's."""
    from trainer.carryover.compare import compare
    from trainer.carryover.document import ModelDocument, read_model

    if (saved := read_model(trained.path)) is None:
        return
    tensors = compare(saved, ModelDocument(config=config)).tensors
    changed = next((found for found in tensors if found.name.startswith(prefix) and found.outcome != "carried"), None)
    if changed is not None:
        raise DamagedCheckpointError(
            f"{trained.path} does not hold the {what} of recipe {config.name}: {changed.name}: {changed.why}; "
            "the recipe was changed since; train the day again"
        )
