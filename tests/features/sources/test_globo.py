"""The Globo.com clicks: what is refused, what is quarantined, and that no example knows the future."""

from __future__ import annotations

import gzip
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from features.arrow import examples_schema, user_features_schema
from features.sources.globo import CONTEXT
from features.sources.globo_clicks import CLICK_COLUMNS
from tests.features.worlds import (
    GLOBO,
    GLOBO_DAY,
    HEADER,
    Row,
    before,
    day_start_ms,
    globo_folder,
    land,
    land_articles,
    visits,
)

START = day_start_ms(GLOBO_DAY)
END = day_start_ms(GLOBO_DAY + timedelta(days=1))
GOOD = Row(user=1, session=5, start=START, article=100, time=START + 1000)


def _read(folder: Path, lines: list[str] | list[Row], header: str = HEADER) -> Any:
    land_articles(folder)
    land(folder, GLOBO_DAY, lines, header=header)
    return GLOBO.open(landing=folder, data_dir=folder).read(GLOBO_DAY)


# what is refused


@pytest.mark.parametrize("data_dir", [None, "nowhere"], ids=["not set", "not there"])
def test_a_missing_log_names_where_it_was_looked_for(tmp_path: Path, data_dir: str | None) -> None:
    folder = None if data_dir is None else tmp_path / data_dir
    with pytest.raises(FileNotFoundError, match="USERMODEL_DATA_DIR") as raised:
        GLOBO.open(landing=tmp_path, data_dir=folder).log_files(GLOBO_DAY)
    assert f"clicks_{GLOBO_DAY}.csv.gz" in str(raised.value)
    assert folder is None or str(folder / "globo") in str(raised.value)


def test_missing_metadata_is_named(tmp_path: Path) -> None:
    land(tmp_path, GLOBO_DAY, [GOOD])
    with pytest.raises(FileNotFoundError, match=r"articles/\*\.csv"):
        GLOBO.open(landing=tmp_path, data_dir=tmp_path).log_files(GLOBO_DAY)


@pytest.mark.parametrize("inside", [True, False], ids=["data_dir/globo", "data_dir itself"])
def test_the_log_is_found_under_the_data_folder(tmp_path: Path, inside: bool) -> None:
    globo_folder(tmp_path, GLOBO_DAY)
    folder = tmp_path if inside else tmp_path / "globo"
    files = GLOBO.open(landing=tmp_path, data_dir=folder).log_files(GLOBO_DAY)
    assert [file.name for file in files] == [
        f"clicks_{GLOBO_DAY}.csv.gz", "articles_metadata_part_a.csv", "articles_metadata_part_b.csv",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("header", "lines", "message"),
    [
        (HEADER.replace(",session_size", ""), [GOOD], r"missing \['session_size'\]"),
        (HEADER.replace("click_os", "os"), [GOOD], r"missing \['click_os'\]; unexpected \['os'\]"),
        (HEADER + ",extra", [GOOD], r"unexpected \['extra'\]"),
        (HEADER.replace("click_os", "user_id"), [GOOD], r"given twice \['user_id'\]"),
        (HEADER, [GOOD.line().replace("1000,4,1,17", "1000,4,1,Linux")] * 3, "column click_os is retyped"),
        (HEADER, [f"{number}.0" + GOOD.line()[1:] for number in range(3)], "column user_id is retyped"),
        (HEADER, [], "header and no rows"),
    ],
    ids=["missing", "renamed", "extra", "twice", "retyped to text", "retyped to floats", "header only"],
)
def test_a_log_not_of_the_schema_fails_the_day(tmp_path: Path, header: str, lines: list[Any], message: str) -> None:
    with pytest.raises(ValueError, match=message) as raised:
        _read(tmp_path, lines, header)
    assert f"clicks_{GLOBO_DAY}.csv.gz" in str(raised.value)


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (lambda data: b"", "is empty"),
        (lambda data: gzip.compress(b""), "is empty"),
        (lambda data: data[:-20], "not a whole gzip file"),
        (lambda data: data[: len(data) // 2], "not a whole gzip file"),
        (lambda data: b"user_id,session_id\n", "not a whole gzip file"),
        (lambda data: data[:-8] + b"\0" * 8, "not a whole gzip file"),
    ],
    ids=["zero bytes", "nothing inside", "cut at the end", "cut in the middle", "not gzip", "wrong checksum"],
)
def test_a_damaged_file_fails_the_day(tmp_path: Path, harm: Callable[[bytes], bytes], message: str) -> None:
    folder = globo_folder(tmp_path, GLOBO_DAY)
    path = folder / "globo" / f"clicks_{GLOBO_DAY}.csv.gz"
    path.write_bytes(harm(path.read_bytes()))
    with pytest.raises(ValueError, match=message):
        GLOBO.open(landing=tmp_path, data_dir=folder).read(GLOBO_DAY)


# what is quarantined


def _with(column: str, value: str) -> str:
    fields = GOOD.line().split(",")
    fields[CLICK_COLUMNS.index(column)] = value
    return ",".join(fields)


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (GOOD.line().replace("1,5", "1\xff,5", 1), "undecodable"),
        (GOOD.line() + ",7", "wrong_column_count"),
        (GOOD.line().rpartition(",")[0], "wrong_column_count"),
        ("", "wrong_column_count"),
        (_with("user_id", ""), "null:user_id"),
        (_with("user_id", "-3"), "negative:user_id"),
        (_with("click_article_id", "x12"), "not_an_integer:click_article_id"),
        (_with("click_article_id", "1.5"), "not_an_integer:click_article_id"),
        (_with("click_article_id", "1e3"), "not_an_integer:click_article_id"),
        (_with("user_id", "9223372036854775808"), "outside_int64:user_id"),
        (_with("user_id", "-9223372036854775809"), "outside_int64:user_id"),
        (_with("session_start", str(START - 1)), "wrong_day"),
        (_with("session_start", str(END)), "wrong_day"),
        (_with("click_timestamp", str(START - 1)), "before_session_start"),
        (_with("click_timestamp", str(END)), "after_day_end"),
        (GOOD.line(), "duplicate"),
    ],
)
def test_a_bad_line_is_quarantined_with_its_reason(tmp_path: Path, line: str, reason: str) -> None:
    other = replace(GOOD, user=2, session=6)
    landed = _read(tmp_path, [GOOD.line(), line, other.line()])
    assert landed.accepted["user_id"].to_pylist() == [1, 2]
    assert landed.num_rows == 3
    (row,) = landed.rejected.to_pylist()
    assert (row["file"], row["line"], row["reason"]) == (f"clicks_{GLOBO_DAY}.csv.gz", 3, reason)
    assert row["raw"] == line.replace("\xff", "\\xff")


def test_the_largest_id_is_an_id(tmp_path: Path) -> None:
    landed = _read(tmp_path, [GOOD.line(), _with("user_id", str(2**63 - 1)), _with("click_os", str(2**63 - 1))])
    assert landed.rejected.num_rows == 1, "of the same user, session, article and time: a duplicate"
    assert 2**63 - 1 in landed.accepted["user_id"].to_pylist()


@pytest.mark.parametrize("end", ["", "\r"], ids=["no line end at the end", "CRLF"])
def test_line_ends_do_not_matter(tmp_path: Path, end: str) -> None:
    land_articles(tmp_path)
    path = tmp_path / f"clicks_{GLOBO_DAY}.csv.gz"
    text = f"{HEADER}{end}\n{GOOD.line()}{end}\n{replace(GOOD, session=6).line()}"
    path.write_bytes(gzip.compress(text.encode()))
    landed = GLOBO.open(landing=tmp_path, data_dir=tmp_path).read(GLOBO_DAY)
    assert (landed.accepted.num_rows, landed.rejected.num_rows) == (2, 0)


# examples


def _examples(folder: Path, rows: list[Row], state: pa.Table | None = None) -> pa.Table:
    land_articles(folder / "globo")
    land(folder / "globo", GLOBO_DAY, rows)
    reader = GLOBO.open(landing=folder, data_dir=folder)
    return pa.Table.from_batches(reader.examples(reader.read(GLOBO_DAY).accepted, state), examples_schema(GLOBO.schema))


def _state(folder: Path, *, state: pa.Table | None = None, ds: date = GLOBO_DAY - timedelta(days=1)) -> pa.Table:
    land_articles(folder / "globo")
    land(folder / "globo", ds, visits(ds))
    reader = GLOBO.open(landing=folder, data_dir=folder)
    return reader.user_features(reader.read(ds).accepted, state)


def test_each_click_is_a_group_in_event_time_order(tmp_path: Path) -> None:
    rows = visits(GLOBO_DAY)
    examples = _examples(tmp_path, rows).to_pylist()
    times = [example["event_time"] for example in examples]
    assert times == sorted(times)
    groups: dict[Any, list[Any]] = {}
    for example in examples:
        groups.setdefault((example["user_id"], example["event_time"]), []).append(example)
    assert len(groups) == len(rows) - GLOBO.pool_min
    user_side = [feature.name for feature in (*GLOBO.schema.sparse_of("user"), *GLOBO.schema.dense_of("user"))]
    for group in groups.values():
        assert sum(example["click"] for example in group) == 1
        assert 2 <= len(group) <= 1 + GLOBO.negatives
        assert all(example[name] == group[0][name] for example in group for name in user_side)
        articles = [example["item_article"][0] for example in group]
        assert len(set(articles)) == len(articles)
        assert not set(articles) & set(group[0]["session_articles"])
    places = Counter(next(i for i, row in enumerate(group) if row["click"]) for group in groups.values())
    assert len(places) == 1 + GLOBO.negatives, "the clicked one may stand anywhere in its group"


def test_engaged_is_a_click_that_two_more_follow(tmp_path: Path) -> None:
    rows = visits(GLOBO_DAY)
    left = {
        (row.user, row.time * 1000): sum(o.session == row.session and o.time > row.time for o in rows) for row in rows
    }
    examples = _examples(tmp_path, rows)
    times = examples["event_time"].cast(pa.int64()).to_pylist()
    for example, time in zip(examples.to_pylist(), times, strict=True):
        assert example["engaged"] == int(example["click"] and left[example["user_id"], time] >= 2)


def test_the_session_so_far_ends_before_the_click(tmp_path: Path) -> None:
    rows = visits(GLOBO_DAY)
    examples = _examples(tmp_path, rows)
    by_time = {(row.user, row.time * 1000): row for row in rows}
    times = examples["event_time"].cast(pa.int64()).to_pylist()
    for example, time in zip(examples.to_pylist(), times, strict=True):
        click = by_time[example["user_id"], time]
        earlier = sorted(
            (row for row in rows if row.session == click.session and row.time < click.time),
            key=lambda row: row.time,
        )
        assert example["session_articles"] == [row.article for row in earlier]
        assert example["session_last_article"] == [row.article for row in earlier[-1:]]
        assert example["session_clicks"] == len(earlier)
        known = (earlier[-1].time - click.start) / 1000 if earlier else 0
        assert example["session_seconds"] == pytest.approx(known)
        gap = (earlier[-1].time - earlier[-2].time) / 1000 if len(earlier) > 1 else 0
        assert example["session_last_gap_seconds"] == pytest.approx(gap)


def test_unknown_articles_are_category_0_and_nothing_else(tmp_path: Path) -> None:
    examples = _examples(tmp_path, visits(GLOBO_DAY)).to_pylist()
    unknown = [example for example in examples if example["item_category"] == [0]]
    assert {example["item_article"][0] for example in unknown} == {101, 128, 129}
    assert {(example["item_words"], example["item_age_hours"]) for example in unknown} == {(190, 12)}
    known = [example for example in examples if example["item_category"] != [0]]
    assert all(example["item_words"] == example["item_article"][0] + 50 for example in known)


def test_a_negatives_own_click_does_not_count_as_popularity(tmp_path: Path) -> None:
    """Of articles clicked once by everybody's account, both sides are seen as never clicked before."""
    rows = [Row(user=i, session=i, start=START, article=1000 + i, time=START + i * 1000) for i in range(1, 60)]
    examples = _examples(tmp_path, rows)
    assert set(examples["item_recent_clicks"].to_pylist()) == {0.0}


FEATURES = [name for name in examples_schema(GLOBO.schema).names if name not in GLOBO.schema.tasks]


@pytest.mark.parametrize("share", [0.15, 0.4, 0.7, 0.95])
@pytest.mark.parametrize("seed", [0, 1])
def test_no_example_knows_what_came_after_it(tmp_path: Path, share: float, seed: int) -> None:
    """The log cut off at any time, and the log changed from then on, give the same examples before it."""
    state = _state(tmp_path)
    rows = visits(GLOBO_DAY, seed=seed)
    cut = START + int(share * 86_400_000)
    changed = [row if row.time < cut else replace(row, article=900, referrer=7) for row in rows]
    limit = pa.scalar(cut * 1000)
    whole = _examples(tmp_path, rows, state)
    earlier = whole.filter(pa.compute.less(whole["event_time"].cast(pa.int64()), limit))
    assert earlier.num_rows > 0
    for other in (before(rows, cut), changed):
        again = _examples(tmp_path, other, state)
        again = again.filter(pa.compute.less(again["event_time"].cast(pa.int64()), limit))
        assert again.select([*FEATURES, "click"]).equals(earlier.select([*FEATURES, "click"]))


def test_session_size_is_never_looked_at(tmp_path: Path) -> None:
    rows = visits(GLOBO_DAY)
    assert _examples(tmp_path, [replace(row, size=99) for row in rows]).equals(_examples(tmp_path, rows))
    assert not [name for name in examples_schema(GLOBO.schema).names if "size" in name]


def test_examples_are_deterministic_whatever_the_order_of_the_lines(tmp_path: Path) -> None:
    rows = visits(GLOBO_DAY)
    expected = _examples(tmp_path, rows)
    assert _examples(tmp_path, rows[::-1]).equals(expected)
    order = np.random.default_rng(0).permutation(len(rows))
    assert _examples(tmp_path, [rows[place] for place in order]).equals(expected)


def test_one_users_negatives_do_not_depend_on_anothers_later_clicks(tmp_path: Path) -> None:
    rows = visits(GLOBO_DAY)
    last = max(rows, key=lambda row: row.time)
    without = _examples(tmp_path, [row for row in rows if row != last])
    examples = _examples(tmp_path, rows)
    assert examples.slice(0, without.num_rows).select(FEATURES).equals(without.select(FEATURES))


# user features: the state


def test_user_features_are_the_state_rolled_forward(tmp_path: Path) -> None:
    days = [GLOBO_DAY - timedelta(days=2), GLOBO_DAY - timedelta(days=1)]
    first = _state(tmp_path, ds=days[0])
    second = _state(tmp_path, ds=days[1], state=first)
    assert second.schema.equals(user_features_schema(GLOBO.schema))
    log = sorted((row for ds in days for row in visits(ds)), key=lambda row: row.time)
    today = {row.user for row in visits(days[1])}
    assert second["user_id"].to_pylist() == sorted(today)
    for features in second.to_pylist():
        mine = [row for row in log if row.user == features["user_id"]]
        assert features["history_articles"] == [row.article for row in mine][-GLOBO.history_length :]
        assert len(features["history_categories"]) == len(features["history_articles"])
        assert features["history_clicks"] == len(mine)
        assert features["history_sessions"] == len({row.session for row in mine})
        assert features["history_days"] == 1 + any(row.time < day_start_ms(days[1]) for row in mine)
        assert features["days_since_seen"] == 1
        assert features["session_articles"] == features["session_last_article"] == []
        assert features["session_clicks"] == features["session_seconds"] == 0
        assert [len(features[f"context_{name}"]) for name in CONTEXT] == [1] * len(CONTEXT)


def test_examples_know_the_history_as_of_the_day_before(tmp_path: Path) -> None:
    state = _state(tmp_path)
    known = {row["user_id"]: row for row in state.to_pylist()}
    for example in _examples(tmp_path, visits(GLOBO_DAY), state).to_pylist():
        before_today = known.get(example["user_id"])
        assert example["history_articles"] == (before_today["history_articles"] if before_today else [])
        assert example["history_clicks"] == (before_today["history_clicks"] if before_today else 0)
        assert example["days_since_seen"] == (1 if before_today else 0)


def test_the_state_fills_the_pool_of_the_days_first_clicks(tmp_path: Path) -> None:
    rows = visits(GLOBO_DAY)
    alone, with_state = _examples(tmp_path, rows), _examples(tmp_path, rows, _state(tmp_path))
    assert alone["click"].to_numpy().sum() == len(rows) - GLOBO.pool_min
    assert with_state["click"].to_numpy().sum() == len(rows)


@pytest.mark.real_data
def test_a_real_day(tmp_path: Path, real_data_dir: Path) -> None:
    source = replace(GLOBO, pool_clicks=5_000, pool_min=100)
    reader = source.open(landing=tmp_path, data_dir=real_data_dir)
    landed = reader.read(date(2017, 10, 1))
    assert (landed.num_rows, landed.rejected.num_rows) == (119_975, 1_185)
    assert set(landed.rejected["reason"].to_pylist()) == {"after_day_end"}
    examples = pa.Table.from_batches(reader.examples(landed.accepted, None))
    assert examples.num_rows > 470_000
    click = examples["click"].to_numpy()
    assert 0.24 < click.mean() < 0.26
    assert 0.2 < examples["engaged"].to_numpy().sum() / click.sum() < 0.4
    category = pa.compute.list_element(examples["item_category"].combine_chunks(), 0).to_numpy()
    clicked, sampled = ((category[click == label] == 0).mean() for label in (1, 0))
    assert abs(clicked - sampled) < 0.02, "missing metadata tells little apart"
    assert reader.user_features(landed.accepted, None).num_rows == 39_558
