"""What a worker asks a shard for, as bytes: version, shard, places.

The version is the SHA-256 of its sealed manifest, which names the SHA-256 of every file: a name that cannot mean other
weights. Shard and number of shards are in it, so that addresses in another order give an error and not other rows.
"""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from serving.shards.partition import Share

MAX_ROWS = 1 << 20
"""In one request; 8 MiB of numbers."""
_HEAD = struct.Struct("<32sII")
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, kw_only=True)
class Ticket:
    """places: [n] int64, of rows within the shard."""

    manifest_sha256: str
    share: Share
    places: NDArray[np.int64]

    def encode(self) -> bytes:
        """32 bytes of SHA-256, shard and number of shards as uint32, places as int64; little endian."""
        if len(self.places) > MAX_ROWS:
            raise ValueError(f"{len(self.places)} rows of one shard; at most {MAX_ROWS}: embed fewer users at a time")
        head = _HEAD.pack(bytes.fromhex(self.manifest_sha256), self.share.index, self.share.of)
        return head + self.places.astype("<i8", copy=False).tobytes()

    @classmethod
    def decode(cls, content: bytes) -> Ticket:
        """ValueError for anything that `encode` does not write."""
        length = len(content) - _HEAD.size
        if length < 0 or length % 8 or length > 8 * MAX_ROWS:
            raise ValueError(f"a ticket of {len(content)} bytes: {_HEAD.size}, and 8 for each of up to {MAX_ROWS} rows")
        sha256, index, of = _HEAD.unpack_from(content)
        places = np.frombuffer(content, "<i8", offset=_HEAD.size)
        return cls(manifest_sha256=sha256.hex(), share=Share(index=index, of=of), places=places)


def require_sha256(text: str) -> str:
    """`text`. ValueError where it is no SHA-256."""
    if not _SHA256.fullmatch(text):
        raise ValueError(f"{text[:80]!r} is no SHA-256: 64 hexadecimal digits")
    return text
