"""What both clients do with a store that is there."""

from __future__ import annotations

import threading
import time
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from typing import Any

import pytest

from serving.features import FeatureCodec
from serving.keys import Keys
from serving.store import Store
from tests.serving.client.clients import DEMO, FEATURES, SCHEMA, Kind, client_of, with_policy, write
from tests.serving.client.conftest import SERVED
from tests.serving.servers import Server, until

OTHER = replace(DEMO, name="other", dim=8)
ELSEWHERE = replace(DEMO, name="elsewhere", source="t")


def stream(store: Store, source: str = "s") -> list[dict[bytes, bytes]]:
    """What the compute center is asked for."""
    return [fields for _, fields in store.redis.xrange(store.keys.requests(source, 0))]  # type: ignore[union-attr]


eventually = partial(until, seconds=5)


def test_the_earlier_embeddings_at_once_and_the_computation_after(kind: Kind, server: Server, store: Store) -> None:
    write(store, 7, 1, 2, 3)
    with client_of(kind, server.url, DEMO) as client:
        answer = client.get(7, features=FEATURES)["demo"]
        assert (answer.origin, answer.computation, answer.versions) == ("store", "queued", (3, 2, 1))
        assert answer.vectors.tolist() == [[2.0] * 4] * 2
        assert all(0 <= age < 5 for age in answer.ages_seconds)
        assert answer.served_version == 3
        cold = client.get(8, features=FEATURES)["demo"]
        assert (cold.is_default, cold.reason, cold.vectors.shape) == (True, "cold", (2, 4))
        assert client.flush()
        assert stream(store) == [{b"u": b"7"}, {b"u": b"8"}]
        kept = store.redis.get(store.keys.features("s", 8))
        assert isinstance(kept, bytes)
        assert kept[8:] == FeatureCodec(SCHEMA).encode(FEATURES)
        assert abs(int.from_bytes(kept[:8], "little") / 1000 - time.time()) < 5
        counts = client.statistics()["models"]["demo"]
        assert (counts["requests"], counts["hits"], counts["defaults"]) == (2, 1, {"cold": 1})
        assert counts["computations"] == {"queued": 2}
        assert sum(counts["staleness"]) == 1


def test_what_becomes_of_requests_is_counted(kind: Kind, server: Server, store: Store) -> None:
    with client_of(kind, server.url, DEMO, longest_stream=2) as client:
        tomorrow = datetime.fromtimestamp(time.time() + 86_400, UTC)
        for user, request in (
            (1, {}), (1, {"features": FEATURES}), (1, {}), (2, {"features": FEATURES}), (3, {"features": FEATURES}),
            (4, {"features": FEATURES, "feature_time": tomorrow}),
        ):  # fmt: skip
            assert client.get(user, **request)["demo"].computation == "queued"
        assert client.flush()
        assert client.statistics()["models"]["demo"]["computations"] == {
            "no_features": 1, "queued": 2, "coalesced": 1, "shed": 1, "future": 1
        }  # fmt: skip


def test_models_are_read_together_and_computed_by_source(kind: Kind, server: Server, store: Store) -> None:
    write(store, 7, 2, model=OTHER)
    with client_of(kind, server.url, DEMO, OTHER, ELSEWHERE) as client:
        answers = client.get(7)
        assert {name: (one.origin, one.vectors.shape) for name, one in answers.items()} == {
            "demo": ("default", (2, 4)), "other": ("store", (2, 8)), "elsewhere": ("default", (2, 4))
        }  # fmt: skip
        assert list(client.get(7, ["other", "demo"], features=FEATURES)) == ["other", "demo"]
        assert client.flush()
        assert (len(stream(store, "s")), len(stream(store, "t"))) == (1, 0)
        counts = client.statistics()["models"]
        assert counts["other"]["computations"] == {"no_features": 1, "queued": 1}
        assert counts["elsewhere"]["computations"] == {"no_features": 1}


def test_a_mode_that_computes_nothing_asks_for_nothing(kind: Kind, server: Server, store: Store) -> None:
    write(store, 7, 1)
    with client_of(kind, server.url, with_policy(mode="batch")) as client:
        answer = client.get(7, features=FEATURES)["demo"]
        assert (answer.origin, answer.computation) == ("batch", "off")
        assert client.flush()
        assert stream(store) == []


def test_a_direct_hit_skips_the_inference(kind: Kind, server: Server, store: Store) -> None:
    write(store, 7, 3)
    write(store, 8, 2)
    with client_of(kind, server.url, with_policy(direct_seconds=86_400)) as client:
        assert client.get(7, features=FEATURES)["demo"].origin == "direct"
        assert client.get(8, features=FEATURES)["demo"].origin == "store"
        assert client.flush()
        assert stream(store) == [{b"u": b"8"}]
        counts = client.statistics()["models"]["demo"]
        assert (counts["skips"], counts["computations"]) == (1, {"skipped": 1, "queued": 1})


def test_a_client_hears_what_is_served_and_what_was_taken_back(kind: Kind, server: Server, store: Store) -> None:
    write(store, 7, 2, 3)
    with client_of(kind, server.url, DEMO) as client:
        assert client.get(7)["demo"].versions == (3, 2)
        store.announce(replace(SERVED, version=2, withdrawn=(3,)))
        eventually(lambda: client.get(7)["demo"].versions == (2,))
        assert client.get(7)["demo"].served_version == 2


def test_a_rate_is_kept_by_all_clients_together(kind: Kind, server: Server, store: Store) -> None:
    model = with_policy(max_inferences_per_second=20)
    with client_of(kind, server.url, model) as one, client_of("sync", server.url, model) as other:
        started = time.monotonic()
        for user in range(40):
            (one, other)[user % 2].get(user, features=FEATURES)
        assert one.flush()
        assert other.flush()
        seconds = time.monotonic() - started
        computations = [client.statistics()["models"]["demo"]["computations"] for client in (one, other)]
        queued = sum(found.get("queued", 0) for found in computations)
        assert len(stream(store)) == queued
        assert 3 <= queued <= 4 + 20 * seconds  # a tenth of a second's worth at once
        assert queued + sum(found["rate_limited"] for found in computations) == 40


def test_what_does_not_fit_the_buffer_is_dropped_and_said_so(kind: Kind, server: Server, store: Store) -> None:
    with client_of(kind, server.url, DEMO, buffer=3, send_seconds=0.3) as client:
        said = [client.get(user, features=FEATURES)["demo"].computation for user in range(5)]
        assert said == ["queued"] * 3 + ["dropped"] * 2
        assert client.flush()
        assert client.statistics()["models"]["demo"]["computations"] == {"queued": 3, "dropped": 2}


def test_closing_sends_what_waits(kind: Kind, server: Server, store: Store) -> None:
    with client_of(kind, server.url, DEMO) as client:
        for user in range(200):
            client.get(user, features=FEATURES)
    assert len(stream(store)) == 200


@pytest.mark.parametrize(
    ("user", "request_", "message"),
    [
        pytest.param("7", {}, "user '7' is no user id", id="a string"),
        pytest.param(True, {}, "user 'True' is no user id", id="a bool"),
        pytest.param(2**63, {}, "is no user id; it is a whole number of 64 bits", id="too large"),
        pytest.param(7, {"models": ["nope"]}, r"\['nope'\]; they are different ones of", id="an unknown model"),
        pytest.param(7, {"models": []}, "different ones of", id="no model"),
        pytest.param(7, {"models": ["demo", "demo"]}, "different ones of", id="a model twice"),
        pytest.param(7, {"features": {"nope": 1}}, "are no user features", id="an unknown feature"),
        pytest.param(7, {"features": {"age": "x"}}, "feature age is 'x'", id="a wrong feature"),
        pytest.param(
            7, {"features": {}, "feature_time": datetime(2026, 1, 1)}, "has no time zone", id="a time without a zone"
        ),
        pytest.param(
            7, {"models": None, "features": FEATURES}, "features for models of several sources", id="features of which?"
        ),
    ],
)  # fmt: skip
def test_a_request_that_is_none(
    kind: Kind, server: Server, store: Store, user: Any, request_: dict[str, Any], message: str
) -> None:
    with (
        client_of(kind, server.url, DEMO, ELSEWHERE) as client,
        pytest.raises(ValueError, match=message),
    ):
        client.get(user, **{"models": ["demo"], **request_})


def test_another_number_of_partitions_is_refused(kind: Kind, server: Server, store: Store) -> None:
    with client_of(kind, server.url, DEMO, partitions=4):
        pass
    with pytest.raises(ValueError, match="written with 4 partitions"), client_of(kind, server.url, DEMO):
        pass


def test_users_of_many_partitions_are_sent_together(kind: Kind, server: Server, store: Store) -> None:
    with client_of(kind, server.url, DEMO, partitions=16) as client:
        for user in range(100):
            client.get(user, features=FEATURES)
        assert client.flush()
    keys = Keys(16)
    lengths = [store.redis.xlen(keys.requests("s", partition)) for partition in range(16)]
    assert sum(lengths) == 100  # type: ignore[arg-type]
    assert min(lengths) > 0  # type: ignore[type-var]


def test_many_threads_share_a_client(server: Server, store: Store) -> None:
    for user in range(8):
        write(store, user, user + 1)
    wrong: list[int] = []
    with client_of("sync", server.url, DEMO) as client:

        def ask(user: int) -> None:
            for _ in range(100):
                if client.get(user)["demo"].versions != (user + 1,):
                    wrong.append(user)

        threads = [threading.Thread(target=ask, args=(user,)) for user in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert client.statistics()["models"]["demo"]["requests"] == 800
    assert not wrong
