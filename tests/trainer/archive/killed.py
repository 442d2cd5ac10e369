"""Uploads that are killed: each in a child of this process, which itself never opens the storage.

`python -m tests.trainer.archive.killed HOME URI FOLDER`: reads a delay in seconds per line, begins an upload of FOLDER,
kills it (SIGKILL) after the delay, and answers with a line: `killed` or `done`.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path

from features.object_store import object_store
from trainer.archive.archive import Archive
from trainer.archive.objects import Objects
from trainer.archive.upload import push


def main(home: str, uri: str, folder: str, piece_bytes: str) -> None:
    """Until the input ends."""
    for line in sys.stdin:
        child = os.fork()
        if not child:
            archive = Archive(home=Path(home), objects=Objects(uri, object_store), piece_bytes=int(piece_bytes))
            push(archive, Path(folder))
            os._exit(0)
        time.sleep(float(line))
        os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        print("killed" if os.WIFSIGNALED(status) else "done", flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
