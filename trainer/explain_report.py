"""A feature importance ranking as CSV and picture, and both in the MLflow run of the model that was scored."""

from __future__ import annotations

import csv
import logging
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from trainer import tracking
from trainer.explain import Explanation
from trainer.importance import STANDARD_ERRORS, Importance

if TYPE_CHECKING:
    from mlflow import MlflowClient

log = logging.getLogger(__name__)

CSV, PNG = "importance.csv", "importance.png"
_SHOWN = 30
_COLUMNS = ("task", "rank", "feature", "side", "kind", "ne_increase", "standard_error", "verdict")
_COLOURS = {"helps": "tab:blue", "zero": "tab:gray", "harms": "tab:red"}


def write_csv(explanation: Explanation, path: Path) -> None:
    """Every feature of every task, by task and rank."""
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(_COLUMNS)
        for ranking in explanation.rankings:
            for found in ranking.importances:
                of = found.feature
                shown = (of.name, of.side, of.kind, repr(found.increase), repr(found.error), found.verdict)
                writer.writerow((ranking.task, found.rank, *shown))


def plot(explanation: Explanation, path: Path) -> None:
    """The first features of each task as bars with twice their standard error, as a PNG."""
    shown = [ranking.importances[:_SHOWN] for ranking in explanation.rankings]
    height = 1.5 + 0.25 * max(len(importances) for importances in shown)
    figure = Figure(figsize=(6 * len(shown), height), layout="constrained")
    FigureCanvasAgg(figure)
    for axes, ranking, importances in zip(
        figure.subplots(1, len(shown), squeeze=False)[0], explanation.rankings, shown, strict=True
    ):
        rows = range(len(importances))
        axes.barh(
            rows,
            [found.increase for found in importances],
            xerr=[STANDARD_ERRORS * found.error for found in importances],
            color=[_COLOURS[found.verdict] for found in importances],
        )
        axes.set_yticks(rows, [f"{_label(found)}  {found.rank}" for found in importances])
        axes.invert_yaxis()
        axes.axvline(0, color="black", linewidth=0.5)
        axes.set_xlabel("NE increase")
        axes.set_title(f"{ranking.task}: NE {ranking.ne:.4f}, {len(ranking.importances)} ranked", fontsize="medium")
    figure.suptitle(
        f"{explanation.model} of {explanation.scored_ds} on {explanation.ds}, one feature permuted at a time"
    )
    figure.supxlabel("grey: not told from zero", fontsize="small")
    figure.savefig(path, dpi=100, metadata={"Software": None})


def _label(found: Importance) -> str:
    return f"{found.feature.name} (together)" if found.feature.members else found.feature.name


def log_explanation(
    client: MlflowClient, explanation: Explanation, *, experiment: str, key: dict[str, str], tags: dict[str, str]
) -> str:
    """Put table and picture into the run that `key` identifies, under `explain/ds=<ds>`; returns the run's id.

    Found or made by its tags; the same names are replaced, so logging twice changes nothing.
    """
    run = tracking.open_run(
        client,
        tracking.experiment(client, experiment),
        name=f"{explanation.model} {explanation.scored_ds}",
        key=key,
        tags=tags,
    )
    with TemporaryDirectory() as folder:
        write_csv(explanation, Path(folder) / CSV)
        plot(explanation, Path(folder) / PNG)
        for name in (CSV, PNG):
            client.log_artifact(run, str(Path(folder) / name), f"explain/ds={explanation.ds}")
    if client.get_run(run).info.status == "RUNNING":
        client.set_terminated(run)
    log.info("logged importance model=%s ds=%s run=%s", explanation.model, explanation.ds, run)
    return run


def log_user_model(client: MlflowClient, explanation: Explanation) -> str:
    """Into the run of the version, which `snapshots publish` makes or finds."""
    key = {
        tracking.KIND: "version",
        "ds": explanation.scored_ds.isoformat(),
        "fingerprint": explanation.scored_fingerprint,
    }
    tags = {"model": explanation.model}
    return log_explanation(client, explanation, experiment=explanation.model, key=key, tags=tags)


def log_downstream(client: MlflowClient, explanation: Explanation) -> str:
    """Into the run of the downstream model's day."""
    return log_explanation(
        client,
        explanation,
        experiment=f"downstream/{explanation.model}",
        key={"fingerprint": explanation.scored_fingerprint},
        tags={"ds": explanation.scored_ds.isoformat()},
    )
