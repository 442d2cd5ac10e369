"""What `usermodel infra status` says of the user models, beside the services."""

from __future__ import annotations

from collections.abc import Iterator

from infra.settings import Settings


def model_lines(settings: Settings) -> Iterator[str]:
    """A line per user model that has a version. Asks MLflow."""
    from snapshots.registry import Registry
    from trainer.recipes import USER_MODELS, consumers_of

    registry = Registry(settings)
    for name in USER_MODELS:
        versions = registry.versions(name)
        if not versions:
            continue
        champion = registry.alias(name, "champion")
        newest = f"champion v{champion.number} of {champion.ds}" if champion is not None else "no champion"
        held = [str(version.ds) for version in versions if version.decision == "held"]
        served = "served" if name in settings.served else ""
        told = (newest, f"{len(versions)} versions", f"held: {', '.join(held)}" if held else "", served)
        readers = " ".join(consumers_of(name)) or "nobody"
        yield f"user model {name:<16} {', '.join(filter(None, told))}; read by {readers}"
