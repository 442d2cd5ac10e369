"""Small files that others read while they appear: whole, or not there."""

from __future__ import annotations

import os
from pathlib import Path
from uuid import uuid4


def draft(path: Path, text: str) -> Path:
    """The text beside `path`, under a name of its own: to be renamed or linked to it."""
    written = path.with_name(f".{path.name}-{uuid4().hex[:12]}")
    written.write_text(text)
    return written


def write_first(path: Path, text: str) -> bool:
    """Whether the text is now at `path`; not where another process or thread was first, whose text stays."""
    written = draft(path, text)
    try:
        os.link(written, path)
    except FileExistsError:
        return False
    finally:
        written.unlink()
    return True
