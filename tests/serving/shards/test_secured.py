"""Shards and workers that know each other by certificates."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from pyarrow import flight

from infra.settings import Settings
from serving.secured.tls import Tls
from serving.shards.client import ShardError, Shards
from serving.shards.partition import Share
from serving.shards.server import ShardServer
from tests.serving.secured.made import certificate, home, tls_of
from tests.serving.shards.world import MODEL, seal


@contextmanager
def shard(settings: Settings, tls: Tls) -> Iterator[str]:
    """Its address."""
    server = ShardServer(settings.artifacts / MODEL, Share(index=0, of=1), tls=tls)
    try:
        yield f"127.0.0.1:{server.port}"
    finally:
        server.shutdown()


def test_rows_are_for_who_has_a_certificate_of_the_authority(settings: Settings, tmp_path: Path) -> None:
    sealed, both = seal(settings), home(tmp_path / "both")
    with shard(settings, tls_of(certificate(both, "shard"))) as address:
        with Shards([address], deadline_seconds=10.0, tls=tls_of(certificate(both, "worker"))) as shards:
            shards.load(sealed.manifest_sha256)
            assert sealed.manifest_sha256 in shards.status()[0]["bytes"]
        stranger = tls_of(certificate(home(tmp_path / "other"), "worker"))
        pretender = Tls(certificate=stranger.certificate, key=stranger.key, ca=tls_of(certificate(both)).ca)
        for tls in (None, stranger, pretender):
            with Shards([address], deadline_seconds=2.0, tls=tls) as shards, pytest.raises(ShardError):
                shards.status()
        ca = tls_of(certificate(both)).ca
        assert ca is not None
        nobody = flight.connect(f"grpc+tls://{address}", tls_root_certs=ca.read_bytes())
        with pytest.raises(flight.FlightError):
            list(nobody.do_action(flight.Action("status", b""), flight.FlightCallOptions(timeout=2.0)))
        nobody.close()
