from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest

from features.ahead import ahead


def _threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("test-")]


def test_items_come_in_order_and_never_more_ahead_than_may_wait() -> None:
    made: list[int] = []

    def items() -> Iterator[int]:
        for number in range(20):
            made.append(number)
            yield number

    found = []
    for item in ahead(items(), waiting=2, name="test-one"):
        time.sleep(0.002)
        assert len(made) - len(found) <= 2 + 2  # waiting, the one in hand, and the one that is being put
        found.append(item)
    assert found == list(range(20))
    assert _threads() == []


def _broken() -> Iterator[int]:
    yield 1
    raise ValueError("the second is broken")


def test_an_error_is_raised_where_its_item_would_have_been() -> None:
    doubled = ahead((2 * item for item in ahead(_broken(), waiting=1, name="test-in")), waiting=1, name="test-out")
    assert next(doubled) == 2
    with pytest.raises(ValueError, match="the second is broken"):
        next(doubled)
    assert _threads() == []


def test_who_stops_taking_ends_every_thread_behind() -> None:
    ended = []

    def endless() -> Iterator[int]:
        try:
            while True:
                yield 1
        finally:
            ended.append("endless")

    taken = ahead((item for item in ahead(endless(), waiting=1, name="test-in")), waiting=1, name="test-out")
    assert next(taken) == 1
    taken.close()  # type: ignore[attr-defined]
    assert ended == ["endless"]
    assert _threads() == []
