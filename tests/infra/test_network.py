"""The table of connections against the services that are started, and against itself."""

from __future__ import annotations

from pathlib import Path

import pytest

from infra.network import EDGES, LISTENERS, OUTSIDE, clients_of, ports, servers_of
from infra.service import services
from infra.settings import Settings

_INSTALLED = frozenset(
    {"redis_port", "mlflow_port", "airflow_port", "serving_port", "serving_compute_port", "metrics_port"}
)


def moved(tmp_path: Path) -> Settings:
    """Every port another than its default."""
    numbers = {name: 40_000 + number for number, name in enumerate(sorted(_INSTALLED))}
    return Settings(home=tmp_path, serving_models="demo", _env_file=None, **numbers)  # type: ignore[arg-type]


def test_every_port_of_a_service_is_in_the_table(tmp_path: Path) -> None:
    settings = moved(tmp_path)
    found = {service.name: service for service in services(settings) if service.port is not None}
    assert {name: service.port for name, service in found.items()} == {
        name: port for name, port in ports(settings).items() if name in found
    }
    for name, service in found.items():
        assert service.port_setting == f"USERMODEL_{LISTENERS[name].setting.upper()}"
    assert {one.setting for one in LISTENERS.values() if one.setting} == _INSTALLED


def test_every_service_that_is_started_has_its_place(tmp_path: Path) -> None:
    known = set(LISTENERS) | {edge.client for edge in EDGES}
    assert {service.name for service in services(moved(tmp_path))} <= known


def test_no_edge_ends_nowhere() -> None:
    assert {edge.server for edge in EDGES} == set(LISTENERS)
    assert len({(edge.client, edge.server, edge.purpose) for edge in EDGES}) == len(EDGES)
    inside = {edge.client for edge in EDGES} - OUTSIDE
    assert inside >= set(LISTENERS) - OUTSIDE - {"redis", "postgres", "airflow-api-server"}


@pytest.mark.parametrize(
    ("server", "clients"),
    [
        pytest.param("postgres", {"airflow-api-server", "airflow-scheduler", "airflow-dag-processor",
                                  "airflow-triggerer", "mlflow"}, id="no-worker-reaches-the-database"),
        pytest.param("serving-shard", {"serving-compute"}, id="weights-for-the-compute-center-alone"),
        pytest.param("trainer", {"trainer"}, id="ranks-among-themselves"),
    ],
)  # fmt: skip
def test_who_may_reach(server: str, clients: set[str]) -> None:
    assert set(clients_of(server)) == clients
    assert all(server in servers_of(client) for client in clients)
