from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import SecretStr

from infra.credentials import ensure_credentials, keep_secrets
from infra.settings import REPOSITORY, Settings, get_settings


@pytest.mark.parametrize(
    ("environment", "file", "expected"),
    [
        pytest.param(None, None, 8080, id="default"),
        pytest.param(None, "8081", 8081, id="file-over-default"),
        pytest.param("8082", None, 8082, id="environment-over-default"),
        pytest.param("8082", "8081", 8082, id="environment-over-file"),
    ],
)
def test_a_setting_comes_from_the_environment_then_the_file_then_the_default(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, environment: str | None, file: str | None, expected: int
) -> None:
    monkeypatch.setenv("USERMODEL_HOME", str(tmp_path))
    if environment is not None:
        monkeypatch.setenv("USERMODEL_AIRFLOW_PORT", environment)
    if file is not None:
        (tmp_path / "settings.env").write_text(f"USERMODEL_AIRFLOW_PORT={file}\n")
    assert get_settings().airflow_port == expected


def test_a_test_never_sees_the_home_of_the_installation() -> None:
    assert not get_settings().home.is_relative_to(REPOSITORY)


@pytest.mark.parametrize("port", ["0", "65536", "http"])
def test_a_port_outside_its_range_is_refused_by_name(monkeypatch: pytest.MonkeyPatch, port: str) -> None:
    monkeypatch.setenv("USERMODEL_REDIS_PORT", port)
    with pytest.raises(ValueError, match="redis_port"):
        get_settings()


def test_settings_are_frozen(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path, _env_file=None)
    with pytest.raises(ValueError, match="frozen"):
        settings.redis_port = 1  # type: ignore[misc]


def test_the_feature_store_is_the_embedded_one_unless_another_is_set_or_kept(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path, redis_port=7000, _env_file=None)
    with pytest.raises(ValueError, match=r"redis_password is missing; run infra/up, or set USERMODEL_REDIS_URL"):
        settings.feature_store()
    password = ensure_credentials(settings).redis_password
    assert settings.feature_store() == f"redis://:{password}@127.0.0.1:7000/0"
    other = Settings(home=tmp_path, redis_url=SecretStr("rediss://:secret@far:6380/0"), _env_file=None)
    keep_secrets(other.remember())
    assert other.feature_store() == settings.feature_store() == "rediss://:secret@far:6380/0"
    assert "secret" not in f"{other!r}{(tmp_path / 'settings.env').read_text()}"
    assert settings.redis_url_file.stat().st_mode & 0o777 == 0o600


def test_what_is_served_is_remembered(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("USERMODEL_HOME", str(tmp_path))
    assert get_settings().served == ()
    get_settings().remember(served=["demo", "globo"])
    get_settings.cache_clear()
    assert get_settings().served == ("demo", "globo")
    get_settings().remember(served=[])
    get_settings.cache_clear()
    assert get_settings().served == ()
