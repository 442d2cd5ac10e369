"""Small sources for the tests: a tiny synthetic world and a made-up globo folder."""

from __future__ import annotations

import gzip
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime
from pathlib import Path

import numpy as np

from features.sources.globo import GloboClicks
from features.sources.globo_clicks import ARTICLE_COLUMNS, CLICK_COLUMNS
from features.sources.synthetic import SyntheticWorld
from infra.settings import Settings

TINY = SyntheticWorld(
    name="tiny", num_users=200, num_items=60, events_per_day=2_000, num_sparse=4, num_dense=3, vocabulary=100
)
GLOBO = GloboClicks(pool_clicks=60, pool_min=5, user_rows=1_000, article_rows=1_000)
HEADER = ",".join(CLICK_COLUMNS)
GLOBO_DAY = date(2017, 10, 2)


def settings_in(home: Path, *, data_dir: Path | None = None) -> Settings:
    """Settings that know nothing of this machine."""
    return Settings(home=home, data_dir=data_dir, _env_file=None)


def day_start_ms(ds: date) -> int:
    """First instant of the portal's UTC-3 day."""
    return int(datetime(ds.year, ds.month, ds.day, 3, tzinfo=UTC).timestamp()) * 1000


@dataclass(frozen=True, kw_only=True)
class Row:
    """One line of a click log."""

    user: int
    session: int
    start: int
    article: int
    time: int
    size: int = 2
    referrer: int = 1

    def line(self) -> str:
        """As the log has it."""
        fields = (self.user, self.session, self.start, self.size, self.article, self.time, 4, 1, 17, 1, 21)
        return ",".join(str(field) for field in (*fields, self.referrer))


def visits(ds: date, *, num_sessions: int = 60, seed: int = 0) -> list[Row]:
    """Sessions of 2 to 6 clicks of 40 users on 30 articles. Sorted by session start, as the log is."""
    rng = np.random.default_rng([seed, ds.toordinal()])
    rows: list[Row] = []
    starts = np.sort(rng.integers(0, 80_000, num_sessions)) * 1000 + day_start_ms(ds)
    for number, start in enumerate(starts.tolist()):
        size = int(rng.integers(2, 7))
        user, session = int(rng.integers(1, 41)), int(start) * 1000 + number
        articles = rng.choice(np.arange(100, 130), size, replace=False).tolist()
        gaps = rng.integers(5_000, 300_000, size)
        gaps[-1] = 30_000
        times = (start + np.cumsum(gaps)).tolist()
        rows += [
            Row(user=user, session=session, start=start, article=article, time=time, size=size)
            for article, time in zip(articles, times, strict=True)
        ]
    return rows


def before(rows: list[Row], time_ms: int) -> list[Row]:
    """The log as it would be had it ended at the time."""
    kept = [row for row in rows if row.time < time_ms]
    sizes = {row.session: sum(other.session == row.session for other in kept) for row in kept}
    return [replace(row, size=sizes[row.session]) for row in kept]


def land(folder: Path, ds: date, lines: list[str] | list[Row], *, header: str = HEADER) -> Path:
    """Write `clicks_<ds>.csv.gz`; a str is written as it is, `\\x80` to `\\xff` as single bytes."""
    folder.mkdir(parents=True, exist_ok=True)
    text = "".join(f"{line.line() if isinstance(line, Row) else line}\n" for line in lines)
    path = folder / f"clicks_{ds}.csv.gz"
    path.write_bytes(gzip.compress(f"{header}\n{text}".encode("latin-1"), mtime=0))
    return path


def land_articles(folder: Path) -> None:
    """Metadata in two overlapping parts: of articles 100 to 127, 101 created only after the test's days."""
    (folder / "articles").mkdir(parents=True, exist_ok=True)
    for part, articles in (("a", range(100, 120)), ("b", range(110, 128))):
        created = {article: day_start_ms(date(2017, 9, 30)) for article in articles}
        created |= {101: day_start_ms(date(2017, 12, 1))} if part == "a" else {}
        lines = [f"{article},{article % 7 + 1},{created[article]},0,{article + 50}" for article in articles]
        text = "\n".join([",".join(ARTICLE_COLUMNS), *lines, ""])
        (folder / "articles" / f"articles_metadata_part_{part}.csv").write_text(text)


def globo_folder(folder: Path, *days: date) -> Path:
    """A data folder with a good log of each day."""
    land_articles(folder / "globo")
    for ds in days:
        land(folder / "globo", ds, visits(ds))
    return folder
