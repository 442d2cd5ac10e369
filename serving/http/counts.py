"""What the service counts of itself."""

from __future__ import annotations

from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry

from serving.metrics import HTTP_IN_FLIGHT, HTTP_REQUESTS, HTTP_SECONDS, READ

if TYPE_CHECKING:
    from starlette.types import Scope


class HttpCounts:
    """By route as it is declared, not as it was asked for: a client cannot make new ones."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.in_flight = 0
        """Requests that are worked on now."""
        self._requests, self._seconds = HTTP_REQUESTS.counter(registry), HTTP_SECONDS.histogram(registry)
        self._read = READ.histogram(registry)
        HTTP_IN_FLIGHT.gauge(registry).set_function(lambda: self.in_flight)

    def read(self, seconds: float) -> None:
        """A read of embeddings took so long."""
        self._read.observe(seconds)

    def done(self, scope: Scope, status: int, seconds: float) -> None:
        """A request was answered with `status`; 0: its client went away."""
        route = getattr(scope.get("route"), "path", "none")
        self._requests.labels(route, str(status)).inc()
        self._seconds.labels(route).observe(seconds)
