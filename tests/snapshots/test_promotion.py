from __future__ import annotations

import logging

import numpy as np
import pytest

from features.lake import Lake
from infra.settings import Settings
from snapshots.embeddings import to_vectors
from snapshots.export import WEIGHTS
from snapshots.gate import gate
from snapshots.promotion import hold, promote, reject, rollback
from snapshots.registry import Registry
from snapshots.report import read_report
from snapshots.seal import DamagedError
from snapshots.shift.measure import Shift, check_shift
from snapshots.shift.rows import ShiftRow
from tests.snapshots.days import FAR, judged_day
from tests.snapshots.world import DAYS, make_tower, newest, publish_day
from trainer import tracking
from trainer.recipe import Recipe


def _aliases(settings: Settings) -> dict[str, int]:
    registry = Registry(settings)
    found = {alias: registry.alias("tiny", alias) for alias in ("candidate", "champion", "previous")}
    return {alias: version.number for alias, version in found.items() if version is not None}


def _find(shift: Shift, **wanted: object) -> ShiftRow:
    (row,) = (row for row in shift.rows if all(getattr(row, name) == value for name, value in wanted.items()))
    return row


def test_the_first_day_has_nothing_to_compare_with(recipe: Recipe, settings: Settings) -> None:
    judged_day(recipe, 0, settings, ne=1.4)
    shift = check_shift(recipe, DAYS[0], settings=settings)
    assert [(row.kind, row.metric, row.value, row.note) for row in shift.rows if row.metric == "predecessor"] == [
        ("same_inputs", "predecessor", 0.0, ""),
        ("consecutive_days", "predecessor", 0.0, ""),
        ("inputs", "predecessor", 0.0, ""),
    ]
    assert gate(recipe, DAYS[0], settings=settings).verdict == "promote", "a cold start is not judged by its NE"
    assert "Nothing to compare with" in read_report(recipe, DAYS[0], settings=settings)


def test_shift_is_what_numpy_says(recipe: Recipe, settings: Settings, lake: Lake) -> None:
    judged_day(recipe, 0, settings)
    promote(recipe, DAYS[0], settings=settings, by="gate")
    judged_day(recipe, 1, settings, noise=0.2)
    shift = check_shift(recipe, DAYS[1], settings=settings)
    assert shift.previous_ds == DAYS[0]
    days = [lake.read(lake.get("candidate_embeddings/tiny", ds)) for ds in DAYS[:2]]
    for column, pooling in (("embedding_1", "none"), ("pooled_0", "3")):
        a, b = (dict(zip(d["user_id"].to_pylist(), to_vectors(d[column], dim=8), strict=True)) for d in days)
        common = sorted(set(a) & set(b))
        norms = [(np.linalg.norm(a[u].astype(float)), np.linalg.norm(b[u].astype(float))) for u in common]
        cosine = [a[u].astype(float) @ b[u] / x / y for u, (x, y) in zip(common, norms, strict=True)]
        change = [abs(y - x) / x for x, y in norms]
        row = _find(shift, kind="consecutive_days", metric="cosine_mean", embedding=int(column[-1]), pooling=pooling)
        assert row.num_users == len(common) == 39
        assert row.value == pytest.approx(np.mean(cosine), abs=1e-9)
        row = _find(
            shift,
            kind="consecutive_days",
            metric="norm_change_p95",
            embedding=int(column[-1]),
            pooling=pooling,
        )
        assert row.value == pytest.approx(np.quantile(change, 0.95), abs=1e-4)
    same = _find(shift, kind="same_inputs", metric="cosine_mean", embedding=0)
    assert same.num_users == 40
    # the users' features did not change between the days here: the model alone is all that moved
    apart = _find(shift, kind="consecutive_days", metric="cosine_mean", embedding=0, pooling="none")
    assert same.value == pytest.approx(apart.value, abs=0.02)
    client = Registry(settings).client
    run = client.get_run(newest(settings, DAYS[1]).run_id)
    assert run.data.metrics["shift same_inputs/cosine_mean 0 pooling none"] == same.value
    trend = tracking.open_trend(client, tracking.experiment(client, "tiny"))
    (point,) = client.get_metric_history(trend, "shift consecutive_days/cosine_mean 0 pooling 3")
    assert point.step == 1


def test_every_step_twice_changes_nothing(recipe: Recipe, settings: Settings, lake: Lake) -> None:
    for ds in range(2):
        judged_day(recipe, ds, settings)
        promote(recipe, DAYS[ds], settings=settings, by="gate")

    def state() -> object:
        tables = ("candidate_embeddings/tiny", "user_embeddings/tiny", "shift/tiny")
        return (
            _aliases(settings),
            [newest(settings, ds) for ds in DAYS[:2]],
            [lake.open(table).version() for table in tables],
        )

    before = state()
    for ds in range(2):
        judged_day(recipe, ds, settings)
        assert gate(recipe, DAYS[ds], settings=settings).verdict == "promote"
        promote(recipe, DAYS[ds], settings=settings, by="gate")
    assert state() == before


def test_promotion_moves_the_champion_and_keeps_the_previous(recipe: Recipe, settings: Settings) -> None:
    for ds in range(3):
        version = judged_day(recipe, ds, settings)
        assert gate(recipe, DAYS[ds], settings=settings).verdict == "promote"
        promotion = promote(recipe, DAYS[ds], settings=settings, by="gate")
        assert promotion.embeddings == newest(settings, DAYS[ds]).visible
        assert promotion.summary()["ds"] == DAYS[ds].isoformat()
        assert promotion.summary()["version"] == version.number
    assert _aliases(settings) == {"candidate": 3, "champion": 3, "previous": 2}
    assert newest(settings, DAYS[2]).tags["decided_by"] == "gate"


def test_a_promotion_killed_half_way_is_finished_by_the_next(
    recipe: Recipe, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    judged_day(recipe, 0, settings)
    promote(recipe, DAYS[0], settings=settings, by="gate")
    judged_day(recipe, 1, settings)

    def die(*_args: object, **_kwargs: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(Registry, "decide", die)
        with pytest.raises(KeyboardInterrupt):
            promote(recipe, DAYS[1], settings=settings, by="gate")
    promote(recipe, DAYS[1], settings=settings, by="gate")
    assert _aliases(settings) == {"candidate": 2, "champion": 2, "previous": 1}
    assert newest(settings, DAYS[1]).decision == "promoted"


def test_a_far_shift_is_held_and_the_on_call_is_told(
    recipe: Recipe, settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    judged_day(recipe, 0, settings)
    promote(recipe, DAYS[0], settings=settings, by="gate")
    version = judged_day(recipe, 1, settings, noise=FAR)
    decision = gate(recipe, DAYS[1], settings=settings)
    assert decision.verdict == "hold"
    assert any("cosine_mean of embedding 0, pooling 3" in reason for reason in decision.reasons)
    with caplog.at_level(logging.ERROR):
        held = hold(recipe, DAYS[1], settings=settings)
        hold(recipe, DAYS[1], settings=settings)
    alerts = [record.getMessage() for record in caplog.records if record.getMessage().startswith("ALERT")]
    assert len(alerts) == 1, "told once"
    assert alerts[0].startswith(
        "ALERT tiny 2026-01-02 version 2 held by gate: the embeddings that consumers read moved"
    )
    assert _aliases(settings) == {"candidate": 2, "champion": 1}
    assert Registry(settings).promoted_embeddings("tiny", before=DAYS[5]) == [newest(settings, DAYS[0]).visible]
    text = held.report.read_text()
    assert text.startswith("# tiny 2026-01-02: HOLD")
    for command in ("promote", "hold", "reject"):
        assert f"usermodel snapshots {command} --recipe tiny --ds 2026-01-02" in text
    assert "usermodel snapshots rollback --recipe tiny" in text
    client = Registry(settings).client
    assert {a.path for a in client.list_artifacts(version.run_id, "report")} == {
        "report/report.html",
        "report/report.md",
    }


def test_a_person_promotes_what_was_held(recipe: Recipe, settings: Settings) -> None:
    judged_day(recipe, 0, settings)
    promote(recipe, DAYS[0], settings=settings, by="gate")
    judged_day(recipe, 1, settings, noise=FAR)
    hold(recipe, DAYS[1], settings=settings)
    promote(recipe, DAYS[1], settings=settings, by="alice", note="a world cup")
    assert _aliases(settings)["champion"] == 2
    judged = gate(recipe, DAYS[1], settings=settings)
    assert judged.verdict == "promote", "what a person decided stands when the day is run again"
    assert judged.reasons[0] == "promoted by alice: a world cup"
    with pytest.raises(ValueError, match="take it back with `usermodel snapshots rollback"):
        hold(recipe, DAYS[1], settings=settings)


def test_a_bad_model_is_rejected(recipe: Recipe, settings: Settings) -> None:
    judged_day(recipe, 0, settings)
    promote(recipe, DAYS[0], settings=settings, by="gate")
    judged_day(recipe, 1, settings, ne=1.2)
    decision = gate(recipe, DAYS[1], settings=settings)
    assert decision.verdict == "reject"
    assert decision.reasons[0] == "ne of click is 1.2000; more than 1 is rejected"
    rejected = reject(recipe, DAYS[1], settings=settings)
    assert rejected.decision == newest(settings, DAYS[1]).decision == "rejected"
    assert _aliases(settings)["champion"] == 1


def test_the_gate_does_not_overturn_a_person(recipe: Recipe, settings: Settings) -> None:
    judged_day(recipe, 0, settings)
    reject(recipe, DAYS[0], settings=settings, by="bob", note="wrong log")
    assert gate(recipe, DAYS[0], settings=settings).verdict == "reject"
    with pytest.raises(ValueError, match="was rejected by bob"):
        promote(recipe, DAYS[0], settings=settings, by="gate")
    assert promote(recipe, DAYS[0], settings=settings, by="bob").version == 1


def test_rollback_goes_back_one_version_and_its_embeddings(recipe: Recipe, settings: Settings, lake: Lake) -> None:
    for ds in range(3):
        judged_day(recipe, ds, settings)
        promote(recipe, DAYS[ds], settings=settings, by="gate")
    before = lake.read(newest(settings, DAYS[1]).visible)
    restored = rollback(recipe, settings=settings, by="alice", note="ctr fell")
    assert restored.version == 2
    assert lake.read(restored.embeddings).equals(before)
    assert _aliases(settings) == {"candidate": 3, "champion": 2, "previous": 1}
    assert newest(settings, DAYS[2]).decision == "rejected"
    assert [p.ds for p in Registry(settings).promoted_embeddings("tiny", before=DAYS[5])] == [
        DAYS[1],
        DAYS[0],
    ]
    assert gate(recipe, DAYS[2], settings=settings).verdict == "reject", "running the day again does not undo it"
    rollback(recipe, settings=settings, by="alice")
    assert _aliases(settings) == {"candidate": 3, "champion": 1}
    with pytest.raises(ValueError, match="no previous champion"):
        rollback(recipe, settings=settings, by="alice")


def test_a_rollback_killed_half_way_goes_one_step_and_no_further(
    recipe: Recipe, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    for ds in range(3):
        judged_day(recipe, ds, settings)
        promote(recipe, DAYS[ds], settings=settings, by="gate")

    def die(*_args: object, **_kwargs: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(Registry, "promoted", die)  # after the champion moved
        with pytest.raises(KeyboardInterrupt):
            rollback(recipe, settings=settings, by="alice")
    rollback(recipe, settings=settings, by="alice")
    assert _aliases(settings) == {"candidate": 3, "champion": 2, "previous": 1}


def test_a_damaged_snapshot_is_not_promoted(recipe: Recipe, settings: Settings) -> None:
    version = judged_day(recipe, 0, settings)
    (version.path / WEIGHTS).chmod(0o644)
    content = bytearray((version.path / WEIGHTS).read_bytes())
    content[-1] ^= 4
    (version.path / WEIGHTS).write_bytes(content)
    with pytest.raises(DamagedError, match=WEIGHTS):
        promote(recipe, DAYS[0], settings=settings, by="gate")
    assert _aliases(settings) == {"candidate": 1}
    assert newest(settings, DAYS[0]).decision == "pending"


def test_a_version_without_embeddings_is_not_promoted(recipe: Recipe, settings: Settings) -> None:
    publish_day(recipe, DAYS[0], make_tower(recipe), settings=settings)
    for step in (promote, gate, check_shift):
        extra = {"by": "gate"} if step is promote else {}
        with pytest.raises(ValueError, match="usermodel snapshots infer --recipe tiny --ds 2026-01-01"):
            step(recipe, DAYS[0], settings=settings, **extra)


def test_an_older_day_does_not_become_the_champion(recipe: Recipe, settings: Settings) -> None:
    for ds in range(3):
        judged_day(recipe, ds, settings)
        if ds != 1:
            promote(recipe, DAYS[ds], settings=settings, by="gate")
    with pytest.raises(ValueError, match="is older than the champion"):
        promote(recipe, DAYS[1], settings=settings, by="alice")
    promote(recipe, DAYS[1], settings=settings, by="alice", allow_older=True)
    assert _aliases(settings)["champion"] == 3
    assert [p.ds for p in Registry(settings).promoted_embeddings("tiny", before=DAYS[5])] == DAYS[2::-1]
