"""The index of a checkpoint is a pickle, and a pickle calls what it names: only what an index holds may be named."""

from __future__ import annotations

from pathlib import Path

import pytest

from trainer.checkpoint import STATE, DamagedCheckpointError, saved_names


@pytest.mark.parametrize("name", [".metadata", "__1.metadata"], ids=["of-all", "of-a-rank"])
@pytest.mark.parametrize(
    "calls",
    [
        pytest.param("cposix\nsystem\n(S'touch {ran}'\ntR.", id="a-shell"),
        pytest.param('c__builtin__\neval\n(S\'open("{ran}", "w")\'\ntR.', id="python"),
        pytest.param("ctorch\nload\n(S'{ran}'\ntR.", id="another-pickle"),
        pytest.param("cpathlib\nPath.touch\n(S'{ran}'\ntR.", id="a-method-of-a-known-class"),
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
