"""What a rank leaves behind when it fails."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier

from trainer.failure import Failure, cause

THREADS = 8


def test_threads_of_a_rank_that_fail_at_once_leave_the_first_ones_words_whole(tmp_path: Path) -> None:
    for attempt in range(50):
        directory = tmp_path / str(attempt)
        directory.mkdir()
        together = Barrier(THREADS)

        def fail(thread: int, together: Barrier = together, directory: Path = directory) -> Failure:
            failure = Failure(rank=0, time=thread, kind="waited", type="E", message=f"{thread}" * 400 * (thread + 1))
            together.wait()
            failure.write(directory)
            return failure

        with ThreadPoolExecutor(THREADS) as threads:
            told = list(threads.map(fail, range(THREADS)))
        first = cause(directory)
        assert first in told
        told[0].write(directory)
        assert cause(directory) == first
        assert [path.name for path in directory.iterdir()] == ["error-0.json"]
