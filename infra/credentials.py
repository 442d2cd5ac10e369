"""Passwords and keys of the services: made once, kept in `<home>/credentials`; files of mode 0600."""

from __future__ import annotations

import base64
import json
import os
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from infra.settings import Settings, aws_environment

JWT_SECRET_BYTES = 64
PASSWORD_BYTES = 18
POSTGRES_USER = "usermodel"
STORAGE_KEYS = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN")


@dataclass(frozen=True, kw_only=True, repr=False)
class Credentials:
    """What the services authenticate with. `repr` is left out so that no log shows a value."""

    folder: Path
    airflow_password: str
    airflow_passwords_file: Path
    api_secret_key: str
    fernet_key: str
    jwt_secret: str
    postgres_password_file: Path
    redis_password: str


def ensure_credentials(settings: Settings) -> Credentials:
    """Read the credentials, making those that do not exist yet; folder mode 0700, files 0600."""
    folder = private_folder(_folder(settings))
    airflow_password = _keep(folder / "airflow_password", _password)
    postgres_password = _keep(folder / "postgres_password", _password)
    passwords_file = airflow_passwords_file(settings)
    write_private(passwords_file, json.dumps({settings.airflow_user: airflow_password}))
    write_private(postgres_passfile(settings), f"*:*:*:{POSTGRES_USER}:{postgres_password}\n")
    return Credentials(
        folder=folder,
        airflow_password=airflow_password,
        airflow_passwords_file=passwords_file,
        api_secret_key=_keep(folder / "api_secret_key", lambda: secrets.token_hex(32)),
        fernet_key=_keep(folder / "fernet_key", _fernet_key),
        jwt_secret=_keep(folder / "jwt_secret", lambda: secrets.token_hex(JWT_SECRET_BYTES)),
        postgres_password_file=folder / "postgres_password",
        redis_password=_keep(folder / "redis_password", _password),
    )


def postgres_passfile(settings: Settings) -> Path:
    """The file from which PostgreSQL's clients read the password."""
    return _folder(settings) / "pgpass"


def airflow_passwords_file(settings: Settings) -> Path:
    """The file from which Airflow reads its users' passwords."""
    return _folder(settings) / "airflow_passwords.json"


def airflow_password(settings: Settings) -> str | None:
    """Of the user that we are at Airflow, out of the file that Airflow reads; None: there is no such file here.
    ValueError: the file does not name it."""
    path = airflow_passwords_file(settings)
    if not path.exists():
        return None
    try:
        return str(json.loads(path.read_text(encoding="utf-8"))[settings.airflow_user])
    except (ValueError, KeyError, TypeError):  # which may tell of its content
        raise ValueError(
            f'{path} has no password of {settings.airflow_user}; write {{"{settings.airflow_user}": "…"}} there, as '
            "Airflow has it, or set USERMODEL_AIRFLOW_USER"
        ) from None


def keep_secrets(settings: Settings) -> None:
    """Keep the URLs that are set, for the services and later commands; a secret does not go to `settings.env`."""
    private_folder(_folder(settings))
    if settings.alert_urls is not None:
        write_private(settings.alert_urls_file, "\n".join([*settings.alert_targets(), ""]))
    if settings.redis_url is not None:
        write_private(settings.redis_url_file, settings.redis_url.get_secret_value() + "\n")
    if settings.object_storage is not None:
        _keep_storage_keys(settings)


def _keep_storage_keys(settings: Settings) -> None:
    """Those of the environment, as AWS's own file has them: a service or another shell finds them there."""
    given = aws_environment()
    lines = [f"{name.lower()} = {given[name]}\n" for name in STORAGE_KEYS if name in given]
    if lines:
        write_private(settings.storage_keys_file, "".join([f"[{settings.storage_profile or 'default'}]\n", *lines]))


def private_folder(path: Path) -> Path:
    """The folder, made if missing, that only its owner enters."""
    path.mkdir(parents=True, exist_ok=True)
    path.chmod(0o700)
    return path


def write_private(path: Path, text: str) -> None:
    """Make `path` hold `text`, mode 0600, at once: a reader sees the old or the new text, never a part."""
    if path.exists() and path.read_text() == text:
        path.chmod(0o600)
        return
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    draft.unlink(missing_ok=True)
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    draft.replace(path)


def _folder(settings: Settings) -> Path:
    return settings.home.resolve() / "credentials"


def _keep(path: Path, make: Callable[[], str]) -> str:
    if not path.exists():
        write_private(path, make())
    path.chmod(0o600)
    if not (value := path.read_text().strip()):
        raise RuntimeError(f"{path} is empty; remove it and start again to make a new one")
    return value


def _password() -> str:
    return secrets.token_urlsafe(PASSWORD_BYTES)


def _fernet_key() -> str:
    return base64.urlsafe_b64encode(secrets.token_bytes(32)).decode()
