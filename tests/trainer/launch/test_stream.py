from __future__ import annotations

from itertools import takewhile
from pathlib import Path

from trainer.launch.stream import follow


def test_what_hosts_write_is_told_line_by_line(tmp_path: Path) -> None:
    lines = follow(tmp_path, "slurm-7-*", from_start=True)
    assert next(lines) == ""
    (tmp_path / "slurm-7-0.out").write_text("one\ntw")
    (tmp_path / "slurm-8-0.out").write_text("of another job\n")
    assert list(takewhile(bool, lines)) == ["one"]
    (tmp_path / "slurm-7-0.out").write_text("one\ntwo\n\n")
    (tmp_path / "slurm-7-1.err").write_text("host 1\n")
    assert list(takewhile(bool, lines)) == ["two", "host 1"]
    (tmp_path / "slurm-7-0.out").write_text("anew\n")
    assert list(takewhile(bool, lines)) == ["anew"], "the scheduler started the job again"


def test_who_joins_hears_the_end_of_what_was_said(tmp_path: Path) -> None:
    (tmp_path / "slurm-7-0.out").write_text("".join(f"line {number:05}\n" for number in range(1000)))
    heard = list(takewhile(bool, follow(tmp_path, "slurm-7-*", from_start=False)))
    assert heard[-1] == "line 00999"
    assert len(heard) < 500
    assert all(len(line) == 10 for line in heard[1:])
