"""Every generated file, in one place."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import yaml

from infra.monitoring.compute_panels import COMPUTE
from infra.monitoring.fleet_panels import FLEET
from infra.monitoring.loop_panels import LOOP
from infra.monitoring.rules import documents
from infra.monitoring.serving_panels import SERVING
from infra.settings import REPOSITORY

FOLDER = REPOSITORY / "infra"
DASHBOARDS = (LOOP, SERVING, COMPUTE, FLEET)
RULES = "rules/usermodel.yaml"
HEAD = "# Made by `usermodel infra monitoring`, from infra/monitoring/rules.py and infra/runbooks; do not edit.\n"


def files(runbooks: str) -> Iterator[tuple[str, str]]:
    """Path under `infra`, and text."""
    for dashboard in DASHBOARDS:
        yield f"dashboards/{dashboard.name}.json", json.dumps(dashboard.document(), indent=1, ensure_ascii=False) + "\n"
    yield RULES, HEAD + yaml.safe_dump(documents(runbooks), sort_keys=False, width=118, allow_unicode=True)


def write(folder: Path | None, *, runbooks: str) -> list[Path]:
    """Write them under `folder`; None: `infra` of this checkout. Returns what was written."""
    written = []
    for name, text in files(runbooks):
        path = (folder or FOLDER) / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        written.append(path)
    return written
