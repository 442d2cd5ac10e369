from __future__ import annotations

from pathlib import Path

import pytest

from features.object_store import connection, storage_options
from infra.credentials import keep_secrets
from infra.orchestrator import environment
from infra.settings import get_settings

KEY, SECRET = "AKIDSOMEBODY", "a-secret-of-somebody"


def keys_file(path: Path, key: str, *, profile: str = "default", mode: int = 0o600) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"[{profile}]\naws_access_key_id = {key}\naws_secret_access_key = {SECRET}%\n")
    path.chmod(mode)


@pytest.fixture
def home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A process without keys; AWS's own file would be `<home>/aws`."""
    for name in ("ACCESS_KEY_ID", "SECRET_ACCESS_KEY", "SESSION_TOKEN", "PROFILE", "REGION"):
        monkeypatch.delenv(f"AWS_{name}", raising=False)
    monkeypatch.setenv("USERMODEL_HOME", str(tmp_path))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "aws"))
    return tmp_path


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        pytest.param(("environment", "home", "aws"), "environment", id="environment-first"),
        pytest.param(("home", "aws"), "home", id="then-the-file-of-home"),
        pytest.param(("aws",), "aws", id="then-the-profiles-of-aws"),
        pytest.param((), None, id="none-the-role-of-the-machine"),
    ],
)
def test_keys_are_looked_for_in_this_order(
    monkeypatch: pytest.MonkeyPatch, home: Path, given: tuple[str, ...], expected: str | None
) -> None:
    if "environment" in given:
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "environment")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    if "home" in given:
        keys_file(home / "credentials" / "storage", "home")
    if "aws" in given:
        keys_file(home / "aws", "aws", profile="default")
    assert storage_options("s3://bucket").get("aws_access_key_id") == expected
    assert storage_options("/a/folder") == {}


def test_a_profile_is_one_of_the_file(monkeypatch: pytest.MonkeyPatch, home: Path) -> None:
    keys_file(home / "aws", KEY, profile="lake")
    assert connection().keys is None
    monkeypatch.setenv("USERMODEL_STORAGE_PROFILE", "lake")
    get_settings.cache_clear()
    assert storage_options("s3://bucket")["aws_secret_access_key"] == f"{SECRET}%"
    monkeypatch.setenv("USERMODEL_STORAGE_PROFILE", "lkae")
    get_settings.cache_clear()
    with pytest.raises(ValueError, match="has keys of the profile lkae"):
        connection()


def test_keys_that_others_may_read_are_refused(home: Path) -> None:
    keys_file(home / "credentials" / "storage", KEY, mode=0o640)
    assert connection().keys is not None
    keys_file(home / "credentials" / "storage", KEY, mode=0o644)
    with pytest.raises(ValueError, match=r"others may read .*; chmod 600"):
        connection()


def test_half_a_pair_of_keys_is_refused(monkeypatch: pytest.MonkeyPatch, home: Path) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", KEY)
    with pytest.raises(ValueError, match="the environment has one of AWS_access_key_id and AWS_secret_access_key"):
        connection()


def test_a_server_of_our_own_wants_keys(monkeypatch: pytest.MonkeyPatch, home: Path) -> None:
    """Without, each library would ask the machine for a role: seconds, and an error that names neither."""
    monkeypatch.setenv("USERMODEL_STORAGE_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(
        ValueError, match=r"no keys for http://127.0.0.1:9: set AWS_ACCESS_KEY_ID .*credentials/storage"
    ):
        connection()


def test_what_up_keeps_is_what_services_find_and_nothing_shows_it(monkeypatch: pytest.MonkeyPatch, home: Path) -> None:
    monkeypatch.setenv("USERMODEL_STORAGE_URI", "s3://bucket/prefix")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", KEY)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    settings = get_settings().remember()
    keep_secrets(settings)
    given = connection()
    for name in ("USERMODEL_STORAGE_URI", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    get_settings.cache_clear()
    assert get_settings().lake == "s3://bucket/prefix/lake"
    assert connection() == given
    assert settings.storage_keys_file.stat().st_mode & 0o777 == 0o600
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    assert "AWS_SECRET_ACCESS_KEY" not in environment(settings), "services find it in the file"
    shown = f"{settings!r}{given!r}{(home / 'settings.env').read_text()}"
    assert SECRET not in shown
    assert KEY not in shown
