"""A worker as a process: connected, measured, and ended by a signal."""

from __future__ import annotations

import logging
import os
import secrets
import signal
import socket
import time
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Protocol

from redis.backoff import NoBackoff
from redis.retry import Retry

from infra.settings import LOOPBACK, Settings
from serving.compute.champions import Champions, Load
from serving.compute.queue import Requests, streams_of
from serving.compute.statistics import Exposed, Statistics
from serving.compute.worker import Options, Worker
from serving.connection import UNAVAILABLE, connect
from serving.features import FeatureCodec
from serving.keys import Keys
from serving.secured.listen import OPEN, Secured, mutual, secured
from serving.secured.page import Page
from serving.shards.sharded_snapshot import embedders
from serving.store import Store

if TYPE_CHECKING:
    from trainer.recipe import Recipe

log = logging.getLogger(__name__)

TIMEOUT_SECONDS = 5.0
POLL_SECONDS = 5.0
RETRY_SECONDS = 1.0


def serve(
    recipes: Sequence[Recipe],
    *,
    settings: Settings,
    url: str,
    keys: Keys,
    partitions: Iterable[int] | None = None,
    options: Options,
    metrics_port: int = 0,
    metrics_host: str = LOOPBACK,
    poll_seconds: float = POLL_SECONDS,
    load: Load | None = None,
) -> None:
    """Compute until SIGTERM or SIGINT; then finish what was taken. A second signal ends it at once.

    partitions: this worker's; None: all. metrics_port, metrics_host: of Prometheus' page; port 0: none. load: None:
    tables lie where the settings say. ValueError: beyond loopback without TLS or tokens (`serving.secured.listen`).
    """
    demands = secured(metrics_host, settings)
    client = connect(url, timeout_seconds=TIMEOUT_SECONDS, retry=Retry(NoBackoff(), 1))
    store, statistics = Store(client, keys), Statistics()
    codecs = {recipe.source.name: FeatureCodec(recipe.schema) for recipe in recipes}
    streams = streams_of(codecs, range(keys.partitions) if partitions is None else partitions, keys)
    consumer = f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(4)}"
    requests = Requests(client, keys, streams, consumer=consumer)
    champions = Champions(
        recipes, settings=settings, store=store, statistics=statistics, load=load or _sharded(settings)
    )
    _open(store, requests)
    worker = Worker(requests, champions, codecs, options=options, statistics=statistics)
    end_on_signals(worker)
    if metrics_port:
        expose(statistics, metrics_port, host=metrics_host, demands=demands)
    champions.start(every_seconds=poll_seconds)
    log.info("computing models=%s streams=%d consumer=%s", [one.name for one in recipes], len(streams), consumer)
    try:
        worker.run()
    finally:
        champions.stop()


def _sharded(settings: Settings) -> Load:
    addresses = settings.shards()
    hosts = {address.rpartition(":")[0] for of in addresses.values() for address in of}
    tls = [mutual(host, settings) for host in sorted(hosts)]
    return embedders(addresses, tls=tls[0] if tls else None)


def _open(store: Store, requests: Requests) -> None:
    """As soon as the store answers. ValueError: it has another number of partitions."""
    while True:
        try:
            store.require_layout()
            requests.open()
            return
        except UNAVAILABLE as error:
            log.warning("the feature store does not answer yet (%s)", error)
            time.sleep(RETRY_SECONDS)


class Stoppable(Protocol):
    """A worker."""

    def stop(self) -> None:
        """Take nothing more, and end."""
        ...


def end_on_signals(worker: Stoppable) -> None:
    """The first SIGTERM or SIGINT drains it, the next ends the process."""

    def end(number: int, _frame: object) -> None:
        for one in (signal.SIGTERM, signal.SIGINT):
            signal.signal(one, lambda again, _: os._exit(128 + again))
        worker.stop()

    for one in (signal.SIGTERM, signal.SIGINT):
        signal.signal(one, end)


def expose(statistics: Statistics, port: int, *, host: str = LOOPBACK, demands: Secured = OPEN) -> Page:
    """Prometheus' page."""
    from prometheus_client import CollectorRegistry, generate_latest

    registry = CollectorRegistry()
    registry.register(Exposed(statistics))
    return Page(lambda: generate_latest(registry), host=host, port=port, demands=demands).start()
