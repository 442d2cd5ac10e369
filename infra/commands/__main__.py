"""`python -m infra.commands`: the same program as `usermodel`."""

from infra.commands import app

app()
