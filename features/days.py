"""Days of data. A day is a `date`; in tables, paths and messages it is written `YYYY-MM-DD` and called ds."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import date, timedelta


def parse_day(text: str) -> date:
    """`YYYY-MM-DD` as a date; ValueError names what was given."""
    try:
        day = date.fromisoformat(text)
    except ValueError:
        day = None
    if day is None or day.isoformat() != text:
        raise ValueError(f"{text!r} is not a day; write it YYYY-MM-DD, for example 2017-10-01")
    return day


def parse_days(text: str) -> tuple[date, ...]:
    """`FIRST..LAST`, both included, or a single day."""
    first_text, _, last_text = text.partition("..")
    first = parse_day(first_text)
    last = parse_day(last_text) if last_text else first
    if last < first:
        raise ValueError(f"{text!r} ends before it begins; write FIRST..LAST")
    return tuple(days_between(first, last))


def days_between(first: date, last: date) -> Iterator[date]:
    """Every day from `first` to `last`, both included."""
    for offset in range((last - first).days + 1):
        yield first + timedelta(days=offset)


def day_before(ds: date) -> date:
    """The day before `ds`."""
    return ds - timedelta(days=1)
