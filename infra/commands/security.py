"""`usermodel infra certificates | token`: what a service beyond loopback needs, made for development."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, get_args

import typer

from infra.settings import get_settings


def certificates(
    name: Annotated[str, typer.Argument(help="Whose; the files' name.")] = "services",
    host: Annotated[
        list[str] | None,
        typer.Option(help="A name or address it is reached by; repeated.", show_default="localhost, 127.0.0.1"),
    ] = None,
    days: Annotated[int, typer.Option(help="How long it counts.")] = 90,
) -> None:
    """Make a certificate and its key in .local/credentials/tls, of an authority of this installation's own."""
    from infra.certificates import issue

    made = issue(get_settings(), name, hosts=tuple(host or ("localhost", "127.0.0.1")), days=days)
    typer.echo(f"USERMODEL_TLS_CERTIFICATE={made.certificate}")
    typer.echo(f"USERMODEL_TLS_KEY={made.key}")
    typer.echo(f"USERMODEL_TLS_CA={made.ca}")


def token(
    name: Annotated[str, typer.Argument(help="Of the client.")],
    scope: Annotated[
        list[str] | None,
        typer.Option(help="What it opens: embeddings, people (the pages), metrics; repeated.", show_default="all"),
    ] = None,
    revoke: Annotated[bool, typer.Option("--revoke", help="The client's tokens count no more; make none.")] = False,
) -> None:
    """Make a token for a client of the services; its file is printed, the services keep a digest."""
    from infra.tokens import give, take_back
    from serving.secured.tokens import Scope

    settings = get_settings()
    if revoke:
        kept = take_back(settings, name)
        typer.echo(f"{name} may ask no more; {kept}")
        return
    kept, file = give(settings, name, frozenset(scope or get_args(Scope)))
    _print(kept, file)


def _print(kept: Path, file: Path) -> None:
    typer.echo(f"USERMODEL_TOKENS_FILE={kept}")
    typer.echo(f"USERMODEL_TOKEN_FILE={file}")
