"""The steps of the day, as both a DAG's task and the command line call them: names and days in, plain values out.

Light to import: each step imports what it needs when it runs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from snapshots.summary import plain

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import date

    from infra.settings import Settings
    from serving.replay.result import Replayed
    from snapshots.consumer_lineage import ConsumerLineage
    from snapshots.lineage import Lineage
    from trainer.recipe import Recipe


class NothingToJoinError(ValueError):
    """No promoted embedding is older than the day: a consumer begins with the second promoted day."""


class NothingToLoadError(ValueError):
    """What is promoted waits to be learnt before it serves."""


def resolve(recipe: str, ds: str) -> tuple[Recipe, date, Settings]:
    """The recipe, the day and this process's settings. ValueError names what is unknown or no date."""
    from features.days import parse_day
    from infra.settings import get_settings
    from trainer.recipes import get_recipe

    return get_recipe(recipe), parse_day(ds), get_settings()


def build_examples(recipe: str, ds: str) -> Any:
    """The day's log becomes examples, rejected rows with reasons, and user features."""
    config, day, settings = resolve(recipe, ds)
    from features.examples import build_examples

    return plain(build_examples(config.source, day, settings=settings, reject_max_share=config.reject_max_share))


def train(recipe: str, ds: str, *, after_gap: bool = False) -> Any:
    """One pass over the day's examples, warm-started from the day before."""
    config, day, settings = resolve(recipe, ds)
    from trainer.job import train

    return plain(train(config, day, settings=settings, after_gap=after_gap))


def profile(recipe: str, ds: str, *, steps: int) -> Any:
    """Where the time of a training step goes; nothing is published."""
    config, day, settings = resolve(recipe, ds)
    from trainer.job import profile

    return plain(profile(config, day, settings=settings, steps=steps))


def jobs() -> Any:
    """Training jobs on Slurm or Kubernetes that no attempt collected yet, as their schedulers see them."""
    from infra.settings import get_settings
    from trainer.launch import remote

    return [
        {
            "model": record.model,
            "ds": record.ds,
            "scheduler": record.scheduler,
            "job": record.job,
            "state": "GONE" if status is None else status.state.name,
            "reason": "" if status is None else status.detail or status.reason,
            "directory": record.directory,
        }
        for record, status in remote.jobs(get_settings())
    ]


def cancel_job(recipe: str, ds: str) -> Any:
    """End the day's training job. ValueError: there is none."""
    config, day, settings = resolve(recipe, ds)
    from trainer.launch import remote

    return {"cancelled": remote.cancel_day(config.name, str(day), settings=settings)}


def manifest(recipe: str, ds: str) -> str:
    """What the scheduler of the settings would be given for the day's job."""
    config, day, settings = resolve(recipe, ds)
    from trainer.job import job_directory, work_in
    from trainer.launch import remote

    token = "0" * 12
    directory = job_directory(settings, config.name, day, token=token)
    return remote.manifest(work_in(directory), settings=settings, token=token)


def prune_checkpoints(recipe: str, *, keep_days: int | None = None, dry_run: bool = False) -> Any:
    """Delete checkpoints of old days that nothing needs, here and in the archive. None: as the recipe says."""
    from infra.settings import get_settings
    from trainer.recipes import get_recipe
    from trainer.retention import prune

    config = get_recipe(recipe)
    days = config.keep_days if keep_days is None else keep_days
    paths = prune(get_settings(), config.name, keep_days=days, dry_run=dry_run)
    return {"dry_run": dry_run, "removed": [str(path) for path in paths]}


def prune_snapshots(recipe: str, *, keep_days: int | None = None, dry_run: bool = False) -> Any:
    """Delete snapshots and candidate embeddings of old days that nothing points to. None: as the recipe says."""
    from infra.settings import get_settings
    from snapshots.retention import prune
    from trainer.recipes import get_recipe

    config = get_recipe(recipe)
    days = config.keep_days if keep_days is None else keep_days
    return plain(prune(config, settings=get_settings(), keep_days=days, dry_run=dry_run))


def lineage(recipe: str) -> Lineage:
    """The chain of the model's trained days, with what became stale, late or missing."""
    from infra.settings import get_settings
    from snapshots.lineage import lineage
    from trainer.recipes import get_recipe

    config = get_recipe(recipe)
    return lineage(config.name, f"examples/{config.source.name}", settings=get_settings())


def consumer_lineage(downstream: str) -> ConsumerLineage:
    """The chain of a downstream model's days: what each learnt from, and the user models' versions that it joined."""
    from infra.settings import get_settings
    from snapshots.consumer_lineage import consumer_lineage
    from trainer.recipes import get_downstream

    return consumer_lineage(get_downstream(downstream), settings=get_settings())


def learnt_from(recipe: str) -> dict[int, dict[str, tuple[date, ...]]]:
    """By version of a user model, the days that each downstream model had it to join."""
    from infra.settings import get_settings
    from snapshots.consumer_lineage import learnt_from

    return learnt_from(recipe, settings=get_settings())


def publish(recipe: str, ds: str) -> Any:
    """The trained user tower becomes a sealed, registered version, alias `candidate`."""
    config, day, settings = resolve(recipe, ds)
    from snapshots.publish import publish

    return plain(publish(config, day, settings=settings))


def infer(recipe: str, ds: str, *, workers: int = 1) -> Any:
    """Every active user of the day is embedded with the day's version, and pooled: the three steps that follow."""
    config, day, settings = resolve(recipe, ds)
    from snapshots.inference import infer

    return plain(infer(config, day, settings=settings, workers=workers))


def plan_inference(recipe: str, ds: str) -> list[int]:
    """The shards that the day's users are embedded in."""
    config, day, settings = resolve(recipe, ds)
    from snapshots.inference import plan_inference

    return plan_inference(config, day, settings=settings)


def infer_shard(recipe: str, ds: str, shard: int) -> Any:
    """One shard of the day's users is embedded; nobody sees it yet."""
    config, day, settings = resolve(recipe, ds)
    from snapshots.inference import infer_shard

    return plain(infer_shard(config, day, shard, settings=settings))


def commit_inference(recipe: str, ds: str) -> Any:
    """The shards become the day's candidate embeddings, in one commit."""
    config, day, settings = resolve(recipe, ds)
    from snapshots.inference import commit_inference

    return plain(commit_inference(config, day, settings=settings))


def check_shift(recipe: str, ds: str) -> Any:
    """How far users moved, by model alone and as consumers see it."""
    config, day, settings = resolve(recipe, ds)
    from snapshots.shift.measure import check_shift

    return check_shift(config, day, settings=settings).summary()


def gate(recipe: str, ds: str) -> Any:
    """The verdict on the day: promote, hold or reject, by the recipe's thresholds; the report goes to MLflow."""
    config, day, settings = resolve(recipe, ds)
    from snapshots.gate import gate
    from snapshots.report import write_report

    decision = gate(config, day, settings=settings)
    write_report(config, day, settings=settings)
    return plain(decision)


def promote(recipe: str, ds: str, *, by: str, note: str = "", allow_older: bool = False) -> Any:
    """The day's version becomes champion and its embeddings visible to consumers.

    allow_older: a day before the champion's becomes visible, and the champion stays.
    """
    config, day, settings = resolve(recipe, ds)
    from snapshots.promotion import promote

    return plain(promote(config, day, settings=settings, by=by, note=note, allow_older=allow_older))


def hold(recipe: str, ds: str, *, by: str = "gate", note: str = "") -> Any:
    """The day waits for a person; the on-call is told."""
    config, day, settings = resolve(recipe, ds)
    from snapshots.promotion import hold

    return plain(hold(config, day, settings=settings, by=by, note=note))


def reject(recipe: str, ds: str, *, by: str, note: str = "") -> Any:
    """The day's version is refused; the on-call is told."""
    config, day, settings = resolve(recipe, ds)
    from snapshots.promotion import reject

    return plain(reject(config, day, settings=settings, by=by, note=note))


def read_report(recipe: str, ds: str) -> str:
    """The day's report, as Markdown."""
    config, day, settings = resolve(recipe, ds)
    from snapshots.report import read_report

    return read_report(config, day, settings=settings)


def compare(recipe: str, a: str, b: str, *, rows: int, seed: int = 0) -> Any:
    """Two versions side by side; the page with plots goes to the second one's run in MLflow."""
    from infra.settings import get_settings
    from snapshots.compare.compare import compare
    from trainer.recipes import get_recipe

    return plain(compare(get_recipe(recipe), a, b, settings=get_settings(), rows=rows, seed=seed))


def waits_for(downstream: str, ds: str) -> tuple[str, ...]:
    """The user models whose promotion of the day a downstream model still waits for."""
    from features.days import parse_day
    from infra.settings import get_settings
    from snapshots.consumers import waits_for
    from trainer.recipes import get_downstream

    return waits_for(get_downstream(downstream), parse_day(ds), settings=get_settings())


def retrain_downstream(downstream: str, ds: str) -> Any:
    """One downstream model scored on the day, then trained with it, with and without the embeddings."""
    from features.days import parse_day
    from infra.settings import get_settings
    from trainer.recipes import get_downstream, get_recipe

    settings, day, config = get_settings(), parse_day(ds), get_downstream(downstream)
    from snapshots.consumers import retrain_consumer
    from trainer.downstream.joined import NoEmbeddingsError

    upstreams = tuple(get_recipe(name) for name in config.upstreams)
    try:
        return plain(retrain_consumer(config, upstreams, day, settings=settings))
    except NoEmbeddingsError as nothing:
        raise NothingToJoinError(str(nothing)) from nothing


def explain(recipe: str, ds: str, *, rows: int, repeats: int, seed: int = 0) -> Any:
    """Which features the user model predicts from, on a day that it has not learnt; the ranking goes to MLflow."""
    config, day, settings = resolve(recipe, ds)
    from trainer.explain import explain
    from trainer.explain_report import log_user_model
    from trainer.tracking import connect

    client = connect(settings)
    found = explain(config, day, settings=settings, rows=rows, repeats=repeats, seed=seed)
    return plain(found) | {"run_id": log_user_model(client, found)}


def explain_downstream(downstream: str, ds: str, *, rows: int, repeats: int, seed: int = 0) -> Any:
    """The same for a downstream model: the rank of the user embeddings among its features (Table 1, FI)."""
    from features.days import parse_day
    from infra.settings import get_settings
    from trainer.recipes import get_downstream, get_recipe

    settings, day, config = get_settings(), parse_day(ds), get_downstream(downstream)
    from snapshots.registry import Registry
    from trainer.downstream.explain import explain_downstream
    from trainer.explain_report import log_downstream
    from trainer.tracking import connect

    client = connect(settings)
    registry = Registry(settings)
    promoted = {name: registry.promoted_embeddings(name, before=day) for name in config.upstreams}
    upstreams = [get_recipe(name) for name in config.upstreams]
    found = explain_downstream(
        config, upstreams, day, settings=settings, promoted=promoted, rows=rows, repeats=repeats, seed=seed
    )
    return plain(found) | {"run_id": log_downstream(client, found)}


def replay_serving(
    recipe: str,
    days: str,
    *,
    downstream: str | None,
    modes: str,
    frozen: str | None,
    latency_ms: str,
    delay_ms: int,
    say: Callable[[str], None],
) -> Replayed:
    """The serving modes in event time over `FIRST..LAST`, scored on a downstream model's NE; the result is kept in the
    home. downstream: None for the only consumer. frozen: the day of the frozen snapshot, None for the oldest."""
    from features.days import parse_day, parse_days
    from infra.settings import get_settings
    from serving.replay.modes import Latency, ReplayConfig, modes_named
    from serving.replay.replay import replay
    from serving.replay.result import write
    from trainer.recipes import get_downstream, get_recipe, the_consumer

    upstream, settings = get_recipe(recipe), get_settings()
    config = ReplayConfig(
        modes=modes_named(modes.split(",")),
        latency=Latency.parse(latency_ms),
        delay_ms=delay_ms,
        serving=upstream.serving,
    )
    consumer = the_consumer(recipe) if downstream is None else get_downstream(downstream)
    at = None if frozen is None else parse_day(frozen)
    found = replay(upstream, consumer, parse_days(days), settings=settings, config=config, frozen=at, say=say)
    say(f"kept in {write(found, settings.home / 'serving' / 'replay')}")
    return found


def rollback(recipe: str, *, by: str, note: str = "") -> Any:
    """The champion before becomes champion again."""
    from infra.settings import get_settings
    from snapshots.promotion import rollback
    from trainer.recipes import get_recipe

    return plain(rollback(get_recipe(recipe), settings=get_settings(), by=by, note=note))


def take_back(recipe: str, ds: str, *, by: str, note: str = "") -> Any:
    """A promoted day that does not serve is rejected and vanishes; the champion stays."""
    config, day, settings = resolve(recipe, ds)
    from snapshots.promotion import take_back

    return plain(take_back(config, day, settings=settings, by=by, note=note))


def release(recipe: str) -> Any:
    """What every consumer has learnt serves from now on, where the recipe wants that first."""
    from infra.settings import get_settings
    from snapshots.release import release
    from trainer.recipes import get_recipe

    found = release(get_recipe(recipe), settings=get_settings())
    return plain(found) | {"sentence": found.sentence}


def load_embeddings(recipe: str, ds: str | None, *, again: bool = False) -> Any:
    """The promoted days up to `ds` (None: all) that may serve into the feature store. again: also what was loaded
    before."""
    from features.days import parse_day
    from infra.settings import get_settings
    from serving.load import NothingLearntError, load
    from serving.store import store_of
    from trainer.recipes import get_recipe

    config, day, settings = get_recipe(recipe), None if ds is None else parse_day(ds), get_settings()
    try:
        return plain(load(config, day, store=store_of(settings), settings=settings, again=again))
    except NothingLearntError as nothing:
        raise NothingToLoadError(str(nothing)) from nothing


def view_user(user: int, *, recipe: str | None = None) -> Any:
    """What the feature store holds of the user. recipe: of one user model; else of all that are served."""
    from infra.settings import get_settings
    from serving.store import store_of
    from serving.view import view_models, view_sources
    from trainer.recipes import get_recipe

    store = store_of(get_settings())
    served = {model: told.source for model, told in store.served().items()}
    wanted = served if recipe is None else {get_recipe(recipe).name: get_recipe(recipe).source.name}
    return plain(
        {
            "user": user,
            "models": view_models(store, user, tuple(wanted)),
            "sources": view_sources(store, user, tuple(sorted(set(wanted.values())))),
        }
    )


def check_freshness(recipe: str, *, now: str) -> Any:
    """An alarm for the day that is due and not promoted; `now`: ISO 8601, with its time zone."""
    from datetime import datetime

    from infra.settings import get_settings
    from snapshots.freshness import check_freshness
    from trainer.recipes import get_recipe

    at = datetime.fromisoformat(now)
    if at.tzinfo is None:
        raise ValueError(f"{now} has no time zone; give one, for example {now}+00:00")
    found = check_freshness(get_recipe(recipe), now=at, settings=get_settings())
    return plain(found) | {"sentence": found.sentence}


def alerts(recipe: str, *, send: bool = False) -> Any:
    """Every alert of the model, oldest first. send: first tell whom an alert has not reached."""
    from features.lake import Lake
    from infra.settings import get_settings
    from snapshots.alerts.book import read_alerts, tell_again
    from trainer.recipes import get_recipe

    name, settings = get_recipe(recipe).name, get_settings()
    if send:
        tell_again(name, settings=settings)
    return [plain(alert) | {"open": alert.is_open} for alert in read_alerts(Lake(settings.lake), name)]
