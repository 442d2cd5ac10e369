"""A worker of precomputation as a process: connected, measured, and ended by a signal."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable

from redis.backoff import NoBackoff
from redis.retry import Retry

from infra.settings import LOOPBACK
from serving.compute.service import RETRY_SECONDS, TIMEOUT_SECONDS, end_on_signals, expose
from serving.compute.statistics import Statistics
from serving.connection import UNAVAILABLE, connect
from serving.features import FeatureCodec
from serving.keys import Keys
from serving.secured.listen import OPEN, Secured
from serving.solaris.interfaces import Catalogue, Foundation
from serving.solaris.model import PairModel
from serving.solaris.precompute import Precompute
from serving.solaris.queue import PairQueue
from serving.solaris.statistics import WORKER
from serving.solaris.store import PairStore
from serving.solaris.worker import Options, Worker
from serving.store import Store

log = logging.getLogger(__name__)


def serve(
    foundation: Foundation,
    catalogue: Catalogue,
    codec: FeatureCodec,
    *,
    model: PairModel,
    url: str,
    keys: Keys,
    partitions: Iterable[int] | None = None,
    options: Options,
    metrics_port: int = 0,
    metrics_host: str = LOOPBACK,
    demands: Secured = OPEN,
) -> None:
    """Compute pairs until SIGTERM or SIGINT; then finish what was taken. A second signal ends it at once.

    codec: of the features of the model's source. partitions: this worker's; None: all. metrics_port, metrics_host: of
    Prometheus' page; port 0: none. demands: of who reads it. ValueError: the foundation model is of another width.
    """
    if foundation.width != model.width:
        raise ValueError(f"pairs of {model.name}: width is {model.width}, the foundation model's is {foundation.width}")
    client = connect(url, timeout_seconds=TIMEOUT_SECONDS, retry=Retry(NoBackoff(), 1))
    store, statistics = PairStore(client, model, keys), Statistics(WORKER)
    queue = PairQueue(client, model, keys, range(keys.partitions) if partitions is None else partitions)
    precompute = Precompute(foundation, catalogue, codec, statistics)
    worker = Worker(queue, store, precompute, options=options, statistics=statistics)
    _open(store)
    end_on_signals(worker)
    if metrics_port:
        expose(statistics, metrics_port, host=metrics_host, demands=demands)
    log.info("precomputing model=%s version=%d width=%d", model.name, foundation.version, model.width)
    worker.run()


def _open(store: PairStore) -> None:
    """As soon as the store answers. ValueError: it has another number of partitions."""
    while True:
        try:
            Store(store.redis, store.keys.keys).require_layout()
            store.announce()
            return
        except UNAVAILABLE as error:
            log.warning("the feature store does not answer yet (%s)", error)
            time.sleep(RETRY_SECONDS)
