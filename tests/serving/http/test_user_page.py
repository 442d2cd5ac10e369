"""The page of a user: what it says, and that it is safe and changes nothing."""

from __future__ import annotations

import re
import time
from datetime import UTC, datetime

import httpx
import numpy as np
import pytest

from serving.http.heat import scale_of, strip
from serving.http.user_page import span
from serving.record import Entry
from serving.store import Write
from tests.serving.http.service import DAY_SECONDS, Running, announce, wait_until

HOUR_MS = 3_600_000


def words_of(http: httpx.Client, path: str) -> str:
    """The text that a person sees."""
    answer = http.get(path)
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    without = re.sub(r"<style>.*?</style>", " ", answer.text, flags=re.DOTALL)
    return " ".join(re.sub(r"<[^>]*>", " ", without).split())


def write(service: Running, user: int, *entries: tuple[int, int, float]) -> None:
    """(version, feature time, first number) each; the other numbers are 1."""
    for version, feature_ms, first in entries:
        vectors = np.ones((2, 8), np.float16)
        vectors[0, 0] = first
        entry = Entry(version=version, feature_ms=feature_ms, vectors=vectors)
        service.store.write([Write(user=user, entries={"demo": (entry, DAY_SECONDS)}, future_seconds=60)])


def test_what_is_kept_how_old_and_how_far_it_moved(service: Running, http: httpx.Client) -> None:
    now_ms = int(1000 * time.time())
    write(service, 800, (4, now_ms - 50 * HOUR_MS, 1.0), (5, now_ms - 3 * HOUR_MS, 3.0))
    asked = {
        "user_id": 800,
        "features": {},
        "feature_time": datetime.fromtimestamp(now_ms // 1000 - 86_400, UTC).isoformat(),
    }
    assert http.post("/v1/embeddings", json={**asked, "models": ["demo"]}).status_code == 200
    wait_until(lambda: service.store.redis.exists(service.store.keys.queued("shop", 800)))
    words = words_of(http, "/users/800")
    for said in (
        "User 800", "Kept for 1 of 2 user models", "v5, day 2026-01-05 serves", "2 of 3 vectors kept",
        "24 h expires in",
        "A request now gets the mean of 2 vectors", "newest features are 3.0 h old", "24 h old features known",
        "An earlier request waits to be computed",
        "v5 3.0 h ago", "v4 2.1 days ago", "gets the default, zeros marked so: nothing is kept of this user.",
        "Nothing is computed on request in mode batch.",
    ):  # fmt: skip
        assert said in words, said
    assert "0.884" in words  # cosine of (3, 1, ...) and (1, 1, ...), 10 / sqrt(8 * 16)
    assert "41.4 %" in words  # 4 / sqrt(8) - 1
    assert "1.000" in words


def test_a_withdrawn_version_is_left_out(service: Running, http: httpx.Client) -> None:
    now_ms = int(1000 * time.time())
    write(service, 801, (3, now_ms - 50 * HOUR_MS, 1.0), (5, now_ms - HOUR_MS, 1.0))
    try:
        announce(service.store, withdrawn=(3,))
        words = words_of(http, "/users/801")
        assert "A request now gets the vector of v5" in words
        assert "v3 withdrawn" in words
    finally:
        announce(service.store)


def test_a_damaged_record_is_said(service: Running, http: httpx.Client) -> None:
    service.store.redis.set(service.store.keys.record("demo", 802), b"\x07nonsense")
    words = words_of(http, "/users/802")
    assert (
        "zeros marked so: what is kept is damaged. Nothing can be computed before a request brings features." in words
    )


def test_what_nobody_of_us_wrote_is_no_failure(service: Running, http: httpx.Client) -> None:
    service.store.redis.lpush(service.store.keys.record("demo", 804), "a list")
    answer = http.get("/users/804")
    assert (answer.status_code, answer.headers["content-type"]) == (503, "application/json")
    assert http.get("/v1/users/804/embeddings?model=demo").json()["embeddings"]["demo"]["default"]


def test_looking_computes_nothing(service: Running, http: httpx.Client) -> None:
    before = service.store.redis.xlen(service.store.keys.requests("shop", 0))
    words_of(http, "/users/803")
    time.sleep(0.05)
    assert service.store.redis.xlen(service.store.keys.requests("shop", 0)) == before
    assert not service.store.redis.exists(service.store.keys.queued("shop", 803))


def test_nothing_is_loaded_and_no_script_runs(http: httpx.Client) -> None:
    for path in ("/", "/users/800"):
        answer = http.get(path)
        assert answer.headers["content-security-policy"].startswith("default-src 'none'")
        assert "frame-ancestors 'none'" in answer.headers["content-security-policy"]
        assert not re.search(r"<script|<link|<img|https?://|\son\w+=", answer.text), path


def test_the_first_page_leads_to_a_user(http: httpx.Client) -> None:
    words = words_of(http, "/")
    assert "demo async v5 2026-01-05 2 x 8 shop" in words
    found = http.get("/users", params={"id": "800"})
    assert (found.status_code, found.headers["location"]) == (303, "/users/800")


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(0.25, "250 ms"), (1.5, "1.5 s"), (59, "59 s"), (150, "2 min"), (7_200, "2.0 h"), (1_209_600, "14 days")],
)
def test_spans(seconds: float, said: str) -> None:
    assert span(seconds) == said


def test_strips_of_odd_numbers() -> None:
    vector = np.array([0.0, 1.0, -1.0, np.nan, np.inf, -np.inf], np.float16)
    drawn = strip(vector, scale=scale_of(np.array([[1.0, -1.0]])), label="<embedding>")
    assert re.findall(r'fill="(#\w+)"', drawn)[:4] == ["#f7f8fa", "#d9730d", "#1f6fb4", "#f7f8fa"]
    assert "&lt;embedding&gt;" in drawn
    assert scale_of(np.zeros((0, 4))) == 0.0
    assert "nan" not in strip(np.zeros(4, np.float16), scale=0.0, label="zeros")
