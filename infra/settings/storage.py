"""Where the lake, checkpoints and snapshots lie: under home, in a folder that hosts share, or in object storage."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Self
from urllib.parse import urlsplit

from pydantic import Field, model_validator

from infra.settings.base import Home, is_loopback


class Storage(Home):
    """What all hosts read and write."""

    storage_uri: str | None = Field(
        None,
        description="root of what hosts share: s3://BUCKET/PREFIX, or a folder of theirs; default: home",
    )
    storage_endpoint: str | None = Field(None, description="URL of S3-compatible storage; default: AWS")
    storage_region: str | None = Field(None, description="region of the bucket; default: AWS_REGION, or us-east-1")
    storage_profile: str | None = Field(
        None, description="whose keys of <home>/credentials/storage, or else of AWS's own file; default: AWS_PROFILE"
    )
    storage_allow_http: bool = Field(False, description="let keys and data go in the clear beyond loopback")
    storage_seconds: float = Field(
        60, gt=0, description="a storage request is repeated for so long; then its step fails and says why"
    )
    storage_cache_gib: float = Field(
        20, ge=0, description="of a machine's disk, for what it reads of object storage; more while it is in use"
    )
    lake_uri: str | None = Field(None, description="root of the Delta tables; default: <storage_uri>/lake")

    @model_validator(mode="after")
    def _require_storage(self) -> Self:
        """What is wrong with the storage is said before anything is written there."""
        for uri in filter(None, (self.storage_uri, self.lake_uri)):
            if "://" in uri and not re.fullmatch(r"s3://[a-z0-9][a-z0-9.-]+(/[^/?#]+)*/?", uri):
                raise ValueError(f"{uri} is no place for tables; write s3://BUCKET/PREFIX, or a folder")
        if self.storage_endpoint is None:
            return self
        endpoint = urlsplit(self.storage_endpoint)
        given_away = "@" in endpoint.netloc or endpoint.query
        if endpoint.scheme not in ("http", "https") or not endpoint.hostname or given_away:
            raise ValueError(
                "USERMODEL_STORAGE_ENDPOINT is no URL of a server; write https://HOST:PORT, and keep keys out of it"
            )
        if endpoint.scheme == "http" and not (is_loopback(endpoint.hostname) or self.storage_allow_http):
            raise ValueError(
                f"{self.storage_endpoint} sends keys and data in the clear; use https, or set "
                "USERMODEL_STORAGE_ALLOW_HTTP=true in a network where nobody listens"
            )
        return self

    @property
    def object_storage(self) -> str | None:
        """Root of what lies in object storage, without a slash at its end; None: it lies in folders."""
        return self.storage_uri.rstrip("/") if self.storage_uri and "://" in self.storage_uri else None

    @property
    def shared(self) -> Path:
        """The folder of what hosts share: that of a shared file system, or home. With `object_storage`, a cache."""
        return self.home if self.storage_uri is None or self.object_storage else Path(self.storage_uri).absolute()

    @property
    def lake(self) -> str:
        """Root of the Delta tables."""
        return self.lake_uri or f"{self.object_storage or self.shared}/lake"

    @property
    def landing(self) -> Path:
        """Where generated logs land."""
        return self.shared / "landing"

    @property
    def checkpoints(self) -> Path:
        """Training checkpoints, one folder per model."""
        return self.shared / "checkpoints"

    @property
    def artifacts(self) -> Path:
        """Sealed snapshots, registered by reference in MLflow; one folder per model."""
        return self.shared / "snapshots"

    @property
    def storage_keys_file(self) -> Path:
        """Where `infra up` keeps the keys of object storage, mode 0600, as AWS's own file has them."""
        return self.home / "credentials" / "storage"
