from __future__ import annotations

from contextlib import nullcontext
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
    assert ":secret@" not in f"{other!r}{(tmp_path / 'settings.env').read_text()}"
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


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        pytest.param({}, ("{home}/lake", "{home}/checkpoints", None), id="home"),
        pytest.param({"storage_uri": "/mnt/all/"}, ("/mnt/all/lake", "/mnt/all/checkpoints", None), id="shared-folder"),
        pytest.param(
            {"storage_uri": "s3://bucket/users/"},
            ("s3://bucket/users/lake", "{home}/checkpoints", "s3://bucket/users"),
            id="object-storage",
        ),
        pytest.param(
            {"storage_uri": "s3://bucket", "lake_uri": "/lake"},
            ("/lake", "{home}/checkpoints", "s3://bucket"),
            id="lake",
        ),
    ],
)
def test_everything_lies_under_the_storage(
    tmp_path: Path, given: dict[str, str], expected: tuple[str, str, str | None]
) -> None:
    settings = Settings(home=tmp_path, **given, _env_file=None)
    places = (settings.lake, str(settings.checkpoints), settings.object_storage)
    assert places == tuple(place and place.format(home=tmp_path) for place in expected)


@pytest.mark.parametrize(
    ("given", "refused"),
    [
        pytest.param({"storage_uri": "s3://"}, "write s3://BUCKET/PREFIX, or a folder", id="no-bucket"),
        pytest.param({"storage_uri": "gs://bucket"}, "gs://bucket is no place for tables", id="scheme"),
        pytest.param({"lake_uri": "s3://bucket/a?b"}, "is no place for tables", id="query"),
        pytest.param({"storage_endpoint": "store:9000"}, "no URL of a server", id="endpoint"),
        pytest.param({"storage_endpoint": "https://me:key@store"}, "keep keys out of it", id="keys"),
        pytest.param({"storage_endpoint": "https://:key@store"}, "keep keys out of it", id="a-key-without-a-name"),
        pytest.param({"mlflow_uri": "https://me:key@mlflow"}, "MLFLOW_URI holds a name or password", id="registry"),
        pytest.param({"airflow_uri": "https://me:key@airflow"}, "AIRFLOW_URI holds a name or password", id="airflow"),
        pytest.param({"storage_endpoint": "http://store:9000"}, "in the clear; use https", id="clear"),
        pytest.param({"storage_endpoint": "http://127.0.0.1.store"}, "in the clear; use https", id="like-loopback"),
    ],
)
def test_a_storage_that_cannot_be_is_refused(tmp_path: Path, given: dict[str, str], refused: str) -> None:
    with pytest.raises(ValueError, match=refused) as caught:
        Settings(home=tmp_path, **given, _env_file=None)
    assert ":key@" not in str(caught.value)


@pytest.mark.parametrize(
    ("given", "refused"),
    [
        pytest.param({}, "name slurm or kubernetes", id="hosts-of-one-machine"),
        pytest.param({"scheduler": "slurm", "deadline_seconds": 14}, "lower the first, or raise", id="deadline-first"),
        pytest.param({"scheduler": "slurm", "deadline_seconds": 15}, None, id="lost-first"),
    ],
)
def test_what_several_hosts_may_be_told(tmp_path: Path, given: dict[str, object], refused: str | None) -> None:
    with pytest.raises(ValueError, match=refused) if refused else nullcontext():
        Settings(home=tmp_path, hosts=2, **given, _env_file=None)  # type: ignore[arg-type]


@pytest.mark.parametrize("endpoint", ["http://127.0.0.1:9", "http://[::1]:9", "http://localhost:9", "https://store"])
def test_only_loopback_is_spoken_to_in_the_clear(tmp_path: Path, endpoint: str) -> None:
    assert Settings(home=tmp_path, storage_endpoint=endpoint, _env_file=None).storage_endpoint == endpoint
    far = Settings(home=tmp_path, storage_endpoint="http://store:9", storage_allow_http=True, _env_file=None)
    assert far.storage_allow_http
