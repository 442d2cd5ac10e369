"""How this process reaches S3-compatible storage: read once from its settings, for delta-rs and obstore.

Keys are looked for in the environment (AWS_ACCESS_KEY_ID …), in `<home>/credentials/storage`, in AWS's own file of
profiles; without any, each library asks the machine for its role. They are handed to the libraries alone: no URI,
assignment, log line or `settings.env` holds them, and a process elsewhere finds its own in the same way.
"""

from __future__ import annotations

from configparser import ConfigParser
from dataclasses import dataclass
from datetime import timedelta
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, cast
from urllib.parse import urlsplit

from pydantic import SecretStr

from infra.settings import Settings, aws_environment, get_settings

if TYPE_CHECKING:
    from obstore.store import ObjectStore, S3Config, S3Store

_REGION = "us-east-1"
_REQUEST_SECONDS = 20.0
_CONNECT_SECONDS = 5.0
_RETRIES = 10
_TOO_OPEN = 0o037
"""A secret that Kubernetes mounts is readable for the pod's group."""
_ROLE_VARIABLES = ("AWS_WEB_IDENTITY_TOKEN_FILE", "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
                   "AWS_CONTAINER_CREDENTIALS_FULL_URI")  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Keys:
    """Who we are at the storage."""

    access_key_id: SecretStr
    secret_access_key: SecretStr
    session_token: SecretStr | None = None


@dataclass(frozen=True, kw_only=True)
class Connection:
    """Where the storage is. `repr` shows no key."""

    endpoint: str | None
    region: str
    allow_http: bool
    keys: Keys | None
    """None: each library finds the role of the machine."""
    seconds: float
    """A request is repeated for so long."""

    @property
    def access(self) -> dict[str, str]:
        """As Polars and others take it: secrets, to be handed on and never shown."""
        found = {"aws_region": self.region, "aws_conditional_put": "etag"} | self._keys()
        if self.endpoint is not None:
            found |= {"aws_endpoint": self.endpoint, "aws_virtual_hosted_style_request": "false"}
        return found | {"allow_http": str(self.allow_http).lower()}

    @property
    def options(self) -> dict[str, str]:
        """As delta-rs takes them: `access`, and how long it waits."""
        return self.access | {
            "timeout": f"{self._request_seconds:g}s",
            "connect_timeout": f"{_CONNECT_SECONDS:g}s",
            "max_retries": str(_RETRIES),
            "retry_timeout": f"{self.seconds:g}s",
        }

    @lru_cache(maxsize=128)  # noqa: B019
    def store(self, uri: str) -> S3Store:
        """obstore's, rooted at `uri`, with connections of its own that stay open."""
        from obstore.store import S3Store

        config: S3Config = {"region": self.region, "conditional_put": "etag"}
        config |= cast("S3Config", {name.removeprefix("aws_"): value for name, value in self._keys().items()})
        if self.endpoint is not None:
            config |= {"endpoint": self.endpoint, "virtual_hosted_style_request": False}
        return S3Store.from_url(
            uri,
            config=config,
            client_options={
                "allow_http": self.allow_http,
                "timeout": timedelta(seconds=self._request_seconds),
                "connect_timeout": timedelta(seconds=_CONNECT_SECONDS),
            },
            retry_config={"max_retries": _RETRIES, "retry_timeout": timedelta(seconds=self.seconds)},
        )

    @property
    def _request_seconds(self) -> float:
        """One attempt's: an answer that is late is asked for again within `seconds`."""
        return min(_REQUEST_SECONDS, self.seconds)

    def _keys(self) -> dict[str, str]:
        if self.keys is None:
            return {}
        found = {
            "aws_access_key_id": self.keys.access_key_id.get_secret_value(),
            "aws_secret_access_key": self.keys.secret_access_key.get_secret_value(),
        }
        if self.keys.session_token is not None:
            found["aws_session_token"] = self.keys.session_token.get_secret_value()
        return found


def in_object_store(uri: str | Path) -> bool:
    """Whether it is a URI, not a folder."""
    return str(uri).startswith("s3://")


def connection() -> Connection:
    """This process's. ValueError: no keys for a server on loopback, keys that others may read, half a pair of keys."""
    settings, environment = get_settings(), aws_environment()
    endpoint = settings.storage_endpoint
    keys = _from_environment(environment) or _from_files(settings, environment)
    if keys is None and endpoint is not None and not any(name in environment for name in _ROLE_VARIABLES):
        raise ValueError(
            f"no keys for {endpoint}: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or write them, as AWS's own "
            f"file has them, into {settings.storage_keys_file} (mode 0600)"
        )
    return Connection(
        endpoint=endpoint,
        region=settings.storage_region or environment.get("AWS_REGION") or _REGION,
        allow_http=endpoint is not None and urlsplit(endpoint).scheme == "http",
        keys=keys,
        seconds=settings.storage_seconds,
    )


def storage_options(uri: str) -> dict[str, str]:
    """What delta-rs needs for `uri`: nothing for a folder. Holds secrets."""
    return connection().options if in_object_store(uri) else {}


def access_options(uri: str) -> dict[str, str]:
    """The same for other readers of the lake: `polars.read_delta(uri, storage_options=access_options(uri))`."""
    return connection().access if in_object_store(uri) else {}


def object_store(uri: str | Path) -> ObjectStore:
    """obstore's verbs for what lies under `uri`, a folder (made if missing) or s3://BUCKET/PREFIX."""
    if in_object_store(uri):
        return connection().store(str(uri))
    from obstore.store import LocalStore

    return LocalStore(Path(uri).absolute(), mkdir=True)


def _from_environment(environment: dict[str, str]) -> Keys | None:
    found = {name: environment.get(f"AWS_{name.upper()}") for name in Keys.__dataclass_fields__}
    return _keys(found, where="the environment", prefix="AWS_")


def _from_files(settings: Settings, environment: dict[str, str]) -> Keys | None:
    profile = settings.storage_profile or environment.get("AWS_PROFILE") or "default"
    kept = settings.storage_keys_file
    if kept.exists() and kept.stat().st_mode & _TOO_OPEN:
        raise ValueError(f"others may read {kept}; chmod 600 it, and change the keys if they did")
    shared = Path(environment.get("AWS_SHARED_CREDENTIALS_FILE", "~/.aws/credentials")).expanduser()
    for path in (kept, shared):
        parser = ConfigParser(interpolation=None)
        parser.read(path, encoding="utf-8")
        if parser.has_section(profile):
            found = {name: parser.get(profile, f"aws_{name}", fallback=None) for name in Keys.__dataclass_fields__}
            return _keys(found, where=f"[{profile}] of {path}", prefix="aws_")
    if settings.storage_profile is not None:
        raise ValueError(f"neither {kept} nor {shared} has keys of the profile {profile}; write them, or unset it")
    return None


def _keys(found: dict[str, str | None], *, where: str, prefix: str) -> Keys | None:
    if not (found["access_key_id"] or found["secret_access_key"]):
        return None
    if not (found["access_key_id"] and found["secret_access_key"]):
        raise ValueError(f"{where} has one of {prefix}access_key_id and {prefix}secret_access_key; give both")
    return Keys(**{name: SecretStr(value) for name, value in found.items() if value})
