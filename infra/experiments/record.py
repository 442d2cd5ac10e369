"""Where a finding goes: files in the home, and one MLflow run per execution."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from features.sources.synthetic import SyntheticWorld
from infra.experiments.finding import Finding
from infra.experiments.picture import draw
from infra.experiments.setting import Setting
from infra.experiments.study import home_of
from infra.settings import Settings
from trainer import tracking

log = logging.getLogger(__name__)

TABLE, RESULT, PLOT = "table.md", "result.json", "plot.png"


SHARED_DATA = (
    "The days are real, and every seed has the same ones: seeds draw initial weights alone, so intervals tell nothing "
    "of other users or days."
)


def write(finding: Finding, settings: Settings) -> Path:
    """The finding's folder, `<home>/experiments/<study>/<setting>`, with table, JSON and picture."""
    folder = home_of(settings) / finding.name / finding.setting
    folder.mkdir(parents=True, exist_ok=True)
    (folder / TABLE).write_text(finding.markdown(), encoding="utf-8")
    (folder / RESULT).write_text(json.dumps(finding.plain(), indent=2) + "\n", encoding="utf-8")
    draw(finding, folder / PLOT)
    return folder


def log_run(finding: Finding, setting: Setting, folder: Path, *, settings: Settings) -> str:
    """A new run of the experiment `experiments/<study>`; returns its id. TrackingUnavailableError where MLflow does not
    answer."""
    client = tracking.connect(settings)
    experiment = tracking.experiment(client, f"experiments/{finding.name}")
    run = client.create_run(experiment, run_name=f"{finding.name} {finding.setting}", tags={"setting": finding.setting})
    run_id = str(run.info.run_id)
    params = {
        "setting": setting.name,
        "source": setting.source.name,
        "days": f"{setting.days[0]}..{setting.days[-1]}",
        "one_of": setting.one_of,
        "seeds": " ".join(map(str, finding.seeds)),
        "user_models": " ".join(setting.user_models),
    }
    for name, value in params.items():
        client.log_param(run_id, name, value)
    tracking.log_metrics(client, run_id, finding.metrics(), ds=setting.days[-1])
    for verdict in finding.verdicts:
        log.info("experiment=%s verdict=%s claim=%r", finding.name, verdict.word, verdict.claim)
    client.log_artifacts(run_id, str(folder))
    client.set_terminated(run_id)
    log.info("logged experiment=%s setting=%s run=%s", finding.name, finding.setting, run_id)
    return run_id


def record(finding: Finding, setting: Setting, *, settings: Settings, say: Callable[[str], None]) -> Path:
    """Both, with a note where seeds share their data; without MLflow the files alone, and it is said."""
    if not isinstance(setting.source, SyntheticWorld):
        finding = replace(finding, notes=(*finding.notes, SHARED_DATA))
    folder = write(finding, settings)
    try:
        log_run(finding, setting, folder, settings=settings)
    except tracking.TrackingUnavailableError as error:
        say(f"not logged to MLflow: {error}; {folder} has the outcome")
    return folder
