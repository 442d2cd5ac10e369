"""The fleet for a person, and as JSON."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from math import isfinite
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table

from infra.capacity.fleet import Fleet
from infra.capacity.model import Model
from infra.capacity.queueing import BURST, BURST_SECONDS, Waits
from infra.capacity.rates import RATES
from infra.capacity.workload import Host, Workload, option

_UNITS = ((1e15, "PB"), (1e12, "TB"), (1e9, "GB"), (1e6, "MB"))
PAPER_TOWER_GB, PAPER_MFLOP = 160, 390
PAPER_MODEL = "fb_ctr"


@dataclass(frozen=True, kw_only=True)
class Sized:
    """What was asked, and the answer. turned: by knob, the fleet with this one thing changed."""

    workload: Workload
    host: Host
    model: Model
    fleet: Fleet
    turned: Mapping[str, Fleet]
    waits: tuple[Waits, ...]
    """Of a host of the compute center, by utilisation."""

    def document(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "workload": asdict(self.workload),
            "host": asdict(self.host),
            "model": asdict(self.model),
            "tiers": [_tier(self.fleet, tier.name) for tier in self.fleet.tiers],
            "bytes_per_day": dict(self.fleet.bytes_per_day),
            "facts": dict(self.fleet.facts),
            "knobs": {
                name: {tier.name: tier.hosts for tier in fleet.tiers} | {"hosts": fleet.hosts}
                for name, fleet in self.turned.items()
            },
            "waits": [asdict(one) for one in self.waits],
            "rates": {name: asdict(rate) for name, rate in RATES.items()},
        }

    def tables(self) -> Group:
        """Hosts, bytes, knobs, what it stands on, and the paper's figures."""
        parts: list[RenderableType] = [self._hosts(), self._bytes(), self._facts(), self._knobs(), self._asked()]
        parts += [self._waits(), self._rates()]
        if self.model.name == PAPER_MODEL:
            parts.append(self._paper())
        return Group(*parts)

    def _hosts(self) -> Table:
        table = _table("Hosts", "tier", "hosts", "full first", "what each part alone asks for", "")
        for tier in self.fleet.tiers:
            asked = ", ".join(f"{part} {number:,.1f}" for part, number in tier.full.items())
            kind = " with GPUs" if tier.gpu else ""
            table.add_row(tier.name, f"{tier.hosts:,}{kind}", tier.bound, asked, tier.note)
        table.add_row("all", f"{self.fleet.hosts:,}", "", "", "")
        return table

    def _bytes(self) -> Table:
        table = _table("Bytes a day", "what", "a day", "MB/s, mean")
        for name, size in self.fleet.bytes_per_day.items():
            table.add_row(name, show_bytes(size), f"{size / 86_400 / 1e6:,.0f}")
        return table

    def _facts(self) -> Table:
        table = _table("Beside it", "what", "value")
        for name, value in self.fleet.facts.items():
            table.add_row(name, f"{value:,.0f}" if value >= 100 else f"{value:.3g}")
        return table

    def _knobs(self) -> Table:
        names = [tier.name for tier in self.fleet.tiers]
        table = _table("What each knob costs or saves, hosts", "knob", *names, "all")
        for knob, fleet in self.turned.items():
            changes = [fleet.hosts_of(name) - self.fleet.hosts_of(name) for name in names]
            table.add_row(knob, *map(_change, changes), _change(fleet.hosts - self.fleet.hosts))
        return table

    def _waits(self) -> Table:
        table = _table(
            f"Simulated: a host of the compute center, from request to vectors, ms; then {BURST_SECONDS:g} s of "
            f"{BURST:g} times the rate",
            "utilisation",
            "p50",
            "p99",
            "p99 in the burst",
            "as before again after",
        )
        for one in self.waits:
            shown = [f"{1e3 * seconds:,.3g}" for seconds in (one.p50, one.p99, one.burst_p99)]
            after = f"{one.recovered:,.1f} s" if isfinite(one.recovered) else "not soon"
            table.add_row(f"{one.utilisation:g}", *shown, after)
        return table

    def _asked(self) -> Table:
        table = _table("Assumed, and how to say otherwise", "option", "value", "what it is")
        for prefix, asked in (("", self.workload), ("host_", self.host)):
            for one in fields(asked):
                table.add_row(option(prefix + one.name), f"{getattr(asked, one.name):g}", one.metadata["about"])
        return table

    def _rates(self) -> Table:
        table = _table("Rates", "rate", "value", "from", "basis")
        for name, rate in RATES.items():
            table.add_row(name, f"{rate.value:.3g} {rate.unit}", "measured" if rate.measured else "ASSUMED", rate.basis)
        return table

    def _paper(self) -> Table:
        """Section 6.1.3 names the model's size and cost; hosts it does not name."""
        table = _table("Against the paper's figures", "what", "paper", "here")
        table.add_row("user tower, GB", f"{PAPER_TOWER_GB}", f"{self.model.tower_bytes / 1e9:.1f}")
        table.add_row("inference, MFLOP", f"{PAPER_MFLOP}", f"{self.model.tower_flops / 1e6:.0f}")
        table.add_row("examples a day", "6e9", f"{self.workload.examples_per_day:g}")
        table.add_row("requests a day", "hundreds of billions", f"{self.workload.requests_per_day:g}")
        in_request = self.fleet.facts["tower in the request on one core, ms"]
        table.add_row(
            "can a request wait for the tower?",
            "no: larger ones than 20 MFLOP fall back often (6.4)",
            f"{in_request:.1f} ms of a core, {in_request * 20e6 / self.model.tower_flops:.2f} ms at 20 MFLOP",
        )
        one = self.fleet.facts["cores of one downstream model that runs the tower itself"]
        table.add_row(
            "a hundred downstream models that run it themselves",
            "15.3 % more capacity for all of them (6.3)",
            f"{100 * one:,.0f} cores at peak; shared, {one * self.workload.computed_share:,.0f}",
        )
        return table


def show_bytes(size: float) -> str:
    """With the unit that fits."""
    for unit, name in _UNITS:
        if size >= unit:
            return f"{size / unit:.3g} {name}"
    return f"{size:.0f} B"


def _tier(fleet: Fleet, name: str) -> dict[str, Any]:
    tier = next(tier for tier in fleet.tiers if tier.name == name)
    return {
        "name": name,
        "hosts": tier.hosts,
        "gpu": tier.gpu,
        "bound": tier.bound,
        "full": dict(tier.full),
        "note": tier.note,
    }


def _change(hosts: int) -> str:
    return "" if hosts == 0 else f"{hosts:+,}"


def _table(title: str, *columns: str) -> Table:
    table = Table(title=title, title_justify="left")
    for place, column in enumerate(columns):
        table.add_column(column, justify="left" if place == 0 else "right", overflow="fold")
    return table
