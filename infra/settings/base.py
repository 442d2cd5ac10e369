"""Where an installation keeps its state, and the constants that everybody shares."""

from __future__ import annotations

from ipaddress import ip_address
from pathlib import Path

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict

REPOSITORY = Path(__file__).resolve().parents[2]
LOOPBACK = "127.0.0.1"


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches the address. A name other than localhost is taken for another machine's."""
    try:
        return ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"


class Home(BaseSettings):
    """The home folder. Frozen: a process reads its settings once."""

    model_config = SettingsConfigDict(
        env_prefix="USERMODEL_",
        frozen=True,
        extra="ignore",
        hide_input_in_errors=True,  # a URL may hold a password
    )

    home: Path = Field(REPOSITORY / ".local", description="state, logs and credentials of this installation")
    data_dir: Path | None = Field(None, description="folder of the real logs (the one that holds globo/)")

    @property
    def logs(self) -> Path:
        """Logs of services and training jobs."""
        return self.home / "logs"
