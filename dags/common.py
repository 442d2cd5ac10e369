"""What the DAG files share: task defaults, assets, and the words of a partition event."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any
from zoneinfo import ZoneInfo

from airflow.sdk import Asset, ExceptionRetryPolicy, RetryAction, RetryRule
from airflow.sdk.configuration import conf

if TYPE_CHECKING:
    from datetime import date

RETRY_POLICY = ExceptionRetryPolicy(
    rules=[
        RetryRule(
            exception=["builtins.ValueError", "builtins.FileNotFoundError"],
            action=RetryAction.FAIL,
            reason="the input is at fault: the same attempt would fail again",
        )
    ]
)

TASK_DEFAULTS: dict[str, Any] = {
    "retries": 2,
    "retry_delay": timedelta(seconds=30),
    "retry_policy": RETRY_POLICY,
    "execution_timeout": timedelta(hours=6),
}


def place(step: str) -> dict[str, Any]:
    """Arguments of the step's operator: on which hosts it runs. None but where `USERMODEL_EDGE_STEPS` names it; from
    Airflow's configuration: importing the settings would take as long as the rest of a DAG file."""
    queues: Any = conf.getjson("usermodel", "edge_queues", fallback={})
    queue = queues.get(step)
    return {} if queue is None else {"executor": "EdgeExecutor", "queue": queue}


def midnight(day: date, timezone: str) -> datetime:
    """The start of `day` in `timezone`."""
    return datetime(day.year, day.month, day.day, tzinfo=ZoneInfo(timezone))


def data_day(timezone: str) -> str:
    """Template of the run's day of data, [D, D+1): the start of its data interval in the source's time zone."""
    return f"{{{{ data_interval_start.in_timezone('{timezone}').strftime('%Y-%m-%d') }}}}"


def embeddings_asset(model: str) -> Asset:
    """The asset whose partition `ds` says: the embeddings of `ds` are promoted and may be consumed."""
    return Asset(name=f"user_embeddings/{model}", group="user_embeddings")


def released_asset(model: str) -> Asset:
    """The asset whose partition `ds` says: every consumer has learnt the embeddings of `ds`, which serve now."""
    return Asset(name=f"released_embeddings/{model}", group="user_embeddings")


def announce(outlet_events: Any, embeddings: Asset, promotion: dict[str, Any]) -> None:
    """Emit the event that consumers wait for: the embeddings of these days may be read."""
    outlet_events[embeddings].add_partitions(promotion["partitions"])
    outlet_events[embeddings].extra = promotion
