"""`python -m infra.deployment.probe URL [PATH=VALUE …]`: is what listens there well? For containers without curl.

Exit status 0 where URL answers 2xx, and every PATH of its JSON (`scheduler.status`) is VALUE; else 1, and why.
"""

from __future__ import annotations

import json
import ssl
import sys
import urllib.request
from collections.abc import Sequence

TIMEOUT_SECONDS = 4.0


def wrong(url: str, expected: Sequence[str] = ()) -> str | None:
    """None where all is well. The certificate is not checked: the question is whether our own process answers."""
    anything = ssl.create_default_context()
    anything.check_hostname = False
    anything.verify_mode = ssl.CERT_NONE
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=anything))
    try:
        with opener.open(url, timeout=TIMEOUT_SECONDS) as answer:
            body = answer.read()
        found = json.loads(body) if expected else None
    except (OSError, ValueError) as error:
        return f"{url}: {error}"
    for one in expected:
        path, _, value = one.partition("=")
        state = found
        for name in path.split("."):
            state = state.get(name) if isinstance(state, dict) else None
        if state != value:
            return f"{url}: {path} is {state!r}, not {value!r}"
    return None


if __name__ == "__main__":
    if reason := wrong(sys.argv[1], sys.argv[2:]):
        sys.exit(reason)
