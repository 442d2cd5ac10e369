"""Work done ahead in a background thread, a bounded number of items at a time."""

from __future__ import annotations

import queue
import threading
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

T = TypeVar("T")
_POLL_SECONDS = 0.2


@dataclass(frozen=True, kw_only=True)
class _Failure:
    """What the background thread died of."""

    error: BaseException


_END = object()


def ahead(items: Iterator[T], *, waiting: int, name: str) -> Generator[T]:
    """The same items, made by a thread called `name`, which keeps at most `waiting` of them (0: any number) ahead of
    whoever takes them, and ends with the iteration. An error of `items` is raised where its item would have been.

    Who may fail while taking them closes it (`contextlib.closing`): a traceback would keep it, and its thread, alive.
    """
    ready: queue.Queue[Any] = queue.Queue(maxsize=waiting)
    stopped = threading.Event()
    thread = threading.Thread(target=_fill, args=(items, ready, stopped), name=name, daemon=True)
    thread.start()
    try:
        while (item := ready.get()) is not _END:
            if isinstance(item, _Failure):
                raise item.error
            yield item
    finally:
        stopped.set()
        thread.join()


def _fill(items: Iterator[Any], ready: queue.Queue[Any], stopped: threading.Event) -> None:
    def put(item: Any) -> bool:
        while not stopped.is_set():
            try:
                ready.put(item, timeout=_POLL_SECONDS)
            except queue.Full:
                continue
            return True
        return False

    try:
        for item in items:
            if not put(item):
                break
        put(_END)
    except BaseException as error:  # the consumer raises it: nothing is lost in a thread
        put(_Failure(error=error))
    finally:
        if isinstance(items, Generator):
            items.close()  # and with it what it takes items from
