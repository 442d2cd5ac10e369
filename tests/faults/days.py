"""Faults of the input: logs that changed shape, bad rows, late rows, a clock that is wrong."""

from __future__ import annotations

import random
import shutil
from collections import Counter
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from features.examples import BuiltDay, build_examples
from features.lake import Lake
from features.source import Source
from tests.faults import clock
from tests.faults.attempts import Fault, attempt, settings_of, start
from tests.faults.scenario import Outcome, Trial, error_of
from tests.faults.world import bytes_of
from tests.features.worlds import GLOBO, GLOBO_DAY, TINY, globo_folder, land, settings_in, visits
from tests.trainer.planted import DAY, commit_day
from trainer.trained import find_trained, read_trained, revisions

_DAY_SECONDS = 86_400
Edit = Callable[[pa.Table, str], pa.Table]


def tiny_log(home: Path) -> Path:
    """The tiny world's landed log of the day."""
    (path,) = TINY.open(landing=settings_in(home).landing, data_dir=None).log_files(DAY)
    return path


def build(home: Path, *, source: Source = TINY, share: float = 0.05) -> BuiltDay:
    """The day, from the log as it is."""
    ds = DAY if source is TINY else GLOBO_DAY
    return build_examples(source, ds, settings=settings_in(home, data_dir=home / "data"), reject_max_share=share)


def _retyped(log: pa.Table, name: str) -> pa.Table:
    values = pa.array([str(value) for value in log[name].to_pylist()])
    return log.set_column(log.schema.get_field_index(name), name, values)


_DRIFTS: dict[str, Edit] = {
    "dropped": lambda log, name: log.drop_columns([name]),
    "added": lambda log, name: log.append_column(f"{name}_new", log[name]),
    "renamed": lambda log, name: log.rename_columns([f"{n}_new" if n == name else n for n in log.column_names]),
    "retyped": _retyped,
}


def schema_drift(trial: Trial) -> Outcome:
    """A column of the log dropped, added, renamed or retyped: the day fails before training and names the column."""
    draw, broken = trial.draw(), []
    log = pq.read_table(path := tiny_log(trial.folder), partitioning=None)
    tries = [(how, name) for how in _DRIFTS for name in draw.sample(log.column_names, k=trial.times(2, 10))]
    for how, name in tries:
        pq.write_table(_DRIFTS[how](log, name), path)
        try:
            build(trial.folder)
        except ValueError as error:
            if name not in str(error) or str(path) not in str(error):
                broken.append(f"{name} {how}: {error}")
        else:
            broken.append(f"{name} {how}: the day was built")
    assert not Path(Lake(settings_in(trial.folder).lake).root).exists(), "a table was written"
    return Outcome(injected=len(tries), broken=tuple(broken), lost="the day, until its log lands again")


def _spoilers(draw: random.Random) -> dict[str, tuple[str, object]]:
    """Reason, and the column and value that a row is given."""
    next_day = pa.scalar(1767355200000000, pa.timestamp("us", tz="UTC")).as_py()
    return {
        "null:user_id": ("user_id", None),
        "negative:user_id": ("user_id", -draw.randint(1, 99)),
        "null:ids_000": ("ids_000", [1, None]),
        "negative:ids_001": ("ids_001", [4, -draw.randint(1, 99)]),
        "null:dense_001": ("dense_001", None),
        "not_finite:dense_002": ("dense_002", float(draw.choice(["nan", "inf", "-inf"]))),
        "label_not_0_or_1:click": ("click", draw.choice([-1, 2, 100])),
        "wrong_day": ("event_time", next_day + draw.choice([-2, 0, 30]) * timedelta(days=1)),
    }


def bad_rows(trial: Trial) -> Outcome:
    """Bad rows: each is quarantined with its reason, in = accepted + rejected; above the threshold the day fails."""
    draw = trial.draw()
    log, expected = pq.read_table(path := tiny_log(trial.folder), partitioning=None), Counter[str]()
    rows, free = log.to_pylist(), draw.sample(range(log.num_rows), k=60)
    for reason, (column, value) in _spoilers(draw).items():
        for _ in range(draw.randint(1, 5)):
            rows[free.pop()][column] = value
            expected[reason] += 1
    repeats = draw.randint(1, 9)
    rows += [dict(rows[free.pop()]) for _ in range(repeats)]
    expected["duplicate"] = repeats
    layout = pa.schema([field.with_nullable(True) for field in log.schema])
    pq.write_table(pa.Table.from_pylist(rows, schema=layout).replace_schema_metadata(log.schema.metadata), path)
    built = build(trial.folder)
    assert Counter(built.reasons) == expected, f"{built.reasons}, injected {dict(expected)}"
    assert (built.num_rows, built.num_rejected) == (len(rows), expected.total())
    assert built.num_accepted + built.num_rejected == built.num_rows == len(rows)
    undecodable = _bad_lines(trial.folder, draw)
    refused = _too_many(trial.folder)
    injected = expected.total() + undecodable + refused
    return Outcome(injected=injected, lost=f"{injected - refused} rows, in quarantine")


def _bad_lines(home: Path, draw: random.Random) -> int:
    """Undecodable bytes and lines cut short, in the clicks' CSV."""
    globo_folder(home / "data")
    lines: list[str] = [row.line() for row in visits(GLOBO_DAY)]
    good, bad = len(lines), draw.randint(1, 5)
    for _ in range(bad):
        lines.insert(draw.randint(0, len(lines)), draw.choice(["\xff\xfe", "\x80,1"]))
        lines.insert(draw.randint(0, len(lines)), "1,2,3")
    land(home / "data" / "globo", GLOBO_DAY, lines)
    built = build(home, source=GLOBO, share=0.2)
    assert built.num_rows == len(lines) == built.num_accepted + built.num_rejected
    assert built.num_accepted == good
    assert built.reasons["undecodable"] == bad, built.reasons
    return 2 * bad


def _too_many(home: Path) -> int:
    before = build(home, source=GLOBO, share=0.2)
    message = error_of(lambda: build(home, source=GLOBO, share=0.0), ValueError)
    assert "more than reject_max_share 0.00% allows" in message, message
    assert build(home, source=GLOBO, share=0.2).examples == before.examples
    return 1


def late_data(trial: Trial) -> Outcome:
    """Rows for a day that is closed: its checkpoint and partition stay; training it again makes a new revision."""
    home, first = trial.world.trained(trial.folder / "home")
    settings, lake = settings_of(home), Lake(settings_of(home).lake)
    before, old = bytes_of(first.path), lake.read(first.examples)
    num_rows = old.num_rows + trial.draw().randrange(64, 640)
    late = commit_day(lake, DAY, num_rows=num_rows)
    again = attempt(settings)
    assert (first.revision, again.revision) == (0, 1)
    assert (again.num_examples, again.examples) == (num_rows, late)
    assert bytes_of(first.path) == before, "the sealed checkpoint changed"
    assert lake.read(first.examples).equals(old), "what was learnt from can no longer be read"
    assert [found.fingerprint for found in revisions(settings, "tiny")] == [first.fingerprint, again.fingerprint]
    assert find_trained(settings, "tiny", DAY) == again
    return Outcome(injected=1, lost=f"nothing; revision 1 has {num_rows - old.num_rows} examples more")


def clock_skew(trial: Trial) -> Outcome:
    """The clock and every file's time a day ahead or behind: the same examples and the same weights, to the bit."""
    homes = {"right": trial.folder / "right"}
    expected = build(homes["right"])
    skews = [-_DAY_SECONDS, _DAY_SECONDS]
    chosen = [trial.draw().choice(skews)] if trial.quick else skews
    for skew in chosen:
        home = trial.world.fresh(trial.folder / f"{skew:+}")
        shutil.copytree(settings_in(homes["right"]).landing, settings_of(home).landing)
        clock.shift_files(home, skew)
        job = start(home, Fault(skew_seconds=skew), log=trial.folder / "log", build=True)
        assert job.wait(timeout=300) == 0, (trial.folder / "log").read_text()[-800:]
        built = build(home)
        assert (built.unchanged, built.examples.fingerprint) == (True, expected.examples.fingerprint)
        ours, theirs = Lake(settings_of(home).lake), Lake(settings_in(homes["right"]).lake)
        for left, right in ((built.examples, expected.examples), (built.user_features, expected.user_features)):
            assert ours.read(left).equals(theirs.read(right)), f"{left.table} differs under a clock {skew:+} s off"
        (path,) = (settings_of(home).checkpoints / "tiny").glob("ds=*/")
        trained = read_trained(path)
        assert trained is not None
        trial.world.require_same(trained)
    return Outcome(injected=len(chosen), lost="nothing")
