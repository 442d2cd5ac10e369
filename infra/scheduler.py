"""Airflow's scheduler, in an interpreter that has the tasks' libraries loaded.

LocalExecutor runs every task in a fork of this process: with the libraries imported here, once, a task starts
at once instead of spending six to eight seconds of imports. They are imported and not used: a library's
threads would not survive the fork.
"""

import sys

import deltalake  # noqa: F401
import mlflow  # noqa: F401
import polars  # noqa: F401
import torchrec  # noqa: F401
import torchx.runner  # noqa: F401
from airflow.__main__ import main

if __name__ == "__main__":
    sys.argv = ["airflow", "scheduler", "--skip-serve-logs"]
    main()  # type: ignore[no-untyped-call]
