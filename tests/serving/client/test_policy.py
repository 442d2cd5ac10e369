"""Who is answered what: every mode, every state of the store."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from serving.client import policy
from serving.client.answer import Computation
from serving.record import Entry, header
from serving.served import Served
from tests.serving.client.clients import with_policy

NOW = 1_000_000_000.0
SERVED = Served(model="demo", source="s", version=3, ds="2026-01-03", num_embeddings=2, dim=4)


def record(*entries: tuple[int, float], dim: int = 4) -> bytes:
    """(version, seconds since it was written), newest feature time first; the vectors are the version."""
    value = bytearray(header(2, dim))
    value[1] = len(entries)
    for version, age_seconds in entries:
        written = int(NOW - 1000 * age_seconds)
        one = Entry(version=version, feature_ms=written, vectors=np.full((2, dim), version, np.float16)).packed()
        value += one[:12] + written.to_bytes(8, "little") + one[20:]
    return bytes(value)


OLD, YOUNG = record((3, 500.0), (2, 900.0)), record((3, 5.0), (2, 900.0))
WEEK = 7 * 86_400.0


@pytest.mark.parametrize(
    ("given", "served", "value", "computation", "origin", "reason", "said"),
    [
        pytest.param({}, SERVED, None, "queued", "default", "cold", "queued", id="a cold user"),
        pytest.param({}, SERVED, OLD, "queued", "store", "found", "queued", id="what earlier requests computed"),
        pytest.param({}, SERVED, OLD, "dropped", "store", "found", "dropped", id="the buffer is full"),
        pytest.param({}, SERVED, YOUNG, "queued", "store", "found", "queued", id="young, but there is no direct cache"),
        pytest.param({}, None, OLD, "queued", "store", "found", "queued", id="nobody said what is served"),
        pytest.param({"direct_seconds": 60}, SERVED, YOUNG, "queued", "direct", "found", "skipped", id="direct"),
        pytest.param({"direct_seconds": 60}, SERVED, OLD, "queued", "store", "found", "queued", id="direct, too old"),
        pytest.param(
            {"direct_seconds": 60}, None, YOUNG, "queued", "store", "found", "queued", id="direct, version not known"
        ),
        pytest.param(
            {"direct_seconds": 60}, replace(SERVED, version=4), YOUNG, "queued", "store", "found", "queued",
            id="direct, of the version before",
        ),
        pytest.param(
            {"direct_seconds": 60}, SERVED, record((2, 1.0), (3, 1.0)), "queued", "store", "found", "queued",
            id="direct, the newest is not of the version",
        ),
        pytest.param(
            {"failover_seconds": 100}, SERVED, OLD, "queued", "default", "expired", "queued", id="too old"
        ),
        pytest.param(
            {"failover_seconds": 600}, SERVED, OLD, "queued", "store", "found", "queued", id="one entry of it is older"
        ),
        pytest.param({}, replace(SERVED, dim=8), OLD, "queued", "default", "reshaped", "queued", id="another D"),
        pytest.param({}, SERVED, record((3, 5.0), dim=8), "queued", "default", "reshaped", "queued", id="D of before"),
        pytest.param({}, SERVED, OLD[:-1], "queued", "default", "damaged", "queued", id="cut off"),
        pytest.param({}, SERVED, b"", "queued", "default", "damaged", "queued", id="empty"),
        pytest.param(
            {}, SERVED, OLD[:2] + b"\x40\x9c" * 2 + OLD[6:], "queued", "default", "damaged", "queued",
            id="K and D that nothing could hold",
        ),
        pytest.param({}, SERVED, b"\x09" + OLD[1:], "queued", "default", "damaged", "queued", id="another format"),
        pytest.param(
            {}, replace(SERVED, withdrawn=(3, 2)), OLD, "queued", "default", "withdrawn", "queued", id="all withdrawn"
        ),
        pytest.param({"mode": "frozen"}, SERVED, OLD, "queued", "frozen", "found", "queued", id="frozen"),
        pytest.param({"mode": "frozen"}, SERVED, None, "queued", "default", "cold", "queued", id="frozen, cold"),
        pytest.param({"mode": "batch"}, SERVED, OLD, "queued", "batch", "found", "off", id="batch"),
        pytest.param(
            {"mode": "batch", "direct_seconds": 60}, SERVED, YOUNG, "queued", "batch", "found", "off",
            id="batch has nothing to skip",
        ),
        pytest.param(
            {"mode": "batch", "failover_seconds": 100}, SERVED, OLD, "queued", "default", "expired", "off",
            id="batch, of too long ago",
        ),
        pytest.param({"mode": "realtime"}, SERVED, OLD, "computed", "realtime", "found", "computed", id="in time"),
        pytest.param({"mode": "realtime"}, SERVED, OLD, "late", "failover", "found", "late", id="late"),
        pytest.param({"mode": "realtime"}, SERVED, OLD, "failed", "failover", "found", "failed", id="failed"),
        pytest.param({"mode": "realtime"}, SERVED, OLD, "shed", "failover", "found", "shed", id="shed"),
        pytest.param({"mode": "realtime"}, SERVED, None, "late", "default", "cold", "late", id="late and cold"),
        pytest.param(
            {"mode": "realtime", "direct_seconds": 60}, SERVED, YOUNG, "queued", "direct", "found", "skipped",
            id="nothing to wait for",
        ),
    ],
)  # fmt: skip
def test_what_is_answered(
    given: dict[str, Any],
    served: Served | None,
    value: bytes | None,
    computation: Computation,
    origin: str,
    reason: str,
    said: str,
) -> None:
    model = with_policy(**given)
    found = policy.found(model, served, value, now_ms=NOW)
    answer = policy.answer(model, served, 7, found, computation=computation, now_ms=NOW)
    assert (answer.origin, answer.reason, answer.computation) == (origin, reason, said)
    assert answer.is_default == (origin == "default") == (not answer.num_pooled)
    assert answer.vectors.shape == policy.shape(model, served)
    assert answer.vectors.dtype == np.float16
    if answer.is_default:
        assert not answer.vectors.any()


def test_what_is_said_of_the_entries() -> None:
    model = with_policy()
    found = policy.found(model, SERVED, record((3, 5.0), (2, -3.0), (1, 90.0)), now_ms=NOW)
    answer = policy.answer(model, SERVED, 7, found, computation="queued", now_ms=NOW)
    assert (answer.model, answer.user, answer.served_version) == ("demo", 7, 3)
    assert answer.versions == (3, 2, 1)
    assert answer.feature_ms == (int(NOW) - 5_000, int(NOW) + 3_000, int(NOW) - 90_000)
    assert answer.ages_seconds == (5.0, 0.0, 90.0)  # none is negative: clocks are measured, not the same
    assert answer.vectors.tolist() == [[2.0] * 4] * 2


@pytest.mark.parametrize(
    ("withdrawn", "versions", "mean"),
    [
        pytest.param((), (3, 2, 1), 2.0, id="none"),
        pytest.param((2,), (3, 1), 2.0, id="one in the middle"),
        pytest.param((3,), (2, 1), 1.5, id="the newest"),
        pytest.param((3, 9, 2), (1,), 1.0, id="two"),
    ],
)
def test_what_was_taken_back_is_not_pooled(withdrawn: tuple[int, ...], versions: tuple[int, ...], mean: float) -> None:
    model, served = with_policy(), replace(SERVED, withdrawn=withdrawn)
    found = policy.found(model, served, record((3, 1.0), (2, 1.0), (1, 1.0)), now_ms=NOW)
    answer = policy.answer(model, served, 7, found, computation="queued", now_ms=NOW)
    assert answer.versions == versions
    assert answer.vectors.tolist() == [[mean] * 4] * 2


def test_without_the_store() -> None:
    answer = policy.answer(with_policy(), None, 7, policy.nothing("late"), computation="queued", now_ms=NOW)
    assert (answer.origin, answer.reason, answer.vectors.shape) == ("default", "late", (2, 4))
