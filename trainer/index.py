"""The index of a checkpoint's shards (DCP's `.metadata`), which is a pickle: read only what an index can hold.

Unpickling calls whatever the pickle names. DCP's reader trusts it, and a manifest's checksum does not help against one
who can write the manifest too. So the names are checked first.
"""

from __future__ import annotations

import io
import pickle  # noqa: TID251  the one place: with a list of what may be named
from enum import Enum
from pathlib import Path
from typing import Any

INDEX = ".metadata"

_METADATA = "torch.distributed.checkpoint.metadata"
_KNOWN = {
    *(
        (_METADATA, name)
        for name in (
            "BytesStorageMetadata",
            "ChunkStorageMetadata",
            "Metadata",
            "MetadataIndex",
            "StorageMeta",
            "TensorProperties",
            "TensorStorageMetadata",
            "_MEM_FORMAT_ENCODING",
        )
    ),
    ("torch.distributed.checkpoint.filesystem", "_StorageInfo"),
    ("torch.serialization", "_get_layout"),
    ("torch", "Size"),
    ("pathlib", "Path"),
    ("pathlib", "PosixPath"),
    ("pathlib", "PurePosixPath"),
    ("collections", "OrderedDict"),
}


class UntrustedIndexError(RuntimeError):
    """An index names what no index of ours does; nothing of it was run."""


def _member(kind: object, name: str) -> Enum:
    """What an index that Python 3.11.0 to 3.11.3 wrote calls `getattr` for: a member of an enum, and nothing else."""
    if isinstance(kind, type) and issubclass(kind, Enum) and name in kind.__members__:
        return kind[name]
    raise UntrustedIndexError(f"it names {name} of {kind}, which no index holds")


class _Index(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("builtins", "getattr"):
            return _member
        if (module, name) in _KNOWN or (module == "torch" and _is_dtype(name)):
            return super().find_class(module, name)
        raise UntrustedIndexError(f"it names {module}.{name}, which no index holds")


def _is_dtype(name: str) -> bool:
    import torch

    return isinstance(getattr(torch, name, None), torch.dtype)


def require_plain(state: Path) -> None:
    """UntrustedIndexError unless every index in the folder `state` is a plain one: DCP looks for one of each rank,
    too. Unpickled here they are harmless."""
    for path in sorted(state.glob(f"*{INDEX}")):
        try:
            _Index(io.BytesIO(path.read_bytes())).load()
        except Exception as error:
            raise UntrustedIndexError(
                f"{path} is not the index of a checkpoint ({error}); the checkpoint is not loaded"
            ) from error
