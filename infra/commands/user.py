"""`usermodel serving user`: what the feature store holds of a user, as tables."""

from __future__ import annotations

from typing import Any

from rich.table import Table

from infra.commands.options import console


def print_user(found: dict[str, Any]) -> None:
    """A table per model, newest vector first, and a line per source."""
    terminal = console(width=120, highlight=False)
    for model in found["models"]:
        _print_model(model, terminal)
    for source in found["sources"]:
        known = f"{source['num_bytes']} bytes of {source['featured_at']}{_left(source)}"
        waits = "; a request waits to be computed" if source["queued"] else ""
        terminal.print(f"features of {source['source']}: {known if source['featured_at'] else 'unknown'}{waits}")


def _print_model(model: dict[str, Any], terminal: Any) -> None:
    if not model["entries"]:
        why = model["damage"] or "cold, the default is served"
        terminal.print(f"{model['model']}: {why}", markup=False)
        return
    table = Table(title=f"{model['model']}{_left(model)}", title_justify="left")
    for name in ("version", "features of", "age", "written", "cosine to the newest", "pooled"):
        table.add_column(name)
    for entry in model["entries"]:
        table.add_row(
            str(entry["version"]),
            entry["featured_at"],
            _ago(entry["age_seconds"]),
            entry["written_at"],
            " ".join("-" if cosine is None else f"{cosine:.4f}" for cosine in entry["cosines"]),
            "yes" if entry["pooled"] else "no",
        )
    terminal.print(table)


def _left(held: dict[str, Any]) -> str:
    return "" if held["seconds_left"] is None else f", expires in {_ago(held['seconds_left'])}"


def _ago(seconds: float) -> str:
    for unit, size in (("days", 86_400), ("h", 3_600), ("min", 60)):
        if abs(seconds) >= 2 * size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.1f} s"
