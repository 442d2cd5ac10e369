"""Every row lies with one shard, and a batch asks for each of its rows once."""

from __future__ import annotations

import numpy as np
import pytest

from serving.shards.partition import Share, needed


@pytest.mark.parametrize("of", [1, 2, 3, 7, 11])
@pytest.mark.parametrize("rows", [[], [0], [9], [3, 3, 3], [9, 0, 5, 5, 2, 7, 8, 1, 9]], ids=str)
def test_what_is_fetched_is_what_was_asked_for(rows: list[int], of: int) -> None:
    table = np.arange(10) * 10
    shares = [table[index::of] for index in range(of)]
    assert [len(share) for share in shares] == [Share(index=index, of=of).num_rows(10) for index in range(of)]
    found = needed(np.array(rows, dtype=np.int64), of=of, num_rows=10)
    small = np.concatenate([share[places] for share, places in zip(shares, found.of_shard, strict=True)])
    assert small[found.rows].tolist() == [row * 10 for row in rows]
    assert found.num_rows == len(set(rows)) == len(small)


@pytest.mark.parametrize("row", [-1, 10])
def test_a_row_that_the_tables_have_not(row: int) -> None:
    with pytest.raises(ValueError, match=f"{row}.*rows 0 to 9"):
        needed(np.array([row, row]), of=2, num_rows=10)


@pytest.mark.parametrize(("index", "of"), [(0, 0), (1, 1), (-1, 2), (0, 2_000)])
def test_a_share_that_is_none(index: int, of: int) -> None:
    with pytest.raises(ValueError, match=r"numbered from 0|there are 1 to"):
        Share(index=index, of=of)
