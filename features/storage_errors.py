"""What went wrong with object storage, in words that say what to do."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

from features.object_store import in_object_store


class StorageError(RuntimeError):
    """Object storage refused, or did not answer for as long as was waited. What was not acknowledged is not there, or
    is there whole: the same step may be run again."""


_COLOUR = re.compile(r"\x1b\[\d*m")
_KNOWN = (
    ("NoSuchBucket", "there is no such bucket; make it, or set USERMODEL_STORAGE_URI to one that is there"),
    (
        "InvalidAccessKeyId|SignatureDoesNotMatch|InvalidToken|ExpiredToken|AuthorizationHeaderMalformed",
        "it does not know the keys (or they have ended, or are for another region); see USERMODEL_STORAGE_PROFILE",
    ),
    (
        "RequestTimeTooSkewed|RequestExpired",
        "this machine's clock is more than 15 minutes off; set it (chronyc makestep), then run the step again",
    ),
    (
        r"AccessDenied|status code: 40[13]",
        "the keys may not do this; allow them to get, put, list and delete under the prefix (and see that this "
        "machine's clock is right)",
    ),
    (
        r"SlowDown|TooManyRequests|status code: (429|503)",
        "it is overloaded; run the step again later, or raise USERMODEL_STORAGE_SECONDS",
    ),
    (r"InternalError|status code: 5\d\d", "it fails within; run the step again, and look at the server"),
    (
        r"error sending request|timed? ?out|timeout|connection|dns error|HTTP error|unexpected EOF",
        "it does not answer; see whether the server of USERMODEL_STORAGE_ENDPOINT runs, then run the step again",
    ),
)  # fmt: skip
"""What the message of a client has, in the order in which it is looked for."""


@contextmanager
def named_errors(uri: str) -> Iterator[None]:
    """An error of the clients of object storage becomes a StorageError; every other, and of a folder, goes on."""
    try:
        yield
    except Exception as error:
        if (named := storage_error(error, uri)) is None:
            raise
        raise named from error


def storage_error(error: BaseException, uri: str) -> StorageError | None:
    """As `named_errors` raises it."""
    if not in_object_store(uri) or isinstance(error, StorageError) or not _of_client(error):
        return None
    text = _COLOUR.sub("", str(error).partition("\nDebug source")[0])
    for pattern, remedy in _KNOWN:
        if re.search(pattern, text, re.IGNORECASE):
            return StorageError(f"{uri}: {remedy} ({' '.join(text.split())[:300]})")
    return None


def _of_client(error: BaseException) -> bool:
    """Whether obstore or delta-rs raised it; an object that is not there is no failure of the storage."""
    if isinstance(error, FileNotFoundError):
        return "NoSuchBucket" in str(error)
    if isinstance(error, OSError):
        return error.errno is None  # one of this machine's has a number
    return type(error).__module__.startswith(("obstore", "deltalake", "_internal"))
