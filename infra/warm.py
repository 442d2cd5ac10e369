"""A program of Airflow's that runs tasks, in an interpreter that has the tasks' libraries loaded.

LocalExecutor and an edge worker run every task in a fork of this process: with the libraries imported here, once, a
task starts at once instead of spending six to eight seconds of imports. They are imported and not used: a library's
threads would not survive the fork. Of Airflow, what it would import in every task to read our DAG files and to run
them. Usage: python -m infra.warm scheduler …, python -m infra.warm edge worker …
"""

import sys

import airflow.providers.standard.decorators.python
import airflow.providers.standard.operators.hitl
import airflow.providers.standard.operators.trigger_dagrun
import airflow.sdk.definitions.asset.metadata  # noqa: F401
import deltalake  # noqa: F401
import mlflow  # noqa: F401
import polars  # noqa: F401
import torchrec  # noqa: F401
import torchx.runner  # noqa: F401
from airflow.__main__ import main

from infra.outlive import outlive_this_process

if __name__ == "__main__":
    sys.argv[0] = "airflow"
    outlive_this_process()
    main()  # type: ignore[no-untyped-call]
