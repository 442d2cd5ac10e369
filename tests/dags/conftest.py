"""Airflow in a temporary home: its settings are read when it is first imported, so they are set here, before."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import pytest

from infra.settings import REPOSITORY

_HOME = Path(tempfile.mkdtemp(prefix="usermodel-airflow-"))
os.environ |= {  # noqa: TID251
    "AIRFLOW_HOME": str(_HOME),
    "AIRFLOW__CORE__DAGS_FOLDER": str(REPOSITORY / "dags"),
    "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
    "AIRFLOW__CORE__UNIT_TEST_MODE": "False",
    "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": f"sqlite:///{_HOME}/airflow.db",
    "AIRFLOW__LOGGING__LOGGING_LEVEL": "WARNING",
    "AIRFLOW__USAGE_DATA_COLLECTION__ENABLED": "False",
}


@pytest.fixture(scope="session")
def airflow_home() -> Path:
    """A fresh Airflow home with its database made."""
    from airflow.utils.db import initdb

    initdb()
    return _HOME
