"""`build_examples`: three partitions, reconciled, once per content, whatever happens on the way."""

from __future__ import annotations

import logging
from dataclasses import replace
from datetime import date, timedelta
from multiprocessing.synchronize import Barrier
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from features.arrow import examples_schema, user_features_schema
from features.examples import BuiltDay, build_examples, read_state
from features.lake import Lake
from features.source import Source
from tests.features.worlds import GLOBO, GLOBO_DAY, TINY, Row, globo_folder, land, settings_in, visits
from tests.forked import FORK_SERVER

DAY = date(2026, 1, 1)
DAYS = [GLOBO_DAY + timedelta(days=number) for number in range(4)]


def _build(home: Path, *, source: Source = TINY, ds: date = DAY, share: float = 0.05) -> BuiltDay:
    settings = settings_in(home, data_dir=home / "data")
    return build_examples(source, ds, settings=settings, reject_max_share=share)


def _lake(home: Path) -> Lake:
    return Lake(settings_in(home).lake)


@pytest.mark.parametrize(("source", "ds"), [(TINY, DAY), (GLOBO, GLOBO_DAY)], ids=["synthetic", "globo"])
def test_a_day_is_built_once(tmp_path: Path, source: Source, ds: date) -> None:
    globo_folder(tmp_path / "data", *DAYS)
    built = _build(tmp_path, source=source, ds=ds)
    lake = _lake(tmp_path)
    examples, users = lake.read(built.examples), lake.read(built.user_features)
    assert examples.schema.names == examples_schema(source.schema).names
    assert users.schema.names == user_features_schema(source.schema).names
    assert built.num_rows == built.num_accepted + built.num_rejected
    assert (built.num_examples, built.num_users) == (examples.num_rows, users.num_rows)
    assert built.examples.fingerprint == built.user_features.fingerprint == built.rejected.fingerprint
    assert not built.unchanged
    again = _build(tmp_path, source=source, ds=ds)
    assert again == replace(built, unchanged=True)


SHARED: list[tuple[Source, date]] = [(TINY, DAY), (TINY, DAY + timedelta(1)), (GLOBO, DAYS[0]), (GLOBO, DAYS[1])]


def _build_shared(home: Path, barrier: Barrier) -> None:
    for source, ds in SHARED:
        barrier.wait()
        _build(home, source=source, ds=ds)


def test_two_that_build_the_same_days_at_once_leave_what_one_would(tmp_path: Path) -> None:
    """As two user models of one source do, whose DAGs begin with the same step."""
    alone, together = tmp_path / "alone", tmp_path / "together"
    for home in (alone, together):
        globo_folder(home / "data", *DAYS)
    barrier = FORK_SERVER.Barrier(2)
    builders = [FORK_SERVER.Process(target=_build_shared, args=(together, barrier)) for _ in range(2)]
    for builder in builders:
        builder.start()
    expected = [_build(alone, source=source, ds=ds) for source, ds in SHARED]
    for builder in builders:
        builder.join(60)
    assert [builder.exitcode for builder in builders] == [0, 0]
    for (source, ds), of_one in zip(SHARED, expected, strict=True):
        found = _build(together, source=source, ds=ds)
        assert found.unchanged
        for name in ("examples", "user_features", "rejected"):
            left, right = getattr(found, name), getattr(of_one, name)
            assert left.fingerprint == right.fingerprint
            assert _lake(together).read(left).equals(_lake(alone).read(right))


def test_rejected_rows_are_kept_and_counted(tmp_path: Path) -> None:
    globo_folder(tmp_path / "data")
    rows = [row.line() for row in visits(GLOBO_DAY)]
    land(tmp_path / "data" / "globo", GLOBO_DAY, [*rows, "\xff", "1,2,3", rows[0], rows[1]])
    built = _build(tmp_path, source=GLOBO, ds=GLOBO_DAY)
    assert built.reasons == {"duplicate": 2, "undecodable": 1, "wrong_column_count": 1}
    assert (built.num_rows, built.num_rejected) == (len(rows) + 4, 4)
    rejected = _lake(tmp_path).read(built.rejected)
    assert rejected["line"].to_pylist() == [len(rows) + line for line in (2, 3, 4, 5)]


@pytest.mark.parametrize(
    ("bad", "share"),
    [(20, 0.05), (1, 0.0), (10_000, 1.0)],
    ids=["too many", "one of none", "nothing is left"],
)
def test_too_many_rejected_rows_fail_the_day_but_are_kept(tmp_path: Path, bad: int, share: float) -> None:
    globo_folder(tmp_path / "data", GLOBO_DAY)
    good = [] if share == 1.0 else [row.line() for row in visits(GLOBO_DAY)]
    before = _build(tmp_path, source=GLOBO, ds=GLOBO_DAY)
    land(tmp_path / "data" / "globo", GLOBO_DAY, [*good, *["\xff"] * bad])
    with pytest.raises(ValueError, match=rf"{bad} of {len(good) + bad} log rows are rejected \(undecodable {bad}\)"):
        _build(tmp_path, source=GLOBO, ds=GLOBO_DAY, share=share)
    lake = _lake(tmp_path)
    assert lake.read(lake.get("examples_rejected/globo", GLOBO_DAY)).num_rows == bad
    assert lake.get("examples/globo", GLOBO_DAY).fingerprint == before.examples.fingerprint
    assert lake.get("user_features/globo", GLOBO_DAY).fingerprint == before.user_features.fingerprint
    if 0 < share < 1:
        assert _build(tmp_path, source=GLOBO, ds=GLOBO_DAY, share=0.9).num_rejected == bad


def test_a_log_that_is_refused_writes_nothing(tmp_path: Path) -> None:
    folder = globo_folder(tmp_path / "data", GLOBO_DAY)
    land(folder / "globo", GLOBO_DAY, visits(GLOBO_DAY), header="user_id,session_id")
    with pytest.raises(ValueError, match="columns are missing"):
        _build(tmp_path, source=GLOBO, ds=GLOBO_DAY)
    with pytest.raises(FileNotFoundError, match="clicks_2017-10-09"):
        _build(tmp_path, source=GLOBO, ds=date(2017, 10, 9))
    assert not Path(_lake(tmp_path).root).exists()


def test_a_changed_log_makes_a_new_partition(tmp_path: Path) -> None:
    built = _build(tmp_path)
    path = tmp_path / "landing" / "tiny" / f"ds={DAY}" / "log.parquet"
    pq.write_table(pq.read_table(path, partitioning=None).slice(0, 1_900), path)
    again = _build(tmp_path)
    assert not again.unchanged
    assert (again.num_examples, built.num_examples) == (1_900, 2_000)
    assert _lake(tmp_path).read(built.examples).num_rows == 2_000, "the version trained on stays readable"


def test_a_new_config_makes_a_new_partition(tmp_path: Path) -> None:
    globo_folder(tmp_path / "data", GLOBO_DAY)
    built = _build(tmp_path, source=GLOBO, ds=GLOBO_DAY)
    again = _build(tmp_path, source=replace(GLOBO, negatives=1), ds=GLOBO_DAY)
    assert built.examples.fingerprint != again.examples.fingerprint


def test_a_day_reads_the_state_of_earlier_days_only(tmp_path: Path) -> None:
    globo_folder(tmp_path / "in_order" / "data", *DAYS)
    globo_folder(tmp_path / "later_first" / "data", *DAYS)
    in_order = [_build(tmp_path / "in_order", source=GLOBO, ds=ds) for ds in DAYS[:2]]
    _build(tmp_path / "later_first", source=GLOBO, ds=DAYS[0])
    _build(tmp_path / "later_first", source=GLOBO, ds=DAYS[3])
    second = _build(tmp_path / "later_first", source=GLOBO, ds=DAYS[1])
    assert second.examples.fingerprint == in_order[1].examples.fingerprint
    left, right = (
        _lake(tmp_path / home).read(built.examples)
        for home, built in (("in_order", in_order[1]), ("later_first", second))
    )
    assert left.equals(right)
    assert max(left["history_clicks"].to_pylist()) > 0


def test_a_rebuilt_earlier_day_changes_the_days_after_it(tmp_path: Path) -> None:
    globo_folder(tmp_path / "data", *DAYS)
    first = [_build(tmp_path, source=GLOBO, ds=ds) for ds in DAYS[:2]]
    land(tmp_path / "data" / "globo", DAYS[0], visits(DAYS[0])[:-8])
    again = [_build(tmp_path, source=GLOBO, ds=ds) for ds in DAYS[:2]]
    assert [built.unchanged for built in again] == [False, False]
    assert first[1].examples.fingerprint != again[1].examples.fingerprint


def test_the_state_is_the_newest_row_of_every_user(tmp_path: Path) -> None:
    globo_folder(tmp_path / "data", *DAYS)
    built = [_build(tmp_path, source=GLOBO, ds=ds) for ds in DAYS[:3]]
    state = read_state(_lake(tmp_path), [day.user_features for day in built])
    assert state is not None
    newest: dict[int, Row] = {}
    for row in sorted((row for ds in DAYS[:3] for row in visits(ds)), key=lambda row: row.time):
        newest[row.user] = row
    assert sorted(state["user_id"].to_pylist()) == sorted(newest)
    times = dict(zip(*(state[name].to_pylist() for name in ("user_id", "event_time")), strict=True))
    assert all(times[user].timestamp() * 1000 == pytest.approx(row.time) for user, row in newest.items())
    assert read_state(_lake(tmp_path), []) is None


def test_the_lookback_is_bounded_and_a_gap_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    globo_folder(tmp_path / "data", *DAYS)
    short = replace(GLOBO, state_days=1)
    _build(tmp_path, source=short, ds=DAYS[0])
    with caplog.at_level(logging.WARNING):
        built = _build(tmp_path, source=short, ds=DAYS[2])
    assert f"user_features has no {DAYS[1]}" in caplog.text
    history: pa.ChunkedArray = _lake(tmp_path).read(built.examples)["history_clicks"]
    assert set(history.to_pylist()) == {0.0}, "two days back is beyond a lookback of one"
