"""The threat model names tests that exist, and the connections that there are."""

from __future__ import annotations

import re

import pytest

from infra.network import table_lines
from infra.settings import REPOSITORY, Settings

PAGE = (REPOSITORY / "infra" / "security" / "threat-model.md").read_text()
TESTS = sorted(set(re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", PAGE)))


@pytest.mark.parametrize(("path", "name"), TESTS, ids=[name for _, name in TESTS])
def test_what_is_claimed_is_tested(path: str, name: str) -> None:
    assert re.search(rf"^def {name}\(", (REPOSITORY / path).read_text(), re.MULTILINE)


def test_every_defence_names_a_test() -> None:
    rows = [line for line in PAGE.splitlines() if re.match(r"\| [STRIDE](, [STRIDE])* \|", line)]
    assert len(rows) > 15
    assert all("`tests/" in line for line in rows)


def test_the_connections_are_those_of_the_table() -> None:
    begun = PAGE.index("-->\n", PAGE.index("<!-- edges")) + 4
    assert PAGE[begun : PAGE.index("<!-- end of edges")].strip().splitlines() == list(table_lines())


def test_every_setting_that_it_names_there_is() -> None:
    named = {name.removeprefix("USERMODEL_").lower() for name in re.findall(r"USERMODEL_\w+", PAGE)}
    assert named <= set(Settings.model_fields)
