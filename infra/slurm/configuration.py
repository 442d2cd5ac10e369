"""The files of the cluster: slurm.conf, MUNGE's key, the environment of tasks, and its clients."""

from __future__ import annotations

import os
import secrets
import shlex
import subprocess
from collections.abc import Sequence
from pathlib import Path

from infra.credentials import private_folder, write_private
from infra.settings import LOOPBACK, Settings
from infra.slurm.programs import CLIENTS, NoSlurmError, Programs
from infra.supervision import MARKER, Program, runtime_folder

CONTROLLER = "slurmctld"
MUNGE = "munged"
PARTITION = "all"
_KEY_BYTES = 128
_KEPT_SECONDS = 86_400
"""The controller tells of an ended job for so long: there is no accounting database."""
_BACKFILL_SECONDS = 1
"""Heterogeneous jobs, such as TorchX makes, are started by the backfill scheduler alone: every 30 s by default."""
_NODE_LOST_SECONDS = 30
_KILL_SECONDS = 10


class Cluster:
    """One controller and `num_nodes` nodes in `<home>/slurm`."""

    def __init__(self, settings: Settings, *, num_nodes: int) -> None:
        self.settings = settings.model_copy(update={"home": settings.home.resolve() / "slurm"})
        """Of its supervisor: state, logs and marker are apart from those of the services."""
        self.num_nodes = num_nodes
        self.programs_folder = settings.slurm_programs.resolve()

    @property
    def folder(self) -> Path:
        """Of everything that the cluster keeps."""
        return self.settings.home

    @property
    def file(self) -> Path:
        """`slurm.conf`."""
        return self.folder / "slurm.conf"

    @property
    def mark(self) -> str:
        """What is in the environment of every process of the cluster, jobs included."""
        return f"{MARKER}={self.folder}"

    @property
    def socket(self) -> Path:
        """MUNGE's."""
        return runtime_folder(self.settings) / "munge.socket"

    @property
    def ports(self) -> dict[str, int]:
        """By daemon, where it listens on loopback."""
        first = self.settings.slurm_port
        return {CONTROLLER: first} | {name: first + 1 + index for index, name in enumerate(self.nodes)}

    @property
    def nodes(self) -> list[str]:
        """Their names."""
        return [f"node{number}" for number in range(1, self.num_nodes + 1)]

    def write(self, programs: Programs) -> None:
        """Make every file; a second time with the same programs and settings changes none."""
        private_folder(self.folder)
        for name in ("state", *(f"spool/{node}" for node in self.nodes)):
            (self.folder / name).mkdir(parents=True, exist_ok=True)
        key = self.folder / "munge.key"
        if not key.exists():
            write_private(key, secrets.token_hex(_KEY_BYTES))
        _write_script(self.folder / "task_prolog", f'echo "export {self.mark}"')
        write_private(self.file, self.text(programs))
        self.programs_folder.mkdir(exist_ok=True)
        conf, folder = shlex.quote(str(self.file)), shlex.quote(str(self.programs_folder))
        found = f'export SLURM_CONF={conf} PATH={folder}:"$PATH"'  # a job inherits both, and calls srun
        for name in CLIENTS:
            _write_script(self.programs_folder / name, f'{found}\nexec {shlex.join(programs.client(name))} "$@"')

    def daemons(self, programs: Programs) -> list[Program]:
        """MUNGE, the controller, the nodes, in the order in which they start."""
        names = {"socket": self.socket, "key-file": self.folder / "munge.key", "pid-file": self.folder / "munged.pid"}
        names |= {"log-file": self.folder / "munged.log", "seed-file": self.folder / "munge.seed"}
        files = [f"--{name}={path}" for name, path in names.items()]
        # --force: its socket may lie in a folder that nobody else enters
        munge = Program(name=MUNGE, command=[*programs.daemon("munged"), "--foreground", "--force", *files])
        controller = Program(name=CONTROLLER, command=_as_localhost([*programs.daemon("slurmctld"), "-D"]))
        step = str(programs.paths["slurmstepd"])
        nodes = [
            Program(name=node, command=_as_localhost([*programs.daemon("slurmd"), "-D", "-N", node, "-d", step]))
            for node in self.nodes
        ]
        return [munge, controller, *nodes]

    def text(self, programs: Programs) -> str:
        """Of slurm.conf."""
        ports, memory = self.ports, os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2**20
        options: dict[str, object] = {
            "ClusterName": "usermodel",
            "SlurmctldHost": f"localhost({LOOPBACK})",
            "SlurmctldPort": ports[CONTROLLER],
            "SlurmUser": os.getuid(),
            "SlurmdUser": os.getuid(),
            "AuthType": "auth/munge",
            "AuthInfo": f"socket={self.socket}",
            "CommunicationParameters": "NoCtldInAddrAny,NoInAddrAny",
            "StateSaveLocation": self.folder / "state",
            "SlurmdSpoolDir": f"{self.folder}/spool/%n",
            "SlurmctldPidFile": self.folder / "slurmctld.pid",
            "SlurmdPidFile": f"{self.folder}/slurmd-%n.pid",
            "ProctrackType": "proctrack/linuxproc",  # neither this nor the next needs root
            "TaskPlugin": "task/none",
            "TaskProlog": self.folder / "task_prolog",
            "JobCompType": "jobcomp/filetxt",
            "JobCompLoc": self.folder / "completed",
            "MailProg": "/bin/true",
            "MpiDefault": "none",
            "SelectType": "select/cons_tres",
            "SelectTypeParameters": "CR_CPU",
            "SchedulerParameters": f"bf_interval={_BACKFILL_SECONDS}",
            "SlurmdParameters": "config_overrides",
            "MinJobAge": _KEPT_SECONDS,
            "SlurmdTimeout": _NODE_LOST_SECONDS,
            "KillWait": _KILL_SECONDS,
            "ReturnToService": 2,
        }
        if programs.plugins is not None:
            options["PluginDir"] = programs.plugins
        node = f"NodeHostname=localhost NodeAddr={LOOPBACK} CPUs={os.cpu_count()} RealMemory={memory} State=UNKNOWN"
        lines = [
            *(f"{name}={value}" for name, value in options.items()),
            *(f"NodeName={name} Port={ports[name]} {node}" for name in self.nodes),
            f"PartitionName={PARTITION} Nodes=ALL Default=YES MaxTime=INFINITE State=UP",
        ]
        return "".join(f"{line}\n" for line in lines)


def require_namespace() -> None:
    """NoSlurmError where this user may not give a process another name of the host."""
    try:
        made = subprocess.run(_as_localhost(["true"]), capture_output=True, text=True, check=False)
        wrong = made.stderr.strip() if made.returncode else ""
    except OSError as error:
        wrong = str(error)
    if wrong:
        raise NoSlurmError(
            f"Slurm would listen on every interface: no UTS namespace can be made here ({wrong}). It takes util-linux "
            "and hostname, and root or user namespaces (sysctl user.max_user_namespaces, "
            "kernel.unprivileged_userns_clone)"
        )


def _as_localhost(command: Sequence[str]) -> list[str]:
    """In a UTS namespace of its own, where the host's name is `localhost`: Slurm binds what that name resolves to."""
    namespace = ["--uts"] if os.geteuid() == 0 else ["--user", "--map-current-user", "--keep-caps", "--uts"]
    # a new user namespace forgets whose death is told to the process; what it may do there ends with the name
    then = 'hostname localhost && exec setpriv --pdeathsig TERM --inh-caps=-all --ambient-caps=-all "$@"'
    return ["unshare", *namespace, "sh", "-c", then, "sh", *command]


def _write_script(path: Path, lines: str) -> None:
    text = f"#!/bin/sh\n{lines}\n"
    if not path.exists() or path.read_text() != text:
        write_private(path, text)
    path.chmod(0o700)
