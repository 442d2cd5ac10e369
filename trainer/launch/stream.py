"""What the hosts of a job write into its folder."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

_TAIL_BYTES = 4096
"""Of each file, where a job is joined that ran already."""


def follow(directory: Path, pattern: str, *, from_start: bool) -> Iterator[str]:
    """The lines of the files that match, also of those that appear later; an empty string where there is nothing
    new. Endless."""
    places: dict[Path, int] = {}
    begun = not from_start
    while True:
        for path in sorted(directory.glob(pattern)):
            if path not in places:
                places[path] = max(0, path.stat().st_size - _TAIL_BYTES) if begun else 0
            yield from _new_lines(path, places)
        begun = False
        yield ""


def _new_lines(path: Path, places: dict[Path, int]) -> Iterator[str]:
    if path.stat().st_size < places[path]:
        places[path] = 0  # the scheduler started the job again
    with path.open("rb") as file:
        file.seek(places[path])
        content = file.read()
    whole = content[: content.rfind(b"\n") + 1]
    places[path] += len(whole)
    for line in whole.decode(errors="replace").splitlines():
        if line.strip():
            yield line
