"""Hostile input against the running service: refused with a reason, and the service lives."""

from __future__ import annotations

import json
import socket
import time
from contextlib import suppress

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.serving.http.service import Running

JSON = {"content-type": "application/json"}
LARGEST = 2**63 - 1


def assert_refused(answer: httpx.Response, status: int, *words: str) -> None:
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/json"
    error = answer.json()
    assert list(error) == ["error"]
    for word in words:
        assert word in error["error"]
    assert "Traceback" not in answer.text
    assert "File " not in answer.text


@pytest.mark.parametrize(
    ("path", "status", "words"),
    [
        pytest.param("/v1/users/-1/embeddings", 400, ["user id '-1'", "0 to 9223372036854775807"], id="negative"),
        pytest.param("/v1/users/1.0/embeddings", 400, ["user id '1.0'"], id="float"),
        pytest.param("/v1/users/true/embeddings", 400, ["user id 'true'"], id="bool"),
        pytest.param("/v1/users/1_000/embeddings", 400, ["user id '1_000'"], id="underscore"),
        pytest.param("/v1/users/%20 7/embeddings", 400, ["user id"], id="blanks"),
        pytest.param("/v1/users/%EF%BC%97/embeddings", 400, ["user id"], id="digit of another script"),
        pytest.param(f"/v1/users/{LARGEST + 1}/embeddings", 400, ["user id"], id="one too large"),
        pytest.param(f"/v1/users/{'9' * 3000}/embeddings", 400, ["user id"], id="far too large"),
        pytest.param("/v1/users/7%00/embeddings", 400, ["user id '7\\x00'"], id="NUL"),
        pytest.param("/v1/users/%2e%2e/embeddings", 400, ["user id '..'"], id="encoded dots"),
        pytest.param("/v1/users/..%2f..%2fetc%2fpasswd/embeddings", 404, ["nothing is at"], id="encoded slashes"),
        pytest.param("/v1/users/%FF%FE/embeddings", 400, ["user id"], id="no UTF-8"),
        pytest.param("/v1/users//embeddings", 404, ["nothing is at"], id="no user"),
        pytest.param("/v1/users/7/embeddings/", 404, ["nothing is at"], id="a slash too many"),
        pytest.param("/v1/users/7/embeddings?model=nope", 404, ["'nope'", "daily, demo"], id="unknown model"),
        pytest.param("/v1/users/7/embeddings?model=../../demo", 404, ["'../../demo'"], id="path-like model"),
        pytest.param("/v1/users/7/embeddings?model=%2e%2e%2fdemo", 404, ["'../demo'"], id="encoded path-like model"),
        pytest.param("/v1/users/7/embeddings?model=demo%00", 404, ["'demo\\x00'"], id="NUL in a model"),
        pytest.param("/v1/users/7/embeddings?model=demo%0D%0ASET", 404, ["'demo\\r\\nSET'"], id="newline in a model"),
        pytest.param("/v1/users/7/embeddings?model=", 404, ["''"], id="empty model"),
        pytest.param("/v1/users/7/embeddings?model=%FF", 400, ["query"], id="model that is no UTF-8"),
        pytest.param("/v1/users/7/embeddings?models=demo", 400, ["'models'", "model"], id="unknown parameter"),
        pytest.param("/v1/users/7/embeddings?demo", 400, ["query 'demo'"], id="no value"),
        pytest.param("/v1/users/7/embeddings?" + "&".join(["model=demo"] * 33), 400, ["32"], id="too many models"),
        pytest.param("/v1/users/7/embeddings?model=" + "x" * 5_000, 414, ["4096"], id="long URL"),
        pytest.param("/users/..%2f", 404, ["nothing is at"], id="page of a path"),
        pytest.param("/users/<script>", 400, ["user id '<script>'"], id="page of a script"),
        pytest.param("/users?id=<script>", 400, ["user id"], id="field with a script"),
        pytest.param("/docs", 404, ["nothing is at '/docs'"], id="no page with others' scripts"),
        pytest.param("/../../etc/passwd", 404, ["nothing is at"], id="a file"),
        pytest.param("/static/../../../etc/passwd", 404, ["nothing is at"], id="a file below"),
    ],
)
def test_paths_and_queries(http: httpx.Client, path: str, status: int, words: list[str]) -> None:
    assert_refused(http.get(path), status, *words)


def body(**fields: object) -> bytes:
    return json.dumps({"user_id": 7, **fields}).encode()


@pytest.mark.parametrize(
    ("content", "words"),
    [
        pytest.param(b"", ["no JSON"], id="nothing"),
        pytest.param(b"{", ["no JSON"], id="cut off"),
        pytest.param(b'{"user_id": 7} {"user_id": 8}', ["no JSON"], id="two of them"),
        pytest.param(b"[" * 200_000, ["object"], id="deep"),
        pytest.param(b'{"user_id":7,"features":' + b'{"a":' * 40_000, ["features"], id="deep within"),
        pytest.param(b'{"user_id": NaN}', ["no JSON"], id="NaN"),
        pytest.param(b'{"user_id": 7, "features": {"visits": Infinity}}', ["no JSON"], id="infinity"),
        pytest.param(b'{"user_id": 7, "features": {"visits": 1e999}}', ["out of range"], id="number too large"),
        pytest.param(b'{"user_id": 7, "features": {"visits": ' + b"9" * 5_000 + b"}}", ["features"], id="huge number"),
        pytest.param(b'{"user_id": 7, "models": ["\xff\xfe"]}', ["UTF-8"], id="no UTF-8"),
        pytest.param(b'\xff\xfe{\x00"\x00', ["no JSON"], id="UTF-16"),
        pytest.param(b'{"user_id": 7, "models": ["\\ud800"]}', ["no JSON"], id="half a character"),
        pytest.param(b"null", ["object"], id="null"),
        pytest.param(b"[]", ["object"], id="array"),
        pytest.param(b"{}", ["user_id"], id="no user"),
        pytest.param(b'{"user_id": null}', ["int", "null"], id="user is null"),
        pytest.param(b'{"user_id": "7"}', ["int", "str"], id="user is a text"),
        pytest.param(b'{"user_id": true}', ["int", "bool"], id="user is a bool"),
        pytest.param(b'{"user_id": 7.0}', ["int", "float"], id="user is a float"),
        pytest.param(b'{"user_id": 7e2}', ["int", "float"], id="user has an exponent"),
        pytest.param(b'{"user_id": -1}', ["user_id -1", "0 to"], id="user is negative"),
        pytest.param(b'{"user_id": %d}' % (LARGEST + 1), [f"user_id {LARGEST + 1}"], id="user is one too large"),
        pytest.param(b'{"user_id": ' + b"9" * 4_000 + b"}", ["user_id"], id="user is far too large"),
        pytest.param(b'{"user_id": [7]}', ["int", "array"], id="user is an array"),
        pytest.param(body(user="x"), ["unknown field `user`"], id="unknown field"),
        pytest.param(body(models="demo"), ["array", "str"], id="models is a text"),
        pytest.param(body(models=[1]), ["str", "int"], id="model is a number"),
        pytest.param(body(models=["demo"] * 33), ["33 user models", "32"], id="too many models"),
        pytest.param(body(features=[]), ["features"], id="features is an array"),
        pytest.param(body(features={"nope": [1]}), ["nope", "clicked"], id="unknown feature"),
        pytest.param(body(features={"clicked": [-1]}), ["clicked", "-1"], id="negative id"),
        pytest.param(body(features={"clicked": [2**63]}), ["clicked"], id="id too large"),
        pytest.param(body(features={"clicked": [1.5]}), ["features"], id="id is a float"),
        pytest.param(body(features={"clicked": [True]}), ["features"], id="id is a bool"),
        pytest.param(body(features={"clicked": ["1"]}), ["features"], id="id is a text"),
        pytest.param(body(features={"clicked": 1}), ["clicked"], id="no list"),
        pytest.param(body(features={"visits": [1]}), ["visits"], id="a list"),
        pytest.param(body(features={"visits": 1e39}), ["visits"], id="no float32"),
        pytest.param(body(features={"clicked": list(range(4_097))}), ["4097 ids", "4096"], id="too many ids"),
        pytest.param(body(feature_time="2026-01-05T12:00:00Z"), ["without features"], id="a time of nothing"),
        pytest.param(body(features={}, feature_time="2026-01-05T12:00:00"), ["feature_time"], id="no time zone"),
        pytest.param(body(features={}, feature_time=1_767_614_400), ["feature_time"], id="time is a number"),
        pytest.param(body(features={}, feature_time="yesterday"), ["feature_time"], id="time is a word"),
    ],
)
def test_bodies(http: httpx.Client, content: bytes, words: list[str]) -> None:
    assert_refused(http.post("/v1/embeddings", content=content, headers=JSON), 400, *words)


def test_the_last_of_a_repeated_name_counts(http: httpx.Client) -> None:
    content = b'{"user_id": 7, "user_id": 8, "models": ["nope"], "models": ["demo"]}'
    answer = http.post("/v1/embeddings", content=content, headers=JSON)
    assert (answer.status_code, answer.json()["user_id"]) == (200, 8)


@pytest.mark.parametrize(
    "name", ["../demo", "..", "demo\x00", "um:{0}:e:demo", "x" * 10_000, "\u202edemo", "DEMO", " demo"]
)
def test_model_names_are_compared_never_used(http: httpx.Client, name: str) -> None:
    assert_refused(http.post("/v1/embeddings", json={"user_id": 7, "models": [name]}), 404, "not served here")


@pytest.mark.parametrize(
    ("method", "path", "headers", "status", "words"),
    [
        pytest.param("POST", "/v1/users/7/embeddings", {}, 405, ["'POST'", "GET"], id="method"),
        pytest.param("GET", "/v1/embeddings", {}, 405, ["'GET'", "POST"], id="method of post"),
        pytest.param("DELETE", "/v1/embeddings", {}, 405, ["'DELETE'"], id="delete"),
        pytest.param("OPTIONS", "/v1/embeddings", {"origin": "http://evil.example"}, 405, ["'OPTIONS'"], id="no CORS"),
        pytest.param("POST", "/v1/embeddings", {}, 415, ["application/json"], id="no type"),
        pytest.param("POST", "/v1/embeddings", {"content-type": "text/plain"}, 415, ["'text/plain'"], id="type"),
        pytest.param(
            "POST", "/v1/embeddings", {"content-type": "application/x-www-form-urlencoded"}, 415, ["form"], id="form"
        ),
        pytest.param("GET", "/healthz", {"host": "evil.example"}, 421, ["evil.example", "localhost"], id="host"),
        pytest.param("GET", "/healthz", {"host": "127.0.0.1.evil.example"}, 421, [], id="host that begins like ours"),
        pytest.param("GET", "/healthz", {"host": "evil.example:127.0.0.1"}, 421, [], id="host that ends like ours"),
        pytest.param("GET", "/users/7", {"host": ""}, 421, [], id="empty host"),
        pytest.param("GET", "/healthz", {"x-long": "x" * 70_000}, 431, ["16384"], id="long header"),
    ],
)
def test_methods_types_and_hosts(
    http: httpx.Client, method: str, path: str, headers: dict[str, str], status: int, words: list[str]
) -> None:
    answer = http.request(method, path, headers=headers)
    assert_refused(answer, status, *words)
    assert not [name for name in answer.headers if name.startswith("access-control")]


def test_loopback_by_its_names(service: Running, http: httpx.Client) -> None:
    for host in ("localhost", "LOCALHOST:80", "[::1]", f"[::1]:{service.port}"):
        assert http.get("/healthz", headers={"host": host}).status_code == 200, host


@pytest.mark.parametrize("chunked", [False, True], ids=["with its length", "in chunks"])
def test_a_long_body_is_not_read_to_its_end(service: Running, chunked: bool) -> None:
    def parts() -> object:
        for _ in range(1_000):
            yield b" " * 65_536

    length = {} if chunked else {"content-length": str(1_000 * 65_536)}
    with httpx.Client(base_url=service.url, timeout=20) as client:
        try:
            answer = client.post("/v1/embeddings", content=parts(), headers={**JSON, **length})  # type: ignore[arg-type]
        except httpx.WriteError:
            return  # closed before all of it was sent, which is as good
    assert_refused(answer, 413, "262144")


@pytest.mark.parametrize(
    ("raw", "status"),
    [
        pytest.param(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc", 400, id="TLS"),
        pytest.param(b"GET\r\n\r\n", 400, id="no path"),
        pytest.param(b"GET / HTTP/9.9\r\n\r\n", 400, id="no version of ours"),
        pytest.param(b"GET /\xff\xfe HTTP/1.1\r\nhost: localhost\r\n\r\n", 400, id="bytes in the path"),
        pytest.param(b"GET http://evil.example/ HTTP/1.1\r\nhost: evil.example\r\n\r\n", 421, id="a proxy"),
        pytest.param(b"CONNECT evil.example:443 HTTP/1.1\r\nhost: localhost\r\n\r\n", 400, id="a tunnel"),
        pytest.param(b"GET /healthz HTTP/1.1\r\n\r\n", 421, id="no host"),
        pytest.param(b"GET /healthz HTTP/1.1\r\nhost: localhost\r\nhost: evil\r\n\r\n", 421, id="two hosts"),
        pytest.param(
            b"POST /v1/embeddings HTTP/1.1\r\nhost: localhost\r\ncontent-length: -5\r\n\r\n", 400, id="negative length"
        ),
        pytest.param(
            b"POST /v1/embeddings HTTP/1.1\r\nhost: localhost\r\ncontent-length: 5\r\ncontent-length: 6\r\n\r\nhello",
            400, id="two lengths",
        ),
        pytest.param(
            b"POST /v1/embeddings HTTP/1.1\r\nhost: localhost\r\ncontent-length: 5\r\ntransfer-encoding: chunked"
            b"\r\n\r\n0\r\n\r\n",
            400, id="length and chunks",
        ),
        pytest.param(
            b"POST /v1/embeddings HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
            b"transfer-encoding: chunked\r\n\r\nzz\r\n\r\n",
            400, id="no chunk",
        ),
        pytest.param(b"GET /" + b"a" * 600_000, 431, id="endless path"),
        pytest.param(b"GET / HTTP/1.1\r\n" + b"a: b\r\n" * 60_000, 431, id="endless headers"),
        pytest.param(b"\r\n" * 200_000, 431, id="endless lines"),
        pytest.param(
            b"POST /v1/embeddings HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n"
            b"content-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n" + b"1\r\n \r\n" * 300_000,
            413, id="tiny chunks",
        ),
    ],
)  # fmt: skip
def test_bytes_that_are_no_request(service: Running, http: httpx.Client, raw: bytes, status: int) -> None:
    try:
        answer = service.send(raw)
    except (ConnectionResetError, BrokenPipeError):
        answer = b""  # closed with bytes unread: the answer may be lost on the way
    if answer:
        head, _, content = answer.partition(b"\r\n\r\n")
        assert int(head.split()[1]) == status, answer[:200]
        assert list(json.loads(content)) == ["error"]
    assert http.get("/healthz").status_code == 200


def test_requests_that_do_not_wait_for_answers(service: Running, http: httpx.Client) -> None:
    def ask(last: bytes) -> bytes:
        return b"GET /healthz HTTP/1.1\r\nhost: localhost\r\n" + last + b"\r\n"

    few = service.send(ask(b"") * 9 + ask(b"connection: close\r\n"))
    assert few.count(b"HTTP/1.1 200") == 10
    with suppress(ConnectionResetError):
        assert service.send(ask(b"") * 5_000).count(b"HTTP/1.1") < 20
    assert http.get("/healthz").status_code == 200


def test_an_unexpected_upgrade_is_not_followed(service: Running) -> None:
    raw = (
        b"GET /healthz HTTP/1.1\r\nhost: localhost\r\nconnection: upgrade, close\r\nupgrade: websocket\r\n"
        b"sec-websocket-key: x\r\nsec-websocket-version: 13\r\n\r\n"
    )
    assert service.send(raw).startswith(b"HTTP/1.1 200")


_TEXT = st.text("a1./\\\"'<{\x00\n\u202eé", max_size=8)
_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | _TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(_TEXT, inner, max_size=4),
    max_leaves=8,
)
_BODY = st.fixed_dictionaries(
    {},
    optional={
        "user_id": st.integers() | _JSON,
        "models": st.lists(st.sampled_from(["demo", "daily", "../x"])) | _JSON,
        "features": st.dictionaries(st.sampled_from(["clicked", "visits"]), _JSON) | _JSON,
        "feature_time": st.datetimes().map(lambda moment: f"{moment.isoformat()}Z") | _JSON,
        "other": _JSON,
    },
)
_FUZZ = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@_FUZZ
@given(sent=_BODY.map(lambda it: json.dumps(it).encode()) | st.binary(max_size=200))
def test_any_body(http: httpx.Client, sent: bytes) -> None:
    assert_sound(http.post("/v1/embeddings", content=sent, headers=JSON))


@_FUZZ
@given(
    path=st.sampled_from(["/v1/users/{}/embeddings", "/users/{}", "/users?id={}", "/v1/users/7/embeddings?{}", "/{}"]),
    part=st.text("0123456789abcdef%./\\?&=;+-_ \x00é", max_size=30),
    raw=st.booleans(),
)
def test_any_url(service: Running, path: str, part: str, raw: bool) -> None:
    quoted = part.replace("%", "%25") if raw else part
    target = path.format(quoted.replace(" ", "%20").replace("\x00", "%00")).encode("utf-8", "surrogatepass")
    answer = service.send(b"GET " + target + b" HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n")
    status = int(answer.split()[1])
    assert status in (200, 303) or 400 <= status < 500, (target, answer[:200])
    assert b"Traceback" not in answer


def assert_sound(answer: httpx.Response) -> None:
    assert answer.status_code == 200 or 400 <= answer.status_code < 500, answer.text
    assert isinstance(answer.json(), dict)
    assert "Traceback" not in answer.text


def test_a_slow_head_and_a_slow_body_are_given_up(service: Running) -> None:
    begun = b"POST /v1/embeddings HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
    started = time.monotonic()
    with (
        socket.create_connection(("127.0.0.1", service.port), timeout=20) as silent,
        socket.create_connection(("127.0.0.1", service.port), timeout=20) as head,
        socket.create_connection(("127.0.0.1", service.port), timeout=20) as sent,
    ):
        head.sendall(begun)
        sent.sendall(begun + b"content-length: 100\r\n\r\n{")
        for connection in (silent, head, sent):
            assert connection.recv(65_536).startswith(b"HTTP/1.1 408")
    assert time.monotonic() - started < 10
