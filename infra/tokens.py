"""The tokens of an installation's clients: digests in one file for the services, each token in a file of its own."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from infra.credentials import private_folder, write_private
from infra.settings import Settings
from serving.secured.tokens import make_client, parse
from trainer.locks import file_lock


def tokens_file(settings: Settings) -> Path:
    """The setting's, or the home folder's own."""
    return settings.tokens_file or settings.home.resolve() / "credentials" / "tokens"


def give(settings: Settings, name: str, scopes: frozenset[str]) -> tuple[Path, Path]:
    """One more token for the client: the services' file, and the file of the token, mode 0600.

    A token that it has already goes on counting, so that it can be exchanged without a pause; `take_back` ends all.
    The other lines stay as they are. Of two at once, the second waits. ValueError: such a name or scope cannot be, or
    the services' file is broken.
    """
    client, token = make_client(name, scopes)
    kept = tokens_file(settings)
    own = private_folder(private_folder(settings.home.resolve() / "credentials") / "tokens.d") / name
    with _lines(kept) as lines:
        lines.append(client.line())
        _write(kept, lines)  # first: a token that is shown counts
        write_private(own, token + "\n")
    return kept, own


def take_back(settings: Settings, name: str) -> Path:
    """End every token of the client; the other lines stay as they are. ValueError: it has none."""
    kept = tokens_file(settings)
    with _lines(kept) as lines:
        owners = [_owner(line) for line in lines]
        if name not in owners:
            names = ", ".join(sorted({owner for owner in owners if owner})) or "nobody"
            raise ValueError(f"{name} has no token in {kept}; {names} has")
        _write(kept, [line for line, owner in zip(lines, owners, strict=True) if owner != name])
        (settings.home.resolve() / "credentials" / "tokens.d" / name).unlink(missing_ok=True)
    return kept


@contextmanager
def _lines(path: Path) -> Iterator[list[str]]:
    """Of the services' file, which is nobody else's until the end. Its folder may be one that others use."""
    with file_lock(path.with_name(f".{path.name}.lock")):
        text = path.read_text(encoding="utf-8") if path.exists() else ""
        parse(text, str(path))
        yield text.splitlines()


def _owner(line: str) -> str | None:
    """Whose token it has; None: a comment."""
    found = parse(line, "a line")
    return found[0].name if found else None


def _write(path: Path, lines: list[str]) -> None:
    write_private(path, "".join(f"{line}\n" for line in lines))
