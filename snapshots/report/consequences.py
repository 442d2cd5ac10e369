"""What a decision would change, in plain words: for a person who has not seen this model before."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from snapshots.registry import Version
from snapshots.report.findings import Findings


@dataclass(frozen=True, kw_only=True)
class Choice:
    """One thing that can be done, and what is so afterwards."""

    name: str
    consumers: str
    champion: str
    command: str


def now(findings: Findings) -> str:
    """What consumers read at this moment, and what serves meanwhile where they learn it first."""
    visible = findings.visible
    if visible is None:
        return "Consumers read nothing yet: no day is promoted."
    sentence = f"Consumers read {visible.ds} (version {visible.number})"
    behind = (findings.ds - visible.ds).days
    sentence += f", {_days(behind)} behind {findings.ds}." if behind > 0 else "."
    if not visible.waits_for:
        return sentence
    serves = "nothing" if findings.champion is None else _of(findings.champion)
    return f"{sentence} It waits for {', '.join(visible.waits_for)} to learn it; until then {serves} serves."


def choices(findings: Findings) -> Iterator[Choice]:
    """Promote, hold, reject; or, once promoted, roll back, or take back what does not serve yet."""
    model, ds = findings.version.model, findings.ds
    day = f"--recipe {model} --ds {ds}"
    if findings.version.decision == "promoted":
        if findings.version.waits_for:
            yield Choice(
                name="take back",
                consumers=f"read {ds} no more",
                champion=f"stays {_of(findings.champion)}",
                command=f"usermodel snapshots rollback {day}",
            )
        yield Choice(
            name="roll back",
            consumers=f"as of {_of(findings.previous_champion)}",
            champion=f"{_of(findings.champion)} → {_of(findings.previous_champion)}",
            command=f"usermodel snapshots rollback --recipe {model}",
        )
        return
    yield _promote(findings, day)
    stay = "stay on nothing" if findings.visible is None else f"stay on {findings.visible.ds}"
    if findings.visible is not None and (behind := (ds - findings.visible.ds).days) > 0:
        stay += f", {_days(behind)} behind and one more each day"
    champion = f"stays {_of(findings.champion)}"
    yield Choice(name="hold", consumers=stay, champion=champion, command=f"usermodel snapshots hold {day}")
    yield Choice(
        name="reject", consumers=f"{stay}; for good", champion=champion, command=f"usermodel snapshots reject {day}"
    )


def afterwards(findings: Findings) -> Iterator[str]:
    """What else follows."""
    model = findings.version.model
    if findings.version.decision == "promoted":
        return
    retrain = f"{', '.join(findings.consumers) or 'no downstream model'} retrains"
    if len(findings.consumers) > 1:
        retrain = retrain.removesuffix("s")
    pooled = findings.recipe.pooling_versions - 1
    pools = f", and the next {_days(pooled)} are pooled with it" if pooled else ""
    yield f"Promoted, {retrain} with it{pools}; held or rejected, not."
    yield "Training goes on from this day's weights either way: if they are bad, mend the log and run the day again."
    undo = f"usermodel snapshots rollback --recipe {model}"
    if _learnt_first(findings):
        undo += f" --ds {findings.ds}"
        yield "It serves when they have learnt it, with the next promoted day."
    yield f"A promotion is undone by `{undo}`, in seconds."


def _promote(findings: Findings, day: str) -> Choice:
    command = f"usermodel snapshots promote {day}"
    if findings.champion is not None and findings.champion.ds > findings.ds:
        return Choice(
            name="promote",
            consumers=f"see {findings.ds} too; the newest stays {findings.visible.ds if findings.visible else 'none'}",
            champion=f"stays {_of(findings.champion)}",
            command=f"{command} --allow-older",
        )
    later = f"stays {_of(findings.champion)} until {_of(findings.version)} is learnt"
    return Choice(
        name="promote",
        consumers=f"move to {findings.ds}",
        champion=later if _learnt_first(findings) else f"{_of(findings.champion)} → {_of(findings.version)}",
        command=command,
    )


def _learnt_first(findings: Findings) -> bool:
    return findings.recipe.serving.after == "learning" and bool(findings.consumers)


def _of(version: Version | None) -> str:
    return "none" if version is None else f"version {version.number} of {version.ds}"


def _days(count: int) -> str:
    return f"{count} day" if count == 1 else f"{count} days"
