"""A cluster of one machine behind Slurm's own commands: `sbatch`, `srun`, `scontrol`, `squeue`, `sacct`, `scancel`.

Each job is a process with a folder under USERMODEL_TEST_SLURM that says what became of it, so it outlives whoever
submitted it, as a job does. Installed by `install` as executables on PATH; it runs what TorchX wrote for Slurm. While
there is a file `full` beside that folder, jobs wait.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

COMMANDS = ("sbatch", "srun", "scontrol", "squeue", "sacct", "scancel")
ROOT = "USERMODEL_TEST_SLURM"


def install(folder: Path) -> dict[str, str]:
    """Write the commands into `folder`; what the environment of their callers needs."""
    root, bin_folder = folder / "cluster", folder / "bin"
    root.mkdir()
    bin_folder.mkdir()
    for name in COMMANDS:
        command = bin_folder / name
        command.write_text(f'#!/bin/sh\nexec "{sys.executable}" -S "{__file__}" {name} "$@"\n')
        command.chmod(0o755)
    return {ROOT: str(root), "PATH": f"{bin_folder}:{os.environ['PATH']}"}  # noqa: TID251


def jobs() -> Path:
    """Their folders, by number."""
    return Path(os.environ[ROOT])  # noqa: TID251


def submit(script: str, folder: Path, *, token: str) -> str:
    """A job of a shell script, which runs in `folder`; its number."""
    told = folder / "told.sh"
    told.write_text(script)
    command = ["sbatch", f"--chdir={folder}", f"--comment=usermodel:{token}", str(told)]
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.strip()


def sbatch(arguments: list[str]) -> int:
    """Start the script in a session of its own; print its number."""
    options = dict(word[2:].partition("=")[::2] for word in arguments if word.startswith("--"))
    number = 1 + len(list(jobs().iterdir()))
    folder = jobs() / str(number)
    folder.mkdir()
    script = Path(options["chdir"]) / "batch.sh"
    script.write_text(Path(arguments[-1]).read_text())
    (folder / "comment").write_text(options["comment"])
    subprocess.Popen(
        [sys.executable, "-S", __file__, "slurmd", str(number), str(script)],
        cwd=options["chdir"],
        start_new_session=True,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    print(number)
    return 0


def slurmd(arguments: list[str]) -> int:
    """Run the script, and say what became of it."""
    number, script = arguments
    folder = jobs() / number
    while (jobs().parent / "full").exists() and not (folder / "state").exists():
        time.sleep(0.05)
    if (folder / "state").exists():  # cancelled before it began
        return 0
    with (folder / "log").open("wb") as out:
        batch = subprocess.Popen(
            ["/bin/bash", script],
            env={**os.environ, "SLURM_JOB_ID": number},  # noqa: TID251
            stdout=out,
            stderr=out,
            start_new_session=True,
        )
        (folder / "pid").write_text(str(batch.pid))
        code = batch.wait()
    if not (folder / "state").exists():
        (folder / "state").write_text(json.dumps(["COMPLETED" if code == 0 else "FAILED", f"{code}:0"]))
    return 0


def srun(arguments: list[str]) -> int:
    """Run one command per component, each with its own files; the first bad exit ends the others."""
    groups: list[list[str]] = [[]]
    for word in arguments:
        if word.strip() == ":":
            groups.append([])
        else:
            groups[-1].append(word)
    steps = [_step(group) for group in groups]
    while any(step.poll() is None for step in steps) and not any(step.poll() for step in steps):
        time.sleep(0.05)
    for step in steps:
        if step.poll() is None:
            step.terminate()
    return max(abs(step.wait()) for step in steps)


def _step(words: list[str]) -> subprocess.Popen[bytes]:
    first = next(place for place, word in enumerate(words) if not word.startswith("--"))
    options = dict(word[2:].partition("=")[::2] for word in words[:first])
    number = os.environ["SLURM_JOB_ID"]  # noqa: TID251
    out_path, err_path = (Path(options[name].replace("%j", number).replace("%t", "0")) for name in ("output", "error"))
    with out_path.open("wb") as out, err_path.open("wb") as err:
        return subprocess.Popen(words[first:], stdout=out, stderr=err)


def scontrol(arguments: list[str]) -> int:
    """`-o show job N`; a job that is forgotten is an invalid id."""
    number = arguments[-1]
    folder = jobs() / number
    if not folder.exists() or (folder / "forgotten").exists():
        print("slurm_load_jobs error: Invalid job id specified", file=sys.stderr)
        return 1
    state, code = _state(folder)
    print(f"JobId={number} JobName=trainer-0 JobState={state} Reason=None ExitCode={code}")
    return 0


def sacct(arguments: list[str]) -> int:
    """The accounting, which is off in many clusters."""
    print("Slurm accounting storage is disabled", file=sys.stderr)
    return 1


def squeue(arguments: list[str]) -> int:
    """Number and comment of what is not over."""
    for folder in jobs().iterdir():
        if not (folder / "state").exists():
            print(f"{folder.name}|{(folder / 'comment').read_text()}")
    return 0


def scancel(arguments: list[str]) -> int:
    """End it."""
    folder = jobs() / arguments[-1]
    if not (folder / "state").exists():
        (folder / "state").write_text(json.dumps(["CANCELLED", "0:15"]))
        with contextlib.suppress(ProcessLookupError, FileNotFoundError):
            os.killpg(int((folder / "pid").read_text()), signal.SIGTERM)
    return 0


def _state(folder: Path) -> tuple[str, str]:
    if (folder / "state").exists():
        state, code = json.loads((folder / "state").read_text())
        return state, code
    return "RUNNING" if (folder / "pid").exists() else "PENDING", "0:0"


if __name__ == "__main__":
    sys.exit(globals()[sys.argv[1]](sys.argv[2:]))
