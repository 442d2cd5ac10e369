"""The index of a checkpoint is a pickle, and a pickle calls what it names: only what an index holds may be named."""

from __future__ import annotations

import io
import pickle  # noqa: TID251  the test writes one
from enum import Enum
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed.checkpoint as dcp

from trainer.checkpoint import STATE, DamagedCheckpointError, saved_names
from trainer.index import INDEX


@pytest.mark.parametrize("name", [".metadata", "__1.metadata"], ids=["of-all", "of-a-rank"])
@pytest.mark.parametrize(
    "calls",
    [
        pytest.param("cposix\nsystem\n(S'touch {ran}'\ntR.", id="a-shell"),
        pytest.param('c__builtin__\neval\n(S\'open("{ran}", "w")\'\ntR.', id="python"),
        pytest.param("ctorch\nload\n(S'{ran}'\ntR.", id="another-pickle"),
        pytest.param("cpathlib\nPath.touch\n(S'{ran}'\ntR.", id="a-method-of-a-known-class"),
        pytest.param(
            "cbuiltins\ngetattr\n(cpathlib\nPath\nS'touch'\ntR(cpathlib\nPath\n(S'{ran}'\ntRtR.",
            id="a-method-that-getattr-finds",
        ),
    ],
)
def test_an_index_that_calls_something_is_refused_and_calls_nothing(tmp_path: Path, name: str, calls: str) -> None:
    ran = tmp_path / "ran"
    state = tmp_path / "checkpoint" / STATE
    state.mkdir(parents=True)
    (state / name).write_bytes(calls.format(ran=ran).encode())
    with pytest.raises(DamagedCheckpointError, match=r"is not the index of a checkpoint \(it names .* is not loaded"):
        saved_names(state.parent)
    assert not ran.exists()


class _OlderPython(pickle.Pickler):
    """Writes an enum's member as Python 3.11.0 to 3.11.3 do, Debian's 3.11.2 among them."""

    def reducer_override(self, value: Any) -> Any:
        return (getattr, (type(value), value.name)) if isinstance(value, Enum) else NotImplemented


@pytest.mark.filterwarnings("ignore:torch.distributed is disabled:UserWarning")
def test_an_index_of_an_older_python_is_read(tmp_path: Path) -> None:
    state = tmp_path / STATE
    dcp.save({"weights": torch.ones(3)}, checkpoint_id=state, no_dist=True)
    written = io.BytesIO()
    _OlderPython(written).dump(pickle.loads((state / INDEX).read_bytes()))  # noqa: S301  our own
    assert b"getattr" in written.getvalue()
    (state / INDEX).write_bytes(written.getvalue())
    assert saved_names(tmp_path) == {"weights"}
