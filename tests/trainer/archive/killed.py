"""Uploads that are killed: each in a child of this process, which itself never opens the storage.

`python -m tests.trainer.archive.killed HOME URI FOLDER PIECE_BYTES`: reads a number and a delay in seconds per line,
begins an upload of FOLDER, kills it (SIGKILL) the delay after it came to the piece of that number, or to the manifest
with the number after the last, and answers with a line: `killed` or `done`. What it came to waits for the kill, which
so is never too late, and other pieces go on.
"""

from __future__ import annotations

import itertools
import os
import signal
import sys
import threading
import time
from pathlib import Path

from features.object_store import object_store
from trainer.archive.archive import Archive
from trainer.archive.objects import Objects
from trainer.archive.upload import push


def main(home: str, uri: str, folder: str, piece_bytes: str) -> None:
    """Until the input ends."""
    for line in sys.stdin:
        number, delay_seconds = line.split()
        told, tell = os.pipe()
        child = os.fork()
        if not child:
            archive = Archive(home=Path(home), objects=Objects(uri, object_store), piece_bytes=int(piece_bytes))
            _upload(archive, Path(folder), stop_at=int(number), tell=tell)
            os._exit(0)
        os.close(tell)
        os.read(told, 1)
        os.close(told)
        time.sleep(float(delay_seconds))
        os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        print("killed" if os.WIFSIGNALED(status) else "done", flush=True)


def _upload(archive: Archive, folder: Path, *, stop_at: int, tell: int) -> None:
    numbers = itertools.count(1)

    def go_on() -> None:
        if next(numbers) == stop_at:
            os.write(tell, b".")
            threading.Event().wait()

    push(archive, folder, go_on=go_on, may_commit=go_on)


if __name__ == "__main__":
    main(*sys.argv[1:])
