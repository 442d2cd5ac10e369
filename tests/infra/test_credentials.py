from __future__ import annotations

import base64
import json
import stat
from pathlib import Path

import pytest

from infra.credentials import JWT_SECRET_BYTES, ensure_credentials
from infra.settings import Settings


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(home=tmp_path, _env_file=None)


def test_only_the_owner_reads_the_credentials(settings: Settings) -> None:
    folder = ensure_credentials(settings).folder
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert {stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()} == {0o600}


def test_opened_permissions_are_closed_again(settings: Settings) -> None:
    folder = ensure_credentials(settings).folder
    folder.chmod(0o755)
    for path in folder.iterdir():
        path.chmod(0o644)
    test_only_the_owner_reads_the_credentials(settings)


def test_credentials_are_made_once(settings: Settings) -> None:
    assert ensure_credentials(settings) == ensure_credentials(settings)


def test_two_homes_share_nothing(settings: Settings, tmp_path: Path) -> None:
    mine, other = (
        ensure_credentials(settings),
        ensure_credentials(Settings(home=tmp_path / "b", _env_file=None)),
    )
    for name in ("airflow_password", "api_secret_key", "fernet_key", "jwt_secret", "redis_password"):
        assert getattr(mine, name) != getattr(other, name)


def test_keys_have_the_length_that_their_users_ask_for(settings: Settings) -> None:
    credentials = ensure_credentials(settings)
    assert len(bytes.fromhex(credentials.jwt_secret)) == JWT_SECRET_BYTES == 64
    assert len(base64.urlsafe_b64decode(credentials.fernet_key)) == 32
    assert json.loads(credentials.airflow_passwords_file.read_text()) == {"admin": credentials.airflow_password}


def test_no_value_shows_in_a_log(settings: Settings) -> None:
    credentials = ensure_credentials(settings)
    assert credentials.redis_password not in f"{credentials} {credentials!r}"


def test_an_empty_file_is_an_error_that_names_it(settings: Settings) -> None:
    (ensure_credentials(settings).folder / "redis_password").write_text("")
    with pytest.raises(RuntimeError, match=r"redis_password is empty; remove it"):
        ensure_credentials(settings)
