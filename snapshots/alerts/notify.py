"""Notifications, through Apprise: to Slack, e-mail, PagerDuty, webhooks and a hundred others, by URL.

The URLs hold secrets: a target is named by its scheme and a digest, in logs and in the table alike, and Apprise's own
log, which quotes URLs, is off.
"""

from __future__ import annotations

import hashlib
import logging
import threading
import time
from collections.abc import Mapping, Sequence

log = logging.getLogger(__name__)

SECONDS = 15.0
"""All targets together, however slow they are."""
_ATTEMPTS = 3
_PAUSE_SECONDS = 0.5
_ANSWER_SECONDS = 4  # of one attempt: to connect, and between two bytes of the answer


def label_of(url: str) -> str:
    """`slack:1a2b3c4d`: tells targets apart and reveals nothing."""
    scheme = url.split("://", 1)[0] if "://" in url else "no URL"
    return f"{scheme}:{hashlib.sha256(url.encode()).hexdigest()[:8]}"


def deliver(urls: Sequence[str], *, title: str, body: str, seconds: float = SECONDS) -> Mapping[str, str]:
    """Send to every URL at once; by label, why it failed, empty where it did not. Never raises, ends in time."""
    failed = {label_of(url): f"no answer within {seconds:g} s" for url in urls}
    deadline = time.monotonic() + seconds
    threads = [
        threading.Thread(target=_send, args=(url, title, body, deadline, failed), daemon=True, name="notify")
        for url in urls
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(max(deadline - time.monotonic(), 0))
    return dict(failed)


def _send(url: str, title: str, body: str, deadline: float, failed: dict[str, str]) -> None:
    """Up to _ATTEMPTS times, until `deadline`; what came of it goes to `failed`."""
    label = label_of(url)
    try:
        from apprise import Apprise, NotifyFormat

        logging.getLogger("apprise").disabled = True
        target = Apprise()
        if not target.add(url):
            failed[label] = "not a URL that Apprise knows"
            return
        for server in target:
            server.socket_connect_timeout = server.socket_read_timeout = _ANSWER_SECONDS
        for attempt in range(1, _ATTEMPTS + 1):
            if target.notify(title=title, body=body, body_format=NotifyFormat.TEXT):
                failed[label] = ""
                return
            failed[label] = f"refused, or no answer, {attempt} times"
            if time.monotonic() + _PAUSE_SECONDS > deadline:
                return
            time.sleep(_PAUSE_SECONDS)
    except Exception as error:  # a plugin's fault is no fault of the day
        failed[label] = f"{type(error).__name__} in Apprise"
