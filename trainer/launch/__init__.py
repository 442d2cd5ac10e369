"""Training jobs, described once for TorchX and run by one of its schedulers.

`local`: ranks of this machine, which live and die with the process that waits for them. `slurm` and `kubernetes`:
jobs that outlive it. A record beside the day's waypoints says which job it is; who trains the same day from the same
inputs finds it, waits for the job in place of another, and collects what it did.
"""

from trainer.launch.local import run_ranks

__all__ = ["run_ranks"]
