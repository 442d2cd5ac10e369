"""Where the agents of several hosts meet, and where their ranks do after them.

One agent, node 0's, listens: on one address and port, where torch's own would take every interface. The others
are told both, or read them from a file in the job's directory. Ranks open no port to meet: they use the agents'
store. What remains is the traffic of gloo (or NCCL) itself, on the interface that the agent names to it.

torch compares times of different hosts to tell who is alive: their clocks must agree within `lost_seconds`.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import logging
import os
import socket
import struct
import threading
import time
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from uuid import uuid4

from torch._C._distributed_c10d import FileStore, PrefixStore, Store, TCPStore
from torch.distributed.elastic.rendezvous import RendezvousHandler, RendezvousInfo, RendezvousParameters
from torch.distributed.elastic.rendezvous.c10d_rendezvous_backend import C10dRendezvousBackend
from torch.distributed.elastic.rendezvous.dynamic_rendezvous import DynamicRendezvousHandler, RendezvousTimeout

from trainer.reach import retry_often
from trainer.whole import draft

log = logging.getLogger(__name__)

BACKEND = "hosts"
STORE = "store"
"""Of the ranks of one host: a file in the job's directory."""
_ADDRESS = "rendezvous.json"
_SIOCGIFADDR = 0x8915
_CONNECT_SECONDS = 5.0
_RETRY_SECONDS = 0.2
_SIGNS_PER_LOSS = 3
"""So many keep-alives may a host miss."""


@dataclass(frozen=True, kw_only=True)
class Hosts:
    """Several hosts that work on one job, as one of them sees them."""

    nodes: int
    node_rank: int | None
    """Node 0 listens; None: the host that `endpoint` is an address of."""
    address: str
    """This host's, on the interface between them."""
    endpoint: str | None
    """`HOST:PORT`; None: node 0 takes a free port and says so in a file in `directory`."""
    directory: Path
    """The job's."""
    join_seconds: int
    """So long may it take until all are there."""
    lost_seconds: int
    """A host that was not heard of for so long is lost."""

    def __post_init__(self) -> None:
        if self.nodes < 1:
            raise ValueError(f"--nodes {self.nodes}; give the number of hosts")
        if self.endpoint is None and self.node_rank is None:
            raise ValueError("without --rendezvous and --node-rank nobody knows who listens; give one of them")
        if self.endpoint is not None and not self.endpoint.rpartition(":")[2].isdigit():
            raise ValueError(f"--rendezvous {self.endpoint}; give HOST:PORT")
        if self.lost_seconds < _SIGNS_PER_LOSS:
            raise ValueError(
                f"--lost-seconds {self.lost_seconds}; at least {_SIGNS_PER_LOSS}: a host gives a sign a second"
            )

    def handler(self, parameters: RendezvousParameters) -> RendezvousHandler:
        """For torch's registry: listen or connect. TimeoutError: nobody listens within `join_seconds`."""
        notice_lost_hosts(self.lost_seconds)
        listening = _listen(self)
        store, port = _serve(self, listening) if listening else _connect(self)
        loss = timedelta(seconds=self.lost_seconds)
        handler: _Rounds = _Rounds.from_backend(
            parameters.run_id,
            store,
            _Backend(store, parameters.run_id),
            self.nodes,  # no fewer go on: a round of each of two halves would both be the job, and both publish
            self.nodes,
            self.address,
            RendezvousTimeout(join=timedelta(seconds=self.join_seconds), last_call=loss, close=loss, heartbeat=loss),
            keep_alive_interval=self.lost_seconds // _SIGNS_PER_LOSS,
            keep_alive_max_attempt=_SIGNS_PER_LOSS,
        )
        handler.meeting = (store.host, port, self.lost_seconds)
        return handler


@dataclass(frozen=True, kw_only=True)
class _Meeting:
    """Of the ranks of one round; another begins when a host is lost, joins or starts its ranks again."""

    host: str
    port: int
    prefix: str
    lost_seconds: int


_meeting: _Meeting | None = None
"""The agent sets it before each round; its ranks are forked, and have it too."""


class _Backend(C10dRendezvousBackend):
    """torch's, by the name under which it is registered."""

    @property
    def name(self) -> str:
        return BACKEND


class _Rounds(DynamicRendezvousHandler):
    """torch's rendezvous; each round tells the ranks where they meet, and that nothing of an earlier one is there."""

    meeting: tuple[str, int, int]

    def next_rendezvous(self) -> RendezvousInfo:
        global _meeting
        found = super().next_rendezvous()
        if found.rank == 0:
            found.store.set("ranks", uuid4().hex)
        host, port, lost_seconds = self.meeting
        prefix = found.store.get("ranks").decode()
        _meeting = _Meeting(host=host, port=port, prefix=prefix, lost_seconds=lost_seconds)
        return found


def rank_store(directory: Path, *, world_size: int, timeout: timedelta) -> Store:
    """What a rank meets the others of its job in: a file on one host, the agents' store on several.

    timeout: of what is waited for in it.
    """
    if _meeting is None:
        store: Store = FileStore(str(directory / STORE), world_size)
    else:
        notice_lost_hosts(_meeting.lost_seconds)
        store = PrefixStore(_meeting.prefix, TCPStore(_meeting.host, _meeting.port, is_master=False))
    store.set_timeout(timeout)
    return store


def ranks_meet_at() -> str | None:
    """The address of the host whose agent listens; None in a job of one host."""
    return None if _meeting is None else _meeting.host


def lost_seconds() -> int:
    """After which a silent host is lost; 0 in a job of one host."""
    return 0 if _meeting is None else _meeting.lost_seconds


def interface_address(name: str) -> str:
    """The IPv4 address of a network interface. ValueError names those that there are."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            found = fcntl.ioctl(probe, _SIOCGIFADDR, struct.pack("256s", name.encode()[:15]))
        except OSError as error:
            names = ", ".join(known for _, known in socket.if_nameindex())
            raise ValueError(f"no interface {name!r} with an IPv4 address ({error}); this host has {names}") from error
    return socket.inet_ntoa(found[20:24])


def notice_lost_hosts(seconds: int) -> None:
    """Let every TCP connection of this process fail once its other end is silent for `seconds`.

    Neither torch's store nor gloo asks the kernel for that: their reads of a host that was cut off would last for
    minutes (gloo: until the collective's own timeout). Connections come and go, so a thread looks again and again.
    """

    def watch() -> None:
        while True:
            for descriptor in Path("/proc/self/fd").iterdir():
                with contextlib.suppress(OSError):  # closed meanwhile, no socket, or not connected
                    _bound(descriptor, seconds)
            time.sleep(1)

    threading.Thread(target=watch, name="lost-hosts", daemon=True).start()


def _bound(descriptor: Path, seconds: int) -> None:
    if not str(descriptor.readlink()).startswith("socket:"):
        return
    with socket.socket(fileno=os.dup(int(descriptor.name))) as connection:
        if connection.family in (socket.AF_INET, socket.AF_INET6) and connection.type == socket.SOCK_STREAM:
            connection.getpeername()
            interval = max(1, seconds // _SIGNS_PER_LOSS)
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, interval)
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, interval)
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, _SIGNS_PER_LOSS)
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, seconds * 1000)
            retry_often(connection)


def _listen(hosts: Hosts) -> socket.socket | None:
    """The socket that is listened on, where that is this host's part."""
    if hosts.node_rank not in (0, None):
        return None
    host, _, port = (hosts.endpoint or f"{hosts.address}:0").rpartition(":")
    found = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        found.bind((host, int(port)))
        found.listen(socket.SOMAXCONN)
    except OSError as error:
        found.close()
        if hosts.node_rank is None:
            return None  # no address of this host, or its first agent listens already
        raise ValueError(f"node 0 cannot listen on {host}:{port}: {error}; give an address of this host") from error
    return found


def _serve(hosts: Hosts, listening: socket.socket) -> tuple[TCPStore, int]:
    host, port = listening.getsockname()
    store = TCPStore(host, port, is_master=True, wait_for_workers=False, master_listen_fd=listening.detach())
    store.set(hosts.directory.name, "here")
    if hosts.endpoint is None:
        address = hosts.directory / _ADDRESS
        draft(address, json.dumps([host, port])).rename(address)
    log.info("listening on %s:%d", host, port)
    return store, port


def _connect(hosts: Hosts) -> tuple[TCPStore, int]:
    """The store of the host that listens for this job, once it does: what a requeued job left is passed over."""
    deadline = time.monotonic() + hosts.join_seconds
    while True:
        try:
            host, port = _address(hosts)
            store = TCPStore(host, port, is_master=False, timeout=timedelta(seconds=_CONNECT_SECONDS))
            store.wait([hosts.directory.name], timedelta(seconds=_CONNECT_SECONDS))
            store.set_timeout(timedelta(seconds=hosts.join_seconds))
            return store, port
        except (OSError, RuntimeError) as error:
            if time.monotonic() > deadline:
                place = hosts.endpoint or hosts.directory / _ADDRESS
                raise TimeoutError(f"nobody listens at {place} after {hosts.join_seconds} s: {error}") from error
        time.sleep(_RETRY_SECONDS)


def _address(hosts: Hosts) -> tuple[str, int]:
    if hosts.endpoint is None:
        host, port = json.loads((hosts.directory / _ADDRESS).read_text())
        return host, port
    host, _, told = hosts.endpoint.rpartition(":")
    return socket.gethostbyname(host), int(told)
