"""A shard as a service: rows of the tables over Arrow Flight.

`DoGet` with a `Ticket`: record batches of raw rows, a fixed-size binary column per weight. Actions: `load` (body: the
manifest's SHA-256) begins to load a version and says whether it is there; `status` says what is held. Who may connect
may read the weights: it listens on loopback, or demands a certificate of its own authority.
"""

from __future__ import annotations

import json
import logging
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pyarrow import flight

from infra.settings import LOOPBACK
from serving.secured.tls import Tls
from serving.shards.certificates import server_side
from serving.shards.held import KEEP_SECONDS, Held
from serving.shards.partition import Share
from serving.shards.share import Rows
from serving.shards.ticket import Ticket, require_sha256

log = logging.getLogger(__name__)

ROWS_PER_MESSAGE = 1 << 14
LOAD, STATUS = "load", "status"


class ShardServer(flight.FlightServerBase):  # type: ignore[misc]
    """Serves from when it is made. snapshots: the model's sealed folders. port 0: any that is free, see `port`."""

    def __init__(
        self,
        snapshots: Path,
        share: Share,
        *,
        host: str = LOOPBACK,
        port: int = 0,
        keep_seconds: float = KEEP_SECONDS,
        tls: Tls | None = None,
    ) -> None:
        self.held = Held(snapshots, share, keep_seconds=keep_seconds)
        scheme, demanded = ("grpc+tcp", {}) if tls is None else ("grpc+tls", server_side(tls))
        super().__init__(f"{scheme}://{host}:{port}", **demanded)

    def do_get(self, context: Any, ticket: Any) -> Any:
        """Rows of the share, in the ticket's order."""
        try:
            wanted = Ticket.decode(ticket.ticket)
            if wanted.share != self.held.share:
                raise ValueError(
                    f"this is {self.held.share}, not {wanted.share}; the order of addresses is the shards'"
                )
            rows = self.held.rows(wanted.manifest_sha256, wanted.places)
        except Exception as error:  # whatever it is, the worker is told
            raise _refused(error) from error
        schema = pa.schema([(name, pa.binary(values[:1].nbytes)) for name, values in rows.items()])
        return flight.GeneratorStream(schema, _messages(schema, rows, wanted.places))

    def do_action(self, context: Any, action: Any) -> Iterator[bytes]:
        """One result, JSON."""
        try:
            if action.type == LOAD:
                yield self._load(action.body.to_pybytes())
            elif action.type == STATUS:
                yield self._status()
            else:
                raise ValueError(f"{action.type[:80]!r} is no action; there are {LOAD} and {STATUS}")
        except Exception as error:  # whatever it is, the worker is told
            raise _refused(error) from error

    def list_actions(self, context: Any) -> list[tuple[str, str]]:
        """By name."""
        return [(LOAD, "load the version of this manifest's SHA-256"), (STATUS, "the versions that are held")]

    def _load(self, body: bytes) -> bytes:
        held = self.held.load(require_sha256(body[:80].decode("ascii", "replace")))
        return json.dumps({"held": held}).encode()

    def _status(self) -> bytes:
        share, num_bytes = self.held.share, self.held.num_bytes()
        return json.dumps({"index": share.index, "of": share.of, "bytes": num_bytes}).encode()


def serve(
    snapshots: Path, share: Share, *, host: str, port: int, ready: Callable[[str], None], tls: Tls | None = None
) -> None:
    """Until SIGINT or SIGTERM. ready: told `host:port` once rows can be asked for. OSError: the port is taken."""
    try:
        server = ShardServer(snapshots, share, host=host, port=port, tls=tls)
    except (pa.ArrowException, flight.FlightError) as error:
        raise OSError(f"{share} cannot listen on {host}:{port} ({error}); choose another --port") from error
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    with server:  # what is being answered is answered before it ends
        log.info("serving %s address=%s:%d snapshots=%s", share, host, server.port, snapshots)
        ready(f"{host}:{server.port}")
        threading.Event().wait()


def _messages(schema: pa.Schema, rows: Mapping[str, Rows], places: NDArray[np.int64]) -> Iterator[pa.RecordBatch]:
    """At least one, so that a request for nothing is answered."""
    for begin in range(0, max(len(places), 1), ROWS_PER_MESSAGE):
        part = places[begin : begin + ROWS_PER_MESSAGE]
        columns = [
            pa.Array.from_buffers(schema.field(name).type, len(part), [None, pa.py_buffer(values[part])])
            for name, values in rows.items()
        ]
        yield pa.record_batch(columns, schema=schema)


def _refused(error: Exception) -> flight.FlightServerError:
    """Without the traceback that Flight sends of other errors."""
    log.warning("refused: %s", error)
    return flight.FlightServerError(str(error))
