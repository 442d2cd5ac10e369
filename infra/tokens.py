"""The tokens of an installation's clients: digests in one file for the services, each token in a file of its own."""

from __future__ import annotations

from pathlib import Path

from infra.credentials import private_folder, write_private
from infra.settings import Settings
from serving.secured.tokens import Client, make_client, parse


def tokens_file(settings: Settings) -> Path:
    """The setting's, or the home folder's own."""
    return settings.tokens_file or settings.home.resolve() / "credentials" / "tokens"


def give(settings: Settings, name: str, scopes: frozenset[str]) -> tuple[Path, Path]:
    """One more token for the client: the services' file, and the file of the token, mode 0600.

    A token that it has already goes on counting, so that it can be exchanged without a pause; `take_back` ends all.
    """
    client, token = make_client(name, scopes)
    kept = tokens_file(settings)
    own = private_folder(private_folder(settings.home.resolve() / "credentials") / "tokens.d") / name
    write_private(own, token + "\n")
    _write(kept, (*_clients(kept), client))
    return kept, own


def take_back(settings: Settings, name: str) -> Path:
    """End every token of the client. ValueError: it has none."""
    kept = tokens_file(settings)
    clients = _clients(kept)
    left = tuple(client for client in clients if client.name != name)
    if len(left) == len(clients):
        names = ", ".join(sorted({client.name for client in clients})) or "nobody"
        raise ValueError(f"{name} has no token in {kept}; {names} has")
    _write(kept, left)
    (settings.home.resolve() / "credentials" / "tokens.d" / name).unlink(missing_ok=True)
    return kept


def _clients(path: Path) -> tuple[Client, ...]:
    return parse(path.read_text(encoding="utf-8"), str(path)) if path.exists() else ()


def _write(path: Path, clients: tuple[Client, ...]) -> None:
    """Its folder may be one that others use."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_private(path, "".join(f"{client.line()}\n" for client in clients))
