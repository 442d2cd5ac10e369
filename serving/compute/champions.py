"""What computes: of each user model the version behind the alias `champion`, exchanged between two batches.

A version is put to work after its checksums were verified and a few batches of the sizes in use went through it. What
is damaged, or does not compute, is refused, and the version before it serves on, as it does while MLflow is down. A
rollback moves the alias back and is followed in the same way; what was computed by what was rolled back is withdrawn.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from infra.settings import Settings
from serving.compute.remembered import Reference, recall, remember
from serving.compute.statistics import Statistics
from serving.connection import UNAVAILABLE
from serving.features import FeatureCodec
from serving.served import Served
from serving.store import Store
from snapshots.folder import brought
from snapshots.registry import Registry

if TYPE_CHECKING:
    import pyarrow as pa
    from numpy.typing import NDArray

    from trainer.recipe import Recipe

log = logging.getLogger(__name__)

WARM_UP_USERS = (1, 32, 512)
"""Batches that a version computes before it is put to work."""
REFUSED_SECONDS = 60.0
"""A version that was refused is looked at again after so long."""


class Tower(Protocol):
    """What `snapshots.embedder.Embedder` is: rows of user features in, vectors out."""

    def encode(self, rows: pa.RecordBatch) -> Sequence[Any]:
        """ValueError for a row that has no such features."""

    def compute(self, inputs: Sequence[Any], *, num_rows: int) -> NDArray[np.float32]:
        """[num_rows, K, D]. OSError while it cannot, where it asks others: the same is asked again."""


Load = Callable[[Path, str], Tower]
"""A sealed folder and its manifest's SHA-256, to be verified, as a tower: here it is decided where the tables lie."""


def whole(folder: Path, manifest_sha256: str) -> Tower:
    """In this process."""
    from snapshots.embedder import Embedder

    return Embedder(folder, manifest_sha256=manifest_sha256)


@dataclass(frozen=True, kw_only=True)
class Champion:
    """A version at work."""

    reference: Reference
    recipe: Recipe
    tower: Tower
    num_embeddings: int
    dim: int

    @property
    def served(self) -> Served:
        """What clients are told."""
        ref = self.reference
        return Served(
            model=ref.model, source=self.recipe.source.name, version=ref.version, ds=ref.ds,
            num_embeddings=self.num_embeddings, dim=self.dim, pooling_versions=self.recipe.pooling_versions,
            withdrawn=ref.withdrawn,
        )  # fmt: skip


class Champions:
    """Of several user models. `poll` looks once at every one of them; `start` does so every few seconds."""

    def __init__(
        self,
        recipes: Sequence[Recipe],
        *,
        settings: Settings,
        store: Store,
        statistics: Statistics,
        load: Load = whole,
        warm_up: Sequence[int] = WARM_UP_USERS,
    ) -> None:
        for recipe in recipes:
            if not recipe.serving.computes:
                raise ValueError(f"{recipe.name} is served in the mode {recipe.serving.mode!r}: nothing is computed")
        self._recipes = {recipe.name: recipe for recipe in recipes}
        self._settings, self._store, self._statistics = settings, store, statistics
        self._load, self._warm_up = load, warm_up
        self._current: dict[str, Champion] = {}
        self._refused: dict[str, tuple[Reference, float]] = {}
        self._said: dict[str, Reference] = {}
        """What the registry says in this look: what others told clients instead is put right."""
        self._trouble: dict[str, str] = {}
        self._looked = False
        self._stopped = threading.Event()
        self._thread: threading.Thread | None = None

    def of(self, source: str) -> list[Champion]:
        """Those that compute for the users of `source` now, in the order of the recipes."""
        return [one for one in self._current.values() if one.recipe.source.name == source]

    @property
    def sources(self) -> frozenset[str]:
        """Of which something can be computed."""
        if not self._looked:
            return frozenset()  # else what is taken while the first of several models is loaded lacks the others
        return frozenset(one.recipe.source.name for one in self._current.values())

    def missing(self, source: str) -> list[str]:
        """The models of `source` that nothing can be computed of: none is promoted yet, or it was refused."""
        of_source = [name for name, recipe in self._recipes.items() if recipe.source.name == source]
        return [name for name in of_source if name not in self._current]

    def poll(self) -> None:
        """Follow the aliases, and tell the store what is served."""
        for model, recipe in self._recipes.items():
            wanted = self._wanted(model)
            current = self._current.get(model)
            if wanted is None or (current is not None and current.reference == wanted):
                continue
            if current is not None and current.reference.same_version(wanted):
                made: Champion | None = self._made(wanted, recipe, current.tower, current)
            else:
                made = self._opened(wanted, recipe)
            if made is not None:
                self._current[model] = made
                self._statistics.set("champion_version", wanted.version, model=model)
                if self._said.get(model) == wanted:
                    remember(self._settings, wanted)
        self._looked = True
        self._statistics.set("up", float(bool(self._current)))
        self._announce()

    def start(self, *, every_seconds: float) -> None:
        """Poll in the background, at once and then every few seconds."""

        def run() -> None:
            while not self._stopped.is_set():
                try:
                    self.poll()
                except Exception:  # the champions at hand serve on
                    log.exception("a look at the champions failed; it is repeated")
                self._stopped.wait(every_seconds)

        self._thread = threading.Thread(target=run, name="compute-champions", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """No further look."""
        self._stopped.set()

    def _wanted(self, model: str) -> Reference | None:
        """The champion's version; while the registry does not answer, what serves, or served last."""
        try:
            reference = _registered(Registry(self._settings), self._recipes[model])
        except Exception as error:  # of MLflow's client, of HTTP or of a database: whatever it is, serving goes on
            self._statistics.count("registry_errors", model=model)
            self._said.pop(model, None)
            current = self._current.get(model)
            remembered = recall(self._settings, model) if current is None else current.reference
            serves = "nothing is computed" if remembered is None else f"version {remembered.version} serves"
            self._say(model, f"the registry does not answer ({error}); {serves}")
            return remembered
        if reference is not None:
            self._said[model] = reference
        if reference is None:
            self._say(model, "the registry has no version that serves; promote one")
        elif self._trouble.pop(model, None):
            log.info("the registry answers model=%s champion=%d", model, reference.version)
        return reference

    def _opened(self, wanted: Reference, recipe: Recipe) -> Champion | None:
        """Verified, loaded and warm; None for one that is refused."""
        refused = self._refused.get(wanted.model)
        if refused is not None and refused[0] == wanted and time.monotonic() < refused[1]:
            return None
        began = time.monotonic()
        try:
            tower = self._load(brought(wanted.path, wanted.uri), wanted.manifest_sha256)
            made = self._made(wanted, recipe, tower, _warm(tower, recipe, self._warm_up))
        except Exception as error:  # whatever is wrong with it, the one before serves on
            self._refused[wanted.model] = wanted, time.monotonic() + REFUSED_SECONDS
            self._statistics.count("champions_refused", model=wanted.model)
            before = self._current.get(wanted.model)
            log.error(
                "champion refused model=%s version=%d (%s); serves: %s",
                wanted.model, wanted.version, error, before.reference.version if before else "nothing",
            )  # fmt: skip
            return None
        self._refused.pop(wanted.model, None)
        self._statistics.count("swaps", model=wanted.model)
        log.info(
            "champion at work model=%s version=%d ds=%s warm after %.2f s",
            wanted.model, wanted.version, wanted.ds, time.monotonic() - began,
        )  # fmt: skip
        return made

    def _made(self, reference: Reference, recipe: Recipe, tower: Tower, shape: Shape | Champion) -> Champion:
        return Champion(
            reference=reference, recipe=recipe, tower=tower, num_embeddings=shape.num_embeddings, dim=shape.dim
        )

    def _announce(self) -> None:
        """What changed here, and what an emptied store does not know any more. A memory is not news."""
        try:
            known: Mapping[str, Served] = self._store.served()
            for model, champion in list(self._current.items()):
                served = champion.served
                if model not in known or (self._said.get(model) == champion.reference and known[model] != served):
                    self._store.announce(served)
        except UNAVAILABLE as error:
            log.warning("the store was not told what is served (%s); it is told later", error)

    def _say(self, model: str, trouble: str) -> None:
        """Once, until it is something else."""
        if self._trouble.get(model) != trouble:
            self._trouble[model] = trouble
            log.warning("champion model=%s: %s", model, trouble)


@dataclass(frozen=True, kw_only=True)
class Shape:
    """Of a user's vectors."""

    num_embeddings: int
    dim: int


def _registered(registry: Registry, recipe: Recipe) -> Reference | None:
    """Of the champion, or of the version that a frozen model stays with."""
    model, serving = recipe.name, recipe.serving
    if serving.mode == "frozen":
        version = registry.frozen(model, serving.frozen_day)
    else:
        version = registry.alias(model, "champion")
    if version is None:
        return None
    return Reference(
        model=model, version=version.number, ds=version.ds.isoformat(), path=version.path,
        manifest_sha256=version.tags["manifest_sha256"],
        withdrawn=tuple(sorted(one.number for one in registry.withdrawn(model))), uri=version.reference,
    )  # fmt: skip


def _warm(tower: Tower, recipe: Recipe, sizes: Sequence[int]) -> Shape:
    """ValueError for a tower that does not compute what clients send."""
    codec = FeatureCodec(recipe.schema)
    payload = codec.encode({name: [1, 2, 3] for name in codec.sparse})
    shape = (0, 0, 0)
    for size in sizes:
        rows = codec.decode(range(size), [payload] * size)
        vectors = tower.compute(tower.encode(rows), num_rows=size)
        if vectors.ndim != 3 or not np.isfinite(vectors).all():
            raise ValueError(f"the vectors of {size} users, {vectors.shape}, are not finite [B, K, D]")
        shape = vectors.shape
    return Shape(num_embeddings=shape[1], dim=shape[2])
