"""Settings of services on other hosts: encrypted and authenticated, or refused by name."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from pydantic import SecretStr

from infra.settings import Settings
from serving.secured.tls import server_context
from tests.serving.secured.made import certificate, home, tls_of
from trainer.tracking import TrackingUnavailableError, connect


@pytest.mark.parametrize(
    ("url", "tls", "words"),
    [
        pytest.param("redis://127.0.0.1:7000/0", "required", "", id="loopback"),
        pytest.param("redis://localhost:7000/0", "required", "", id="loopback-by-name"),
        pytest.param("unix:///run/redis.sock", "required", "", id="a-socket"),
        pytest.param("rediss://u:p@far:6380/0", "required", "", id="tls-and-a-password"),
        pytest.param("rediss+cluster://u:p@far:6380/0", "required", "", id="a-cluster"),
        pytest.param("redis://u:p@far:6380/0", "required", "far is reached in plain.*rediss", id="plain"),
        pytest.param("redis+cluster://u:p@far:6380/0", "required", "far is reached in plain", id="a-plain-cluster"),
        pytest.param("redis://u:p@10.0.0.7:6380/0", "elsewhere", "", id="a-mesh-encrypts"),
        pytest.param("redis://10.0.0.7:6380/0", "elsewhere", "asks for no password", id="a-mesh-and-no-password"),
        pytest.param("rediss://far:6380/0", "required", "asks for no password.*ACL", id="no-password"),
    ],
)
def test_a_feature_store_beyond_loopback(tmp_path: Path, url: str, tls: str, words: str) -> None:
    settings = Settings(home=tmp_path, redis_url=SecretStr(url), tls=tls, _env_file=None)  # type: ignore[arg-type]
    if words:
        with pytest.raises(ValueError, match=words) as refused:
            settings.feature_store()
        assert "u:p" not in str(refused.value)
    else:
        assert settings.feature_store() == url


@pytest.mark.parametrize("name", ["airflow_uri", "mlflow_uri"])
@pytest.mark.parametrize(
    ("uri", "tls", "refused"),
    [
        pytest.param("http://127.0.0.1:5000", "required", False, id="loopback"),
        pytest.param("http://[::1]:5000", "required", False, id="loopback-of-six"),
        pytest.param("http://localhost:5000", "required", False, id="loopback-by-name"),
        pytest.param("https://far:5000/mlflow", "required", False, id="tls"),
        pytest.param("sqlite:////tmp/store.db", "required", False, id="a-file"),
        pytest.param("http://far:5000", "required", True, id="plain"),
        pytest.param("HTTP://10.0.0.7", "required", True, id="plain-in-capitals"),
        pytest.param("http://127.0.0.1.far", "required", True, id="like-loopback"),
        pytest.param("http://far:5000", "elsewhere", False, id="a-mesh-encrypts"),
    ],
)
def test_what_runs_the_loop_beyond_loopback(tmp_path: Path, name: str, uri: str, tls: str, refused: bool) -> None:
    given = {name: uri, "tls": tls}
    if refused:
        with pytest.raises(ValueError, match=f"USERMODEL_{name.upper()} is .* in the clear.*https://.*=elsewhere"):
            Settings(home=tmp_path, **given, _env_file=None)  # type: ignore[arg-type]
    else:
        assert getattr(Settings(home=tmp_path, **given, _env_file=None), name) == uri  # type: ignore[arg-type]


class Guarded(BaseHTTPRequestHandler):
    """A registry without a model, for who knows the token."""

    def do_GET(self) -> None:
        known = self.headers.get("Authorization") == "Bearer known"
        body = b"{}"
        self.send_response(200 if known else 401)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Nothing."""


@contextmanager
def registry(settings: Settings) -> Iterator[tuple[str, Path]]:
    """Its URL, and the authority of its certificate."""
    issued = certificate(settings)
    server = ThreadingHTTPServer(("127.0.0.1", 0), Guarded)
    server.socket = server_context(tls_of(issued)).wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"https://127.0.0.1:{server.server_port}", issued.ca
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def test_mlflow_is_shown_its_token_over_tls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("MLFLOW_TRACKING_TOKEN", "MLFLOW_TRACKING_SERVER_CERT_PATH"):
        monkeypatch.setenv(name, "")  # so that what is set goes with the test
    token = tmp_path / "token"
    token.write_text("known\n")
    with registry(home(tmp_path)) as (url, ca):
        trusted = Settings(home=tmp_path, mlflow_uri=url, tls_ca=ca, mlflow_token_file=token, _env_file=None)
        assert list(connect(trusted).search_registered_models()) == []
        token.write_text("wrong\n")
        with pytest.raises(TrackingUnavailableError, match="HTTP 401"):
            connect(trusted)
        stranger = trusted.model_copy(update={"tls_ca": certificate(home(tmp_path / "other")).ca})
        with pytest.raises(TrackingUnavailableError, match="certificate verify failed"):
            connect(stranger)
