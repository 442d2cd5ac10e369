"""A worker's side: the rows of a batch from all shards at the same time, each call with a deadline."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Self, TypeVar

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pyarrow import flight

from serving.secured.tls import Tls
from serving.shards.certificates import client_side
from serving.shards.partition import Needed, Share
from serving.shards.server import LOAD, STATUS
from serving.shards.share import Rows
from serving.shards.ticket import Ticket, require_sha256

T = TypeVar("T")

DEADLINE_SECONDS = 1.0
LOAD_SECONDS = 120.0
_POLL_SECONDS = 0.02
_OPTIONS = [
    # a shard that was started again is found at once: channels of a process share no pause after a failure
    ("grpc.initial_reconnect_backoff_ms", 50),
    ("grpc.min_reconnect_backoff_ms", 50),
    ("grpc.max_reconnect_backoff_ms", 500),
    ("grpc.use_local_subchannel_pool", 1),
]


class ShardError(OSError):
    """A shard is gone, late, or has not what was asked for; the message names it. Ask again later."""


class Shards:
    """addresses: `host:port` of shard 0, 1, … of a model; they are connected to when first asked. Safe to share among
    threads. deadline_seconds: of each request for rows. tls: both sides show certificates of its authority; None: in
    plain."""

    def __init__(
        self, addresses: Sequence[str], *, deadline_seconds: float = DEADLINE_SECONDS, tls: Tls | None = None
    ) -> None:
        if not addresses or len(set(addresses)) < len(addresses):
            raise ValueError(f"{list(addresses)}: give the address of each shard once, in their order")
        self.addresses = tuple(addresses)
        self.deadline_seconds = deadline_seconds
        self._shares = [Share(index=index, of=len(addresses)) for index in range(len(addresses))]
        scheme, shown = ("grpc+tcp", {}) if tls is None else ("grpc+tls", client_side(tls))
        self._clients = [flight.connect(f"{scheme}://{one}", generic_options=_OPTIONS, **shown) for one in addresses]
        # twice: while all of them load a version, the one at work is still asked for its rows
        self._threads = ThreadPoolExecutor(2 * len(addresses), thread_name_prefix="shards")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the connections."""
        self._threads.shutdown()
        for client in self._clients:
            client.close()

    def load(self, manifest_sha256: str, *, deadline_seconds: float = LOAD_SECONDS) -> None:
        """Wait until every shard holds the version. ShardError names one that cannot, or does not in time."""
        body = require_sha256(manifest_sha256).encode()
        until = time.monotonic() + deadline_seconds

        def wait(share: Share) -> None:
            while not self._action(share, LOAD, body, deadline_seconds=until - time.monotonic())["held"]:
                if time.monotonic() > until:
                    raise ShardError(f"{self._name(share)} has not loaded {manifest_sha256} in {deadline_seconds} s")
                time.sleep(_POLL_SECONDS)

        self._of_all(wait)

    def status(self) -> list[dict[str, Any]]:
        """Of each shard: `index`, `of`, `bytes` of each version (None while it is loaded)."""
        return self._of_all(lambda share: self._action(share, STATUS, b"", deadline_seconds=self.deadline_seconds))

    def fetch(self, manifest_sha256: str, needed: Needed, into: Mapping[str, Rows]) -> None:
        """Fill `into`, by weight [needed.num_rows, …], with the rows that are needed, shard by shard."""
        if not needed.num_rows:
            return
        raw = {name: values.view(np.uint8).reshape(len(values), -1) for name, values in into.items()}
        ends = np.cumsum([len(places) for places in needed.of_shard])

        def one(share: Share) -> None:
            places = needed.of_shard[share.index]
            if not len(places):
                return
            begin, end = int(ends[share.index]) - len(places), int(ends[share.index])
            part = {name: values[begin:end] for name, values in raw.items()}
            ticket = Ticket(manifest_sha256=manifest_sha256, share=share, places=places).encode()
            self._call(share, self.deadline_seconds, lambda options: self._get(share, ticket, part, options))

        self._of_all(one)

    def _get(self, share: Share, ticket: bytes, into: Mapping[str, NDArray[np.uint8]], options: Any) -> None:
        reader = self._clients[share.index].do_get(flight.Ticket(ticket), options)
        layout = pa.schema([(name, pa.binary(values.shape[1])) for name, values in into.items()])
        if reader.schema != layout:
            raise ShardError(f"{self._name(share)} answers with {reader.schema}, not with {layout}")
        at, num_rows = 0, min(len(values) for values in into.values())
        for message in reader:
            part = message.data
            if at + part.num_rows > num_rows:
                raise ShardError(f"{self._name(share)} answers with more than the {num_rows} rows that were asked for")
            for name, values in into.items():
                values[at : at + part.num_rows] = _raw(part.column(name))
            at += part.num_rows
        if at < num_rows:
            raise ShardError(f"{self._name(share)} answers with {at} rows; {num_rows} were asked for")

    def _action(self, share: Share, kind: str, body: bytes, *, deadline_seconds: float) -> dict[str, Any]:
        def ask(options: Any) -> dict[str, Any]:
            (result,) = self._clients[share.index].do_action(flight.Action(kind, body), options)
            found: dict[str, Any] = json.loads(result.body.to_pybytes())
            return found

        return self._call(share, max(deadline_seconds, _POLL_SECONDS), ask)

    def _call(self, share: Share, deadline_seconds: float, ask: Callable[[Any], T]) -> T:
        """ShardError for whatever Flight says."""
        try:
            return ask(flight.FlightCallOptions(timeout=deadline_seconds))
        except flight.FlightTimedOutError as error:
            raise ShardError(f"{self._name(share)} does not answer within {deadline_seconds:.3g} s") from error
        except flight.FlightServerError as error:
            raise ShardError(f"{self._name(share)}: {str(error).partition('. Detail:')[0]}") from error
        except (flight.FlightError, pa.ArrowException) as error:
            said = str(error).partition(". gRPC client debug")[0]
            raise ShardError(
                f"{self._name(share)} is gone ({said}); start it: `usermodel serving shard --index {share.index} --of "
                f"{share.of}`"
            ) from error

    def _of_all(self, ask: Callable[[Share], T]) -> list[T]:
        """Of every shard, at the same time; the first error, once all have answered."""
        first, *others = self._shares
        running = [self._threads.submit(ask, share) for share in others]
        try:
            own = ask(first)  # on this thread: with one shard there is nobody to hand over to
        finally:
            failed = [error for one in running if (error := one.exception())]
        if failed:
            raise failed[0]
        return [own, *(one.result() for one in running)]

    def _name(self, share: Share) -> str:
        return f"{share} at {self.addresses[share.index]}"


def _raw(column: pa.Array) -> NDArray[np.uint8]:
    """[n, bytes of a row], of the message's own memory."""
    width = column.type.byte_width
    raw = np.frombuffer(column.buffers()[1], np.uint8, count=len(column) * width, offset=column.offset * width)
    return raw.reshape(len(column), width)
