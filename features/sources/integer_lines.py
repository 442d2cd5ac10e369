"""Reads files of comma-separated integers, line by line but vectorised: what cannot be read is quarantined
with its line, never dropped and never guessed at."""

from __future__ import annotations

import gzip
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc

from features.arrow import REJECTED
from features.validation import Faults, require_names

_REMEDY = "land the file again"


@dataclass(frozen=True, kw_only=True)
class Lines:
    """A file's lines below its header; `values` are int64 columns, to be used where no fault is."""

    file: Path
    raw: pa.LargeBinaryArray
    values: pl.DataFrame
    faults: Faults

    def accepted(self) -> pl.DataFrame:
        """The lines without a fault, in file order."""
        return self.values.filter(pl.Series(~self.faults.bad))

    def rejected(self) -> pa.Table:
        """The other lines as `features.arrow.REJECTED`; line 1 is the header."""
        places = np.flatnonzero(self.faults.bad)
        lines = self.raw.take(pa.array(places)).to_pylist()
        return pa.table(
            {
                "file": [self.file.name] * len(places),
                "line": places + 2,
                "reason": self.faults.reasons[places].tolist(),
                "raw": [line.rstrip(b"\r\n").decode("utf-8", "backslashreplace") for line in lines],
            },
            schema=REJECTED,
        )


def read_integers(path: Path, columns: tuple[str, ...]) -> Lines:
    """Reads a `.csv` or `.csv.gz` whose header is exactly `columns`.

    A line is at fault with the first of: `undecodable` (not UTF-8), `wrong_column_count`, and per column
    `null:…`, `not_an_integer:…`, `outside_int64:…`, `negative:…`.
    ValueError: not gzip or cut off, empty, without lines below the header, another header, or a column in
    which no line has an integer.
    """
    data = _bytes(path)
    if not data:
        raise ValueError(f"{path} is empty; {_REMEDY}")
    header, _, body = data.partition(b"\n")
    names = header.decode("utf-8", "backslashreplace").rstrip("\r").split(",")
    require_names(names, columns, file=path)
    if not body:
        raise ValueError(f"{path} has a header and no rows; {_REMEDY}")
    raw = _split(body)
    found = Faults.none(len(raw))
    found.mark(_undecodable(raw), "undecodable")
    decodable = pc.if_else(pa.array(found.bad), pa.scalar(None, raw.type), raw).cast(pa.large_string())
    text = pl.Series(pl.from_arrow(decodable)).str.strip_chars_end("\r\n")
    commas = text.str.count_matches(",", literal=True).fill_null(0)
    found.mark((commas != len(columns) - 1).to_numpy(), "wrong_column_count")
    readable = pl.select(pl.when(pl.Series(~found.bad)).then(text)).to_series()
    fields = readable.str.split_exact(",", len(columns) - 1).struct.unnest()
    values = pl.DataFrame([_integers(field, name, found, file=path) for field, name in zip(fields, names, strict=True)])
    return Lines(file=path, raw=raw, values=values.select(columns), faults=found)


def _bytes(path: Path) -> bytes:
    data = path.read_bytes()
    if path.suffix != ".gz" or not data:
        return data
    try:
        return gzip.decompress(data)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise ValueError(f"{path} is not a whole gzip file ({error}); {_REMEDY}") from error


def _split(body: bytes) -> pa.LargeBinaryArray:
    """The lines with their ends, without a copy."""
    ends = np.flatnonzero(np.frombuffer(body, np.uint8) == ord("\n")) + 1
    if len(ends) == 0 or ends[-1] != len(body):
        ends = np.append(ends, len(body))
    offsets = np.concatenate([[0], ends]).astype(np.int64)
    buffers = [None, pa.py_buffer(offsets), pa.py_buffer(body)]
    return pa.LargeBinaryArray.from_buffers(pa.large_binary(), len(ends), buffers)


def _undecodable(lines: pa.LargeBinaryArray) -> npt.NDArray[np.bool_]:
    """The lines that are not UTF-8; only those with a byte outside ASCII are looked at one by one."""
    _, offsets, data = lines.buffers()
    outside = np.flatnonzero(np.frombuffer(data, np.uint8) >= 0x80)
    suspects = np.unique(np.searchsorted(np.frombuffer(offsets, np.int64), outside, side="right") - 1)
    undecodable = np.zeros(len(lines), bool)
    for place in suspects:
        try:
            lines[place].as_py().decode("utf-8")
        except UnicodeDecodeError:
            undecodable[place] = True
    return undecodable


def _integers(field: pl.Series, name: str, found: Faults, *, file: Path) -> pl.Series:
    """The column as int64; marks the lines whose value is none."""
    values = field.cast(pl.Int64, strict=False)
    unread = (field.is_not_null() & values.is_null()).to_numpy()
    if unread.any():
        empty = (field == "").fill_null(False).to_numpy()
        whole = field.str.contains(r"^[+-]?[0-9]+$").fill_null(False).to_numpy()
        _require_some(values, unread & ~whole, name, file)
        found.mark(unread & empty, f"null:{name}")
        found.mark(unread & ~whole, f"not_an_integer:{name}")
        found.mark(unread, f"outside_int64:{name}")
    found.mark((values < 0).fill_null(False).to_numpy(), f"negative:{name}")
    return values.alias(name)


def _require_some(values: pl.Series, wrong: npt.NDArray[np.bool_], name: str, file: Path) -> None:
    if wrong.any() and values.is_null().all():
        raise ValueError(
            f"{file}: column {name} is retyped: none of its values is an integer; expected int64. "
            "Land the log again with this type, or change the source's schema"
        )
