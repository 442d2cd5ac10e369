"""A plan for a person to read."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence

from rich.console import Group
from rich.table import Table

from trainer.planning.cluster import GB, Cluster
from trainer.planning.forecast import Forecast, RankForecast
from trainer.planning.planned import PlannedModel, PlannedTable

_MB = 1_000_000


def as_tables(
    planned: PlannedModel, cost: Forecast, *, title: str, smallest: Cluster | None, num_tables: int | None
) -> Group:
    """By sharding type, the largest `num_tables` tables (None: all), per rank, and what it comes to."""
    return Group(
        _by_type(planned, title=title),
        _tables(planned, num_tables),
        _ranks(cost),
        *_summary(planned, cost, smallest),
    )


def _by_type(planned: PlannedModel, *, title: str) -> Table:
    table = _table(
        f"{title} on {planned.cluster}", "sharding", "tables", "GB", "largest GB", "lookup ms", "exchange ms"
    )
    groups: dict[str, list[PlannedTable]] = defaultdict(list)
    for planned_table in planned.tables:
        groups[planned_table.sharding_type].append(planned_table)
    for name, tables in sorted(groups.items(), key=lambda item: -len(item[1])):
        shards = [shard for planned_table in tables for shard in planned_table.shards]
        table.add_row(
            name,
            f"{len(tables)}",
            _gb(sum(t.weight_bytes for t in tables)),
            _gb(max(t.weight_bytes for t in tables)),
            f"{sum(shard.lookup_ms for shard in shards):.3g}",
            f"{sum(shard.exchange_ms for shard in shards):.3g}",
        )
    table.caption = "Milliseconds are the sum over all shards and ranks."
    return table


def _tables(planned: PlannedModel, num_tables: int | None) -> Table:
    largest = sorted(planned.tables, key=lambda table: -table.weight_bytes)[:num_tables]
    every = "all" if len(largest) == len(planned.tables) else f"the largest {len(largest)} of"
    table = _table(
        f"{every} {len(planned.tables)} tables", "table", "rows", "dim", "features", "GB", "sharding", "ranks"
    )
    for entry in largest:
        table.add_row(
            entry.name,
            f"{entry.num_rows:,}",
            f"{entry.dim}",
            f"{entry.num_features}",
            _gb(entry.weight_bytes),
            entry.sharding_type,
            _span([shard.rank for shard in entry.shards if shard.num_rows]),
        )
    if len(largest) < len(planned.tables):
        table.caption = "--tables N or --tables all shows more."
    return table


def _ranks(cost: Forecast) -> Table:
    table = _table("per rank", "", "least", "mean", "most", "on rank")
    rows: tuple[tuple[str, Callable[[RankForecast], float], Callable[[float], str]], ...] = (
        ("memory used, GB", lambda rank: rank.used_bytes, _gb),
        ("  tables, GB", lambda rank: rank.table_bytes, _gb),
        ("  tables' optimizer, GB", lambda rank: rank.optimizer_bytes, _gb),
        ("  ids and pooled output, GB", lambda rank: rank.io_bytes, _gb),
        ("  dense part and Adam, GB", lambda rank: rank.dense_bytes, _gb),
        ("  activations, GB", lambda rank: rank.activation_bytes, _gb),
        ("  batches, GB", lambda rank: rank.batch_bytes, _gb),
        ("margin, GB", lambda rank: rank.margin_bytes, _gb),
        ("limit, GB", lambda rank: rank.limit_bytes, _gb),
        ("step, nothing overlapped, ms", lambda rank: rank.step_ms, "{:.3g}".format),
        ("  table kernels, ms", lambda rank: rank.lookup_ms, "{:.3g}".format),
        ("  pooled output and gradient, ms", lambda rank: rank.exchange_ms, "{:.3g}".format),
        ("  dense part, ms", lambda rank: rank.dense_ms, "{:.3g}".format),
        ("sent per step, MB", lambda rank: rank.traffic.total, _mb),
        ("  ids (all-to-all), MB", lambda rank: rank.traffic.input_all_to_all, _mb),
        ("  pooled output, MB", lambda rank: rank.traffic.output, _mb),
        ("  its gradient, MB", lambda rank: rank.traffic.gradient, _mb),
        ("  dense gradients (all-reduce), MB", lambda rank: rank.traffic.dense_all_reduce, _mb),
    )
    for name, value, form in rows:
        values = [value(rank) for rank in cost.ranks]
        alike = min(values) == max(values)
        where = "all" if alike else f"{values.index(max(values))}"
        table.add_row(name, form(min(values)), form(sum(values) / len(values)), form(max(values)), where)
    return table


def _summary(planned: PlannedModel, cost: Forecast, smallest: Cluster | None) -> list[str]:
    fullest = max(cost.ranks, key=lambda rank: rank.used_bytes)
    free = fullest.limit_bytes - fullest.used_bytes - fullest.margin_bytes
    examples = planned.batch_size * planned.cluster.world_size / cost.step_ms * 1000
    return [
        f"balance (most / mean): memory {cost.memory_balance:.2f}, tables' part of the step {cost.step_balance:.2f}",
        f"fits: the fullest rank, {fullest.rank}, has {_gb(free)} GB free beyond its margin",
        f"batch {planned.batch_size:,} per rank, {planned.ids_per_feature:g} ids per list: at least "
        f"{examples:,.0f} examples/s in all, if the hardware does what the plan assumes",
        f"smallest cluster that fits, of 1, 2, 4 … ranks in one host, then full hosts: {smallest or 'none'}",
    ]


def _table(title: str, *headings: str) -> Table:
    table = Table(title=title, title_justify="left", caption_justify="left")
    table.add_column(headings[0])
    for heading in headings[1:]:
        table.add_column(heading, justify="right")
    return table


def _span(ranks: Sequence[int]) -> str:
    low, high = min(ranks), max(ranks)
    return f"{low}" if low == high else f"{low}-{high}"


def _gb(num_bytes: float) -> str:
    return f"{num_bytes / GB:.3g}" if num_bytes < 1000 * GB else f"{num_bytes / GB:.0f}"


def _mb(num_bytes: float) -> str:
    return f"{num_bytes / _MB:,.0f}" if num_bytes >= 10 * _MB else f"{num_bytes / _MB:.3g}"
