"""Milliseconds since the epoch, as the store keeps times, for people."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_FIRST, _LAST = (
    int((end.replace(tzinfo=UTC) - _EPOCH) / timedelta(milliseconds=1)) for end in (datetime.min, datetime.max)
)


def moment(ms: int) -> datetime:
    """Of milliseconds since the epoch; the first or last that there is where it is before or after them."""
    return _EPOCH + timedelta(milliseconds=min(max(ms, _FIRST), _LAST))
