"""The feature store and the online services."""

from __future__ import annotations

import re
from pathlib import Path
from urllib.parse import urlsplit

from pydantic import Field, SecretStr

from infra.settings.base import LOOPBACK, is_loopback
from infra.settings.protection import Protection


class Serving(Protection):
    """What is served, where, out of which store."""

    redis_port: int = Field(6379, ge=1, le=65535, description="port of the embedded Redis")
    redis_memory_mib: int = Field(
        512, ge=1, description="memory of the embedded Redis; beyond it goes what would expire next"
    )
    redis_url: SecretStr | None = Field(
        None, description="another feature store than the embedded Redis; kept in <home>/credentials/redis_url"
    )
    redis_partitions: int = Field(
        1, ge=1, le=16384, description="users are spread over so many slots of a cluster; the same for every client"
    )
    serving_models: str = Field("", description="user models served online, separated by blanks; none: no serving")
    serving_shards: str = Field(
        "", description="models whose tables lie with shards: MODEL=HOST:PORT,HOST:PORT (shard 0 first) …"
    )
    serving_port: int = Field(8090, ge=1, le=65535, description="port of the online service")
    serving_compute_port: int = Field(8091, ge=1, le=65535, description="port of the compute center's metrics")

    @property
    def redis_url_file(self) -> Path:
        """Where `infra up` keeps `redis_url`, mode 0600."""
        return self.home / "credentials" / "redis_url"

    def shards(self) -> dict[str, tuple[str, ...]]:
        """By model, the addresses of its shards. ValueError for what is not `MODEL=HOST:PORT,HOST:PORT …`."""
        found: dict[str, tuple[str, ...]] = {}
        for one in self.serving_shards.split():
            model, given, addresses = one.partition("=")
            found[model] = tuple(addresses.split(","))
            if not (model and given) or not all(re.fullmatch(r"\S+:\d+", address) for address in found[model]):
                raise ValueError(
                    f"USERMODEL_SERVING_SHARDS has {one!r}; write MODEL=HOST:PORT,HOST:PORT, shard 0 first"
                )
        return found

    @property
    def embeds_redis(self) -> bool:
        """Whether the feature store is the Redis that `infra up` starts."""
        return self.redis_url is None and not self.redis_url_file.exists()

    def feature_store(self) -> str:
        """The feature store's URL with its password: a secret. ValueError where there is none yet, and for one on
        another host that is reached in plain, or by anybody."""
        if self.redis_url is not None:
            return self._protected(self.redis_url.get_secret_value())
        if self.redis_url_file.exists():
            return self._protected(self.redis_url_file.read_text(encoding="utf-8").strip())
        password = self.home / "credentials" / "redis_password"
        if not password.exists():
            raise ValueError(f"no feature store: {password} is missing; run infra/up, or set USERMODEL_REDIS_URL")
        return f"redis://:{password.read_text(encoding='utf-8').strip()}@{LOOPBACK}:{self.redis_port}/0"

    def _protected(self, url: str) -> str:
        parts = urlsplit(url)
        if parts.scheme == "unix" or is_loopback(parts.hostname or "localhost"):
            return url
        if self.tls == "required" and not parts.scheme.startswith("rediss"):
            raise ValueError(
                f"the feature store on {parts.hostname} is reached in plain ({parts.scheme}://); beyond loopback write "
                "rediss:// in USERMODEL_REDIS_URL, or set USERMODEL_TLS=elsewhere where a mesh encrypts"
            )
        if not parts.password:
            raise ValueError(
                f"the feature store on {parts.hostname} asks for no password; beyond loopback write "
                "rediss://USER:PASSWORD@HOST:PORT/0 in USERMODEL_REDIS_URL, of a user of its ACL"
            )
        return url

    @property
    def served(self) -> tuple[str, ...]:
        """The user models that are served online."""
        return tuple(self.serving_models.split())
