"""What listens beyond loopback needs TLS and tokens; nothing starts without."""

from __future__ import annotations

from pathlib import Path

import pytest

from infra.settings import Settings, is_loopback
from infra.tokens import give
from serving.secured.listen import OPEN, mutual, secured
from tests.serving.secured.made import certificate, home

EVERYWHERE = "0.0.0.0"  # noqa: S104


@pytest.mark.parametrize(
    ("host", "loopback"),
    [
        ("127.0.0.1", True), ("127.8.9.1", True), ("::1", True), ("[::1]", True), ("localhost", True),
        (EVERYWHERE, False), ("::", False), ("10.0.0.7", False), ("serving", False), ("", False),
        ("localhost.evil.example", False), ("::ffff:10.0.0.7", False),
    ],
)  # fmt: skip
def test_which_addresses_only_this_machine_reaches(host: str, loopback: bool) -> None:
    assert is_loopback(host) == loopback


def test_loopback_demands_nothing_where_nothing_is_set(tmp_path: Path) -> None:
    assert secured("127.0.0.1", home(tmp_path)) == OPEN
    assert mutual("127.0.0.1", home(tmp_path)) is None


@pytest.mark.parametrize(
    ("has", "elsewhere", "words"),
    [
        pytest.param((), False, "USERMODEL_TLS_CERTIFICATE", id="nothing"),
        pytest.param(("tokens",), False, "USERMODEL_TLS_CERTIFICATE", id="no-certificate"),
        pytest.param(("certificate",), False, "USERMODEL_TOKENS_FILE", id="no-tokens"),
        pytest.param((), True, "USERMODEL_TOKENS_FILE", id="a-mesh-and-no-tokens"),
        pytest.param(("tokens",), True, "", id="a-mesh-and-tokens"),
        pytest.param(("certificate", "tokens"), False, "", id="both"),
    ],
)
def test_beyond_loopback(tmp_path: Path, has: tuple[str, ...], elsewhere: bool, words: str) -> None:
    settings = home(tmp_path)
    made: dict[str, object] = {"tls": "elsewhere"} if elsewhere else {}
    if "certificate" in has:
        issued = certificate(settings)
        made |= {"tls_certificate": issued.certificate, "tls_key": issued.key, "tls_ca": issued.ca}
    if "tokens" in has:
        made["tokens_file"] = give(settings, "shop", frozenset({"embeddings"}))[0]
    given = Settings(home=tmp_path, _env_file=None, **made)  # type: ignore[arg-type]
    if words:
        with pytest.raises(ValueError, match=f"0.0.0.0 is beyond loopback.*{words}"):
            secured(EVERYWHERE, given)
    else:
        demands = secured(EVERYWHERE, given)
        assert demands.tokens is not None
        assert (demands.tls is not None) == ("certificate" in has)


def test_half_a_certificate_is_refused(tmp_path: Path) -> None:
    issued = certificate(home(tmp_path))
    with pytest.raises(ValueError, match="needs its key: set USERMODEL_TLS_CERTIFICATE and USERMODEL_TLS_KEY"):
        secured("127.0.0.1", Settings(home=tmp_path, tls_certificate=issued.certificate, _env_file=None))
    with pytest.raises(ValueError, match=r"nowhere\.key is no file"):
        secured(
            "127.0.0.1",
            Settings(
                home=tmp_path, tls_certificate=issued.certificate, tls_key=tmp_path / "nowhere.key", _env_file=None
            ),
        )


def test_shards_need_an_authority(tmp_path: Path) -> None:
    issued = certificate(home(tmp_path))
    given = Settings(home=tmp_path, tls_certificate=issued.certificate, tls_key=issued.key, _env_file=None)
    with pytest.raises(ValueError, match="USERMODEL_TLS_CA"):
        mutual("10.0.0.7", given)
    with pytest.raises(ValueError, match="beyond loopback"):
        mutual("10.0.0.7", home(tmp_path))
