"""The plans that are tried: all tables as coarse as they fit, then some of the largest or costliest split.

TorchRec's greedy proposers change one table per proposal and try 2 x 600 plans for 300 tables, minutes at 128
ranks. Halving the number of split tables tries about forty.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from torchrec.distributed.planner.types import Enumerator, Proposer, ShardingOption, Storage, Topology

from trainer.planning.rules import SHARDING_TYPES

Options = dict[str, ShardingOption]
"""One table's, by sharding type."""


class HalvingProposer(Proposer):  # type: ignore[misc]
    """`available`: what each of `world_size` ranks has left for tables."""

    def __init__(self, available: Storage, *, world_size: int) -> None:
        self._available = available
        self._world_size = world_size
        self._proposals: Iterator[list[ShardingOption]] = iter(())
        self._current: list[ShardingOption] | None = None

    def load(self, search_space: list[ShardingOption], enumerator: Enumerator | None = None) -> None:
        """Begin again with this search space."""
        tables: dict[str, Options] = {}
        for option in search_space:
            tables.setdefault(option.fqn, {})[option.sharding_type] = option
        self._proposals = self._propose_all(list(tables.values()))
        self._current = next(self._proposals, None)

    def propose(self) -> list[ShardingOption] | None:
        """One option per table, or None after the last proposal."""
        return self._current

    def feedback(
        self,
        partitionable: bool,
        plan: list[ShardingOption] | None = None,
        perf_rating: float | None = None,
        storage_constraint: Topology | None = None,
    ) -> None:
        """The proposals do not depend on how earlier ones did."""
        self._current = next(self._proposals, None)

    def _propose_all(self, tables: list[Options]) -> Iterator[list[ShardingOption]]:
        coarsest = [self._choose(options, SHARDING_TYPES) for options in tables]
        yield coarsest
        keys: tuple[Callable[[int], float], ...] = (
            lambda index: float(_total_bytes(coarsest[index])),
            lambda index: max(shard.perf.total for shard in coarsest[index].shards),
        )
        for key in keys:
            ranked = sorted(range(len(tables)), key=key, reverse=True)  # stable: ties in the model's order
            for position in range(1, len(SHARDING_TYPES)):
                finer = [self._choose(options, SHARDING_TYPES[position:]) for options in tables]
                for count in _counts(len(tables), self._world_size):
                    split = set(ranked[:count])
                    yield [finer[i] if i in split else coarsest[i] for i in range(len(tables))]

    def _choose(self, options: Options, types: tuple[str, ...]) -> ShardingOption:
        """The coarsest of `types` whose shards each fit on an empty rank; else the finest there is."""
        offered = [options[name] for name in types if name in options] or [list(options.values())[-1]]
        fitting = (o for o in offered if all(shard.storage.fits_in(self._available) for shard in o.shards))
        return next(fitting, offered[-1])


def _counts(num_tables: int, world_size: int) -> Iterator[int]:
    """How many tables are split: what remains when every rank has equally many whole ones, and halves of all."""
    if num_tables % world_size:
        yield num_tables % world_size
    while num_tables:
        yield num_tables
        num_tables //= 2


def _total_bytes(option: ShardingOption) -> int:
    return sum(shard.storage.hbm + shard.storage.ddr for shard in option.shards)
