"""The registry of sealed versions: MLflow's model registry, by reference, through its client alone.

A version is found by its tags `ds` and `fingerprint`, so whatever is done twice is done once. Its
weights lie in a sealed folder; MLflow holds the reference, the lineage, the metrics and the decision.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

from features.lake import Partition
from infra.settings import Settings
from snapshots.folder import path_of
from snapshots.metrics import metrics_from
from snapshots.summary import Summarised
from trainer import tracking

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import ModelVersion

log = logging.getLogger(__name__)

Decision = Literal["pending", "promoted", "held", "rejected"]
Alias = Literal["candidate", "champion", "previous"]

BY_GATE = "gate"
_NOTE_CHARACTERS = 4_000


class MissingVersionError(ValueError):
    """The day has no registered version."""


class NotLearntError(ValueError):
    """Consumers that the version waits for have not learnt it: it does not serve yet."""


@dataclass(frozen=True, kw_only=True)
class Version(Summarised):
    """One sealed snapshot of one model. tags: MLflow's."""

    model: str
    number: int
    ds: date
    fingerprint: str
    parent: int | None
    """The version it was warm-started from."""
    path: Path
    """Of its sealed folder on this machine; `snapshots.folder.on_disk` has it there."""
    run_id: str
    decision: Decision
    tags: Mapping[str, str] = field(default_factory=dict)

    @property
    def reference(self) -> str:
        """Where the sealed folder is for everybody: a URI of the archive, or the path of the machine that sealed it."""
        return self.tags.get("path", str(self.path))

    @property
    def metrics(self) -> dict[str, dict[str, float | None]]:
        """Training metrics per task."""
        return metrics_from(self.tags)

    @property
    def training(self) -> str:
        """The fingerprint of what made the weights; the version's own where nothing was done to them since."""
        return self.tags.get("training", self.fingerprint)

    @property
    def embeddings(self) -> Partition | None:
        """The partition of its candidate embeddings, at the table version that holds them; None before `infer`."""
        return partition_from(self.tags, "embeddings", self.ds)

    @property
    def visible(self) -> Partition | None:
        """The same vectors in the consumers' table; None for a version that was never promoted."""
        return partition_from(self.tags, "visible", self.ds)

    @property
    def waits_for(self) -> tuple[str, ...]:
        """The consumers that learn it before it serves, and have not; () where it need not wait."""
        return tuple(self.tags.get("waits_for", "").split())

    @property
    def may_serve(self) -> bool:
        """Promoted, and learnt by whoever learns it first."""
        return self.decision == "promoted" and not self.waits_for

    @property
    def is_servable(self) -> bool:
        """It may serve, and retention has left it."""
        return self.may_serve and "pruned" not in self.tags

    def described(self) -> str:
        """For messages: which version of which day."""
        return f"{self.model} version {self.number} of {self.ds}"


def partition_tags(name: str, partition: Partition) -> dict[str, str]:
    """A reference to a lake partition, as tags `<name>.table`, `.table_version`, `.fingerprint`."""
    return {
        f"{name}.table": partition.table,
        f"{name}.table_version": str(partition.version),
        f"{name}.fingerprint": partition.fingerprint,
    }


def partition_from(tags: Mapping[str, str], name: str, ds: date) -> Partition | None:
    """The partition that `partition_tags` wrote, or None."""
    if f"{name}.table" not in tags:
        return None
    return Partition(
        table=tags[f"{name}.table"],
        ds=ds,
        version=int(tags[f"{name}.table_version"]),
        fingerprint=tags[f"{name}.fingerprint"],
    )


class Registry:
    """The versions, aliases and decisions of every model. MLflow is asked on first use."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings

    @cached_property
    def client(self) -> MlflowClient:
        """TrackingUnavailableError names the URI and the setting when MLflow is down."""
        return tracking.connect(self.settings)

    def find(self, model: str, ds: date, *, training: str | None = None) -> Version | None:
        """The newest version of the day (of that training, when its fingerprint is given), or None."""
        found = [v for v in self._search(model, {"ds": ds.isoformat()}) if training in (None, v.training)]
        return max(found, key=lambda version: version.number, default=None)

    def get(self, model: str, ds: date) -> Version:
        """The newest version of the day; MissingVersionError says what to run."""
        version = self.find(model, ds)
        if version is None:
            raise MissingVersionError(
                f"{model} has no version of {ds}; run `usermodel snapshots publish --recipe {model} --ds {ds}` first"
            )
        return version

    def number(self, model: str, number: int) -> Version:
        """The version of that number."""
        return _version(self.client.get_model_version(model, str(number)), self.settings)

    def versions(self, model: str) -> list[Version]:
        """Every version, oldest first."""
        return sorted(self._search(model, {}), key=lambda version: version.number)

    def aliases(self, model: str) -> dict[str, int]:
        """The version number behind each alias that is set."""
        found = self.client.search_registered_models(f"name = '{model}'")
        return {alias: int(number) for alias, number in found[0].aliases.items()} if found else {}

    def alias(self, model: str, alias: Alias) -> Version | None:
        """The version that the alias names, or None."""
        found = self.aliases(model).get(alias)
        return None if found is None else self.number(model, found)

    def set_alias(self, model: str, alias: Alias, number: int) -> None:
        """Point the alias at the version. NotLearntError: `champion` serves, and the version may not yet."""
        if self.aliases(model).get(alias) != number:
            if alias == "champion":
                _require_learnt(self.number(model, number))
            self.client.set_registered_model_alias(model, alias, str(number))
            log.info("alias moved model=%s alias=%s version=%d", model, alias, number)

    def drop_alias(self, model: str, alias: Alias) -> None:
        """Remove the alias, if it is set."""
        if alias in self.aliases(model):
            self.client.delete_registered_model_alias(model, alias)

    def promoted(self, model: str, *, before: date, servable: bool = False) -> list[Version]:
        """The promoted version of every earlier day, newest day first. servable: of those that may serve, which an
        older version of a day goes on doing while the newer one waits to be learnt."""
        newest: dict[date, Version] = {}
        for version in self._search(model, {"decision": "promoted"}):
            known = newest.get(version.ds)
            if version.ds >= before or (servable and not version.is_servable):
                continue
            if known is None or version.number > known.number:
                newest[version.ds] = version
        return [newest[ds] for ds in sorted(newest, reverse=True)]

    def promoted_embeddings(self, model: str, *, before: date) -> list[Partition]:
        """The embeddings that consumers may see: of every earlier promoted day, newest first."""
        found = [version.visible for version in self.promoted(model, before=before)]
        return [partition for partition in found if partition is not None]

    def promoted_on(self, model: str, ds: date, *, below: int) -> Version | None:
        """The newest promoted version of the day whose number is below `below`."""
        found = [v for v in self._search(model, {"decision": "promoted", "ds": ds.isoformat()}) if v.number < below]
        return max(found, key=lambda version: version.number, default=None)

    def frozen(self, model: str, ds: date | None) -> Version | None:
        """The version that a model which is served frozen stays with: that of `ds`, or the first promoted one that
        retention has left; of those that may serve."""
        oldest_first = reversed(self.promoted(model, before=date.max, servable=True))
        return next((version for version in oldest_first if ds in (None, version.ds)), None)

    def withdrawn(self, model: str) -> list[Version]:
        """The versions that were promoted once and are rejected: nothing of them is used any more."""
        return [version for version in self._search(model, {"decision": "rejected"}) if version.visible is not None]

    def register(
        self,
        model: str,
        ds: date,
        *,
        fingerprint: str,
        run_id: str,
        reference: Mapping[str, Any],
        tags: Mapping[str, str],
    ) -> Version:
        """The version of (ds, fingerprint), registered if there is none. Hold the model's lock."""
        made = tracking.register(
            self.client,
            model,
            run_id=run_id,
            reference=reference,
            key={"ds": ds.isoformat(), "fingerprint": fingerprint},
            tags={"decision": "pending", **tags},
        )
        return self.number(model, int(made.version))

    def tag(self, version: Version, tags: Mapping[str, str]) -> Version:
        """`version` with `tags` on it."""
        for name, value in tags.items():
            if version.tags.get(name) != value:
                self._set_tag(version, name, value)
        return self.number(version.model, version.number)

    def _set_tag(self, version: Version, name: str, value: str) -> None:
        from mlflow.exceptions import MlflowException

        number = str(version.number)
        try:
            self.client.set_model_version_tag(version.model, number, name, value)
        except MlflowException as error:
            if error.error_code != "BAD_REQUEST":
                raise
            # MLflow looks for the tag, then inserts it: of two writers of a new one, the second finds it there now
            self.client.set_model_version_tag(version.model, number, name, value)

    def describe(self, version: Version, text: str) -> None:
        """What MLflow shows at the head of the version's page, Markdown."""
        self.client.update_model_version(version.model, str(version.number), description=text)

    def decide(self, version: Version, decision: Decision, *, by: str, note: str) -> Version:
        """Record the decision, who took it, when and why. The same decision again changes nothing, but a person's
        takes the place of the gate's."""
        if version.decision == decision and by in (BY_GATE, version.tags.get("decided_by")):
            return version
        now = datetime.now(UTC).isoformat(timespec="seconds")  # a record for people; nothing is computed from it
        decided = {"decided_by": by, "decided_at": now, "note": note[:_NOTE_CHARACTERS]}
        log.info("decided model=%s ds=%s version=%d %s by=%s", version.model, version.ds, version.number, decision, by)
        return self.tag(version, {**decided, "decision": decision})

    def _search(self, model: str, tags: Mapping[str, str]) -> list[Version]:
        where = " and ".join(f"tags.`{name}` = '{value}'" for name, value in tags.items())
        found = tracking.find_versions(self.client, model, where)
        return [_version(version, self.settings) for version in found]


def _require_learnt(version: Version) -> None:
    if version.waits_for:
        names = ", ".join(version.waits_for)
        raise NotLearntError(
            f"{version.described()} serves when its consumers have learnt it, and {names} did not: for each, run "
            f"`usermodel trainer downstream --name N --ds D` with a promoted day after {version.ds}; then "
            f"`usermodel snapshots release --recipe {version.model}`"
        )


def _version(found: ModelVersion, settings: Settings) -> Version:
    tags = dict(found.tags)
    decision: Decision = next(known for known in get_args(Decision) if known == tags["decision"])
    return Version(
        model=found.name,
        number=int(found.version),
        ds=date.fromisoformat(tags["ds"]),
        fingerprint=tags["fingerprint"],
        parent=int(tags["parent"]) if tags.get("parent") else None,
        path=path_of(tags["path"], found.name, settings),
        run_id=str(found.run_id),
        decision=decision,
        tags=tags,
    )
