"""Processes and ports as /proc shows them: who is ours, who holds a port, and how to end them."""

from __future__ import annotations

import errno
import os
import signal
import socket
import time
from collections.abc import Callable, Iterable
from pathlib import Path

PROC = Path("/proc")
POLL_SECONDS = 0.1
TCP_LISTEN = "0A"


def is_alive(pid: int) -> bool:
    """Whether the process runs; a zombie does not."""
    return _stat(pid, field=0) not in {None, "Z", "X"}


def children(pid: int) -> list[int]:
    """Its processes that live."""
    return [child for child in _pids() if _stat(child, field=1) == str(pid)]


def only_descendant(pid: int) -> int:
    """The process at the end of the line that begins at `pid`, whose members have one child each at most."""
    while found := children(pid):
        (pid,) = found
    return pid


def with_environment(entry: str) -> set[int]:
    """Processes that were started with `NAME=value` in their environment, but this one and its ancestors."""
    needle = entry.encode() + b"\0"
    found = set()
    for folder in PROC.glob("[0-9]*"):
        try:
            environment = (folder / "environ").read_bytes()
        except OSError:  # gone since, or another user's
            continue
        if needle in environment + b"\0":
            found.add(int(folder.name))
    return found - _lineage()


def end(find: Callable[[], set[int]], *, grace_seconds: float, kill_seconds: float = 5.0) -> set[int]:
    """Ask every process that `find` names to stop, kill what is left after the grace; returns who was found.

    `find` is asked again and again: a process may start another while it is being stopped.
    Raises RuntimeError when some survive SIGKILL.
    """
    started, asked, ended = time.monotonic(), set[int](), set[int]()
    while pids := {pid for pid in find() if is_alive(pid)}:
        waited = time.monotonic() - started
        if waited > grace_seconds + kill_seconds:
            raise RuntimeError(f"processes {sorted(pids)} do not end, not even by SIGKILL")
        if waited > grace_seconds:
            _signal(pids, signal.SIGKILL)
        else:
            _signal(pids - asked, signal.SIGTERM)
            asked |= pids
        ended |= pids
        time.sleep(POLL_SECONDS)
    return ended


def port_is_free(host: str, port: int) -> bool:
    """Whether a server could listen on the port now."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                return False
            raise
    return True


def port_holder(port: int) -> str | None:
    """`pid 12 (name)` of the process that listens on the port, if this user may see it."""
    inodes = {f"socket:[{inode}]" for _, held, inode in listening() if held == port}
    for pid in _pids():
        if inodes & set(_descriptors(pid)):
            return f"pid {pid} ({_name(pid)})"
    return None


def listening(pids: Iterable[int] | None = None) -> set[tuple[str, int, str]]:
    """TCP sockets that wait for connections: (address, port, inode); of some processes, or of all."""
    rows = set()
    for table in ("tcp", "tcp6"):
        for line in (PROC / "net" / table).read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == TCP_LISTEN:
                address, port = fields[1].rsplit(":", 1)
                rows.add((_address(address), int(port, 16), fields[9]))
    if pids is None:
        return rows
    ours = {link for pid in pids for link in _descriptors(pid)}
    return {row for row in rows if f"socket:[{row[2]}]" in ours}


def _address(text: str) -> str:
    """The kernel prints an address as hexadecimal words in this machine's byte order."""
    words = b"".join(bytes.fromhex(text[at : at + 8])[::-1] for at in range(0, len(text), 8))
    return socket.inet_ntop(socket.AF_INET if len(words) == 4 else socket.AF_INET6, words)


def _pids() -> list[int]:
    return sorted(int(folder.name) for folder in PROC.glob("[0-9]*"))


def _descriptors(pid: int) -> list[str]:
    links = []
    try:
        for link in (PROC / str(pid) / "fd").iterdir():
            links.append(str(link.readlink()))
    except OSError:  # gone since, or another user's
        pass
    return links


def _name(pid: int) -> str:
    try:
        return (PROC / str(pid) / "comm").read_text().strip()
    except OSError:
        return "gone"


def _stat(pid: int, *, field: int) -> str | None:
    """Field of /proc/PID/stat counted after the name: 0 is the state, 1 the parent."""
    try:
        text = (PROC / str(pid) / "stat").read_text()
    except OSError:
        return None
    return text.rpartition(")")[2].split()[field]


def _lineage() -> set[int]:
    """This process and its ancestors."""
    pids, pid = set[int](), os.getpid()
    while pid > 1 and pid not in pids:
        pids.add(pid)
        pid = int(_stat(pid, field=1) or 0)
    return pids


def _signal(pids: Iterable[int], number: signal.Signals) -> None:
    for pid in pids:
        try:
            os.kill(pid, number)
        except ProcessLookupError:
            continue
