"""Faults of the online service, injected into the one that runs; each scenario leaves it whole."""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

from infra.settings import LOOPBACK
from serving.keys import ONE_SERVER
from snapshots.export import WEIGHTS
from snapshots.registry import Registry
from tests.faults.online import ANSWER_SECONDS, USERS, Online, stopped, versions_of
from tests.faults.scenario import Outcome, Trial

READS = 12
NEW_USERS = 1_000_000
"""Ids from here on are nobody's yet: each scenario takes its own."""


def _defaults(service: Online) -> str:
    """Reads of known users that must be the declared default, in words."""
    answers = [service.get(USERS[n]) for n in range(READS)]
    for answer in answers:
        assert answer["default"], f"it was served: {answer['origin']}"
        assert not any(any(row) for row in answer["vectors"]), "the declared default is zeros"
        assert answer["reason"] in ("late", "unavailable"), answer["reason"]
    return f"{READS} reads were defaults, in {max(answer['seconds'] for answer in answers):.2f} s at most"


def _served_again(service: Online) -> float:
    return service.until(lambda: service.get(USERS[0])["origin"] == "store")


def store_stopped(trial: Trial) -> Outcome:
    """Redis stops answering: reads are the default within their deadline, and served again when it goes on."""
    service = trial.world.online
    _served_again(service)
    with stopped(service.redis.process):
        lost = _defaults(service)
    return Outcome(injected=1, lost=f"{lost}; {_served_again(service):.1f} s to recover")


def store_slow(trial: Trial) -> Outcome:
    """Redis answers after seconds: reads are the default within their deadline, and served again when it is fast."""
    service = trial.world.online
    service.store_line.delay_seconds = 2.0
    try:
        lost = _defaults(service)
    finally:
        service.store_line.delay_seconds = 0.0
    return Outcome(injected=1, lost=f"{lost}; {_served_again(service):.1f} s to recover")


def store_killed(trial: Trial) -> Outcome:
    """Redis dies and comes back empty: defaults meanwhile, requests are computed again, a load serves everybody."""
    service, user = trial.world.online, NEW_USERS + 1
    not_asked = USERS[READS]  # of users who were asked for, the worker may write into the empty store what it holds
    service.kill_redis()
    _defaults(service)
    service.start_redis()
    seconds = service.until(lambda: service.get(not_asked)["reason"] == "cold")
    service.post(user)
    service.until(lambda: service.post(user)["origin"] == "store")
    service.fill()
    assert service.get(USERS[0])["origin"] == "store"
    assert service.get(USERS[-1])["origin"] == "store"
    return Outcome(injected=1, lost=f"what was computed since the load; {seconds:.1f} s to recover")


def worker_killed(trial: Trial) -> Outcome:
    """A compute worker is killed mid-batch: the next one computes what it had taken, and nobody is lost."""
    service, users = trial.world.online, range(NEW_USERS + 1_000, NEW_USERS + 1_000 + trial.times(100, 1_000))
    with stopped(service.compute):
        for user in users:
            service.post(user)
    with service.redis.client() as client:
        stream, group = ONE_SERVER.requests("tiny", 0), "compute"
        service.until(lambda: client.xpending(stream, group)["pending"] > 0)
        os.kill(service.compute.pid, signal.SIGKILL)
        taken = int(client.xpending(stream, group)["pending"])
        service.restart_compute()
        missing = [ONE_SERVER.record("tiny", user) for user in users]
        seconds = service.until(lambda: client.exists(*missing) == len(users), seconds=60)
        service.until(lambda: client.xlen(stream) == 0)
    return Outcome(injected=1, lost=f"nothing of {len(users)} users; {taken} were taken over, {seconds:.1f} s later")


def worker_stopped(trial: Trial) -> Outcome:
    """The compute center stands still: no read waits for it, requests queue, and are computed when it goes on."""
    service, user = trial.world.online, NEW_USERS + 2
    with stopped(service.compute):
        answers = [service.post(user) for user in (*USERS, *USERS)]
        assert {(answer["origin"], answer["reason"]) for answer in answers} == {("store", "found")}
        assert service.post(user)["reason"] == "cold"
        slowest = max(answer["seconds"] for answer in answers)
    seconds = service.until(lambda: service.get(user)["origin"] == "store")
    return Outcome(
        injected=1, lost=f"nothing; slowest of {len(answers)} reads {slowest:.2f} s, {seconds:.1f} s to catch up"
    )


def registry_down(trial: Trial) -> Outcome:
    """MLflow goes down while a version is exchanged: the old one serves on, and the new one once MLflow is back."""
    service, times, broken = trial.world.online, trial.times(2, 6), []
    before = _champion(service)
    new = service.publish("sound").number
    for cut in range(times):
        number, user = (new, before)[cut % 2], NEW_USERS + 100 + cut
        service.registry_line.heal()
        service.set_champion(number)
        service.registry_line.cut(cut, loses="request")
        failed = service.counted("registry_errors")
        service.until(lambda failed=failed: service.counted("registry_errors") > failed)
        service.post(user)
        service.until(lambda user=user: service.get(user)["origin"] == "store")
        if versions_of(service.get(user))[0] not in (before, new):
            broken.append(f"cut at request {cut}: {service.get(user)}")
        service.registry_line.heal()
        _computes(service, number, user)
    service.set_champion(before)
    _computes(service, before, NEW_USERS + 199)
    return Outcome(injected=times, broken=tuple(broken), lost="nothing; exchanged once MLflow was back")


def champion_damaged(trial: Trial) -> Outcome:
    """A damaged snapshot becomes the champion: it is refused, and the version before it serves on."""
    service, draw, user = trial.world.online, trial.draw(), NEW_USERS + 200
    before = _champion(service)
    version, refused = service.publish(f"to be damaged {trial.seed}"), service.counted("champions_refused")
    weights = version.path / WEIGHTS
    sound = weights.read_bytes()
    spoilt = bytearray(sound)
    spoilt[draw.randrange(len(spoilt))] ^= 1 << draw.randrange(8)
    weights.chmod(0o644)
    weights.write_bytes(spoilt)
    service.set_champion(version.number)
    try:
        service.until(lambda: service.counted("champions_refused") > refused)
        service.post(user)
        service.until(lambda: service.get(user)["origin"] == "store")
        assert versions_of(service.get(user)) == [before]
    finally:
        weights.write_bytes(sound)
        service.set_champion(before)
    _computes(service, before, user + 1)
    return Outcome(injected=1, lost="nothing")


def future_features(trial: Trial) -> Outcome:
    """A client's clock is wrong: features from the future are refused, and never in the way of later ones."""
    service, user, now = trial.world.online, NEW_USERS + 3, datetime.now(UTC)
    skews = (timedelta(days=1), timedelta(days=10_000))
    for skew in skews:
        service.post(user, at=now + skew)
    service.post(user)
    service.until(lambda: service.get(user)["origin"] == "store")
    times = [datetime.fromisoformat(one["feature_time"]) for one in service.get(user)["pooled"]]
    assert max(times) < now + timedelta(minutes=2), f"{times}"
    service.post(user, at=now - timedelta(days=10_000))
    assert not service.get(user)["default"]
    return Outcome(injected=len(skews) + 1, lost="the requests of the wrong clock")


HOSTILE: dict[str, bytes | tuple[str, str, bytes]] = {
    "no JSON": ("POST", "/v1/embeddings", b"{"),
    "no UTF-8": ("POST", "/v1/embeddings", b'{"user_id": 1, "models": ["\xff"]}'),
    "deep": ("POST", "/v1/embeddings", b'{"features":' * 5_000),
    "a type": ("POST", "/v1/embeddings", b'{"user_id": "1; DROP TABLE"}'),
    "too large an id": ("POST", "/v1/embeddings", b'{"user_id": 99999999999999999999}'),
    "negative": ("POST", "/v1/embeddings", b'{"user_id": -1}'),
    "not a number": ("POST", "/v1/embeddings", b'{"user_id": 1, "features": {"age": NaN}}'),
    "no such feature": ("POST", "/v1/embeddings", b'{"user_id": 1, "features": {"../../etc/passwd": 1}}'),
    "no such model": ("GET", "/v1/users/1/embeddings?model=../../../etc/passwd", b""),
    "a path": ("GET", "/v1/users/..%2f..%2fetc%2fpasswd/embeddings", b""),
    "a key of the store": ("GET", "/v1/users/1%0d%0aFLUSHALL/embeddings", b""),
    "too long a URL": ("GET", f"/v1/users/1/embeddings?model={'x' * 10_000}", b""),
    "too large a body": ("POST", "/v1/embeddings", b" " * 2_000_000),
    "a method": ("DELETE", "/v1/users/1/embeddings", b""),
    "no HTTP": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
    "a foreign host": b"GET /v1/users/1/embeddings HTTP/1.1\r\nHost: evil.example\r\n\r\n",
    "endless headers": b"GET / HTTP/1.1\r\n" + b"A: b\r\n" * 50_000,
}


def hostile_requests(trial: Trial) -> Outcome:
    """Hostile requests: 4xx with a reason, no stack trace, no file, no key, and the service answers on."""
    service, broken = trial.world.online, []
    with service.redis.client() as client:
        files, keys = _files(service), set(client.keys())
        for name, request in HOSTILE.items():
            status, text = _sent(service, request)
            if not 400 <= status < 500 or '"error"' not in text or "Traceback" in text or "site-packages" in text:
                broken.append(f"{name}: {status} {text[:200]}")
        if found := _files(service) - files:
            broken.append(f"files: {sorted(found)[:3]}")
        if found_keys := set(client.keys()) - keys:
            broken.append(f"keys: {sorted(found_keys)[:3]}")
    assert service.get(USERS[0])["origin"] == "store"
    return Outcome(injected=len(HOSTILE), broken=tuple(broken))


def _sent(service: Online, request: bytes | tuple[str, str, bytes]) -> tuple[int, str]:
    """Status and text of what is answered; of bytes, over a connection of their own."""
    if isinstance(request, tuple):
        method, path, body = request
        answer = service.http.request(method, path, content=body, headers={"Content-Type": "application/json"})
        return answer.status_code, answer.text
    url = service.http.base_url
    parts: list[bytes] = []
    with socket.create_connection((LOOPBACK, url.port or 0), timeout=ANSWER_SECONDS * 10) as connection:
        try:
            connection.sendall(request)
            while part := connection.recv(65_536):
                parts.append(part)
                if b"}" in part:
                    break
        except (ConnectionResetError, BrokenPipeError):
            pass
    text = b"".join(parts).decode("latin-1")
    _, _, after = text.partition(" ")
    return int(after[:3] or 0), text


def _files(service: Online) -> set[str]:
    home = service.settings.home
    return {str(path.relative_to(home)) for path in home.rglob("*")}


def _champion(service: Online) -> int:
    return Registry(service.settings).aliases("tiny")["champion"]


def _computes(service: Online, number: int, user: int) -> None:
    """Until the worker computes with the version."""

    def newest() -> bool:
        service.post(user)
        return versions_of(service.get(user))[:1] == [number]

    waited: Callable[[], object] = newest
    service.until(waited)
