"""Sizes by hand, shares that refuse what they cannot be, and queues whose waits are known."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from typer.testing import CliRunner

from infra.capacity.fleet import Fleet, size
from infra.capacity.model import Model
from infra.capacity.queueing import departures, simulate
from infra.capacity.rates import FORWARD_FLOPS, RATES, TRAIN_FLOPS
from infra.capacity.workload import Host, Workload, knobs
from infra.commands import cli
from infra.settings import REPOSITORY

DAY = 86_400
MODEL = Model(
    name="toy",
    tower_flops=FORWARD_FLOPS.value,  # a second of a core
    example_flops=TRAIN_FLOPS.value / 3,  # forward and backward: a second of a core
    tower_bytes=1e9,
    num_lists=0,
    num_dense=0,
    item_values=4,
    num_embeddings=2,
    dim=96,
)
HOST = Host(cores=10, memory_gb=1, network_gbit=8_000, gpus=1)
WORKLOAD = Workload(
    users=DAY * 100,
    requests_per_day=DAY * 100,
    examples_per_day=DAY * 100,
    active_share=1,
    peak=1,
    utilisation=1,
    train_hours=24,
    infer_hours=24,
    replicas=1,
)


def sized(**changes: float) -> Fleet:
    return size(replace(WORKLOAD, **changes), MODEL, HOST, device="cpu", trained=None)


@pytest.mark.parametrize(
    ("tier", "changes", "hosts"),
    [
        pytest.param("training", {}, 10, id="100 seconds of a core a second, 10 cores a host"),
        pytest.param("training", {"train_hours": 12}, 20, id="in half the time twice as many"),
        pytest.param("training", {"models": 3}, 30, id="three models"),
        pytest.param("training", {"utilisation": 0.5}, 20, id="half of every core"),
        pytest.param("batch inference", {}, 11, id="a user costs a little more than the tower"),
        pytest.param("batch inference", {"active_share": 0.5}, 6, id="half of them are active"),
        pytest.param("compute center", {"peak": 3}, 31, id="at peak"),
        pytest.param("compute center", {"computed_share": 0.5}, 6, id="a cache answers half"),
        pytest.param("feature store", {}, 12, id="1,360 bytes a user in 1 GB a host"),
        pytest.param("feature store", {"replicas": 2}, 24, id="two copies"),
        pytest.param("feature store", {"kept": 1}, 5, id="one vector: 552 bytes"),
    ],
)
def test_hosts_of(tier: str, changes: dict[str, float], hosts: int) -> None:
    assert sized(**changes).hosts_of(tier) == hosts


def test_the_fullest_part_decides() -> None:
    narrow = size(WORKLOAD, MODEL, replace(HOST, network_gbit=1e-5), device="cpu", trained=None)
    store = next(tier for tier in narrow.tiers if tier.name == "feature store")
    assert store.bound == "network"
    assert store.hosts == np.ceil(store.full["network"]) > store.full["memory"]


def test_no_knob_but_those_that_say_so_needs_more_hosts() -> None:
    before = sized(utilisation=0.5, train_hours=6, infer_hours=6, replicas=2)
    load = replace(WORKLOAD, utilisation=0.5, train_hours=6, infer_hours=6, replicas=2)
    for name, turned in knobs(load).items():
        after = size(turned, MODEL, HOST, device="cpu", trained=None)
        changed = [(a.hosts, b.hosts) for a, b in zip(before.tiers, after.tiers, strict=True)]
        assert all(now <= was for was, now in changed), name
        assert any(now < was for was, now in changed) or "id lists" in name  # the toy has none


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        pytest.param({"users": 0}, "--users 0; it is above 0", id="nobody"),
        pytest.param({"computed_share": 1.2}, "--computed-share 1.2; it is a share", id="more than all"),
        pytest.param({"peak": 0.5}, "--peak 0.5", id="a peak below the mean"),
        pytest.param({"train_hours": 25}, "at most 24", id="a day that takes longer than a day"),
    ],
)
def test_what_makes_no_fleet_is_refused(changes: dict[str, float], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        replace(WORKLOAD, **changes)


def test_departures_are_those_of_a_queue_served_one_by_one() -> None:
    arrivals = np.sort(np.random.default_rng(0).uniform(0, 10, 500))
    servers, service = 3, 0.07
    free, expected = [0.0] * servers, []
    for at in arrivals:
        first = min(range(servers), key=free.__getitem__)
        free[first] = max(at, free[first]) + service
        expected.append(free[first])
    np.testing.assert_allclose(departures(arrivals, servers=servers, service=service), expected)


def test_waits_of_one_server_are_those_of_the_theory() -> None:
    """M/D/1: the mean wait is u s / 2 (1 - u)."""
    rate, service, number = 0.8, 1.0, 400_000
    arrivals = np.cumsum(np.random.default_rng(1).exponential(1 / rate, number))
    waits = departures(arrivals, servers=1, service=service) - arrivals - service
    assert waits.mean() == pytest.approx(0.8 / (2 * 0.2), rel=0.05)


def test_a_burst_is_waited_for_only_where_it_exceeds_the_host() -> None:
    calm, full = (simulate(utilisation=at, servers=16, service=0.01) for at in (0.4, 0.8))
    assert calm.burst_p99 < 0.05
    assert calm.recovered < 1
    # 10 s at 1.6 of what is served leave 6 s of work, which 0.2 of the host take down.
    assert full.recovered == pytest.approx(6 / 0.2, rel=0.1)
    assert full.burst_p99 == pytest.approx(6, rel=0.1)


def test_the_command_prints_hosts_assumptions_and_where_rates_are_from() -> None:
    answer = CliRunner().invoke(cli, ["infra", "capacity", "--recipe", "demo", "--users", "1e6", "--json"])
    assert answer.exit_code == 0, answer.output
    found = json.loads(answer.stdout)
    assert found["workload"]["users"] == 1e6
    assert [tier["name"] for tier in found["tiers"]] == [
        "training",
        "batch inference",
        "compute center",
        "feature store",
    ]
    assert found["model"]["tower_flops"] == pytest.approx(2.23e6, rel=0.01)


def test_every_measured_rate_names_a_benchmark() -> None:
    known = {path.stem for path in (REPOSITORY / "tests" / "benchmarks").glob("*.py")}
    for name, rate in RATES.items():
        named = rate.basis.partition("`")[2].partition("`")[0]
        assert not rate.measured or named in known | {"fb_ctr_mini"}, name
