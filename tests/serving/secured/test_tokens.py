"""Tokens: who is known, by what, until when."""

from __future__ import annotations

import base64
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from infra.tokens import give, take_back
from serving.secured import tokens as module
from serving.secured.tokens import MOST_BYTES, Tokens, make_client, parse
from tests.serving.secured.made import home


@pytest.fixture
def kept(tmp_path: Path) -> tuple[Path, str]:
    """The services' file, and the token of `shop`."""
    path, file = give(home(tmp_path), "shop", frozenset({"embeddings"}))
    return path, file.read_text().strip()


def test_a_token_is_in_no_file_of_the_services(tmp_path: Path, kept: tuple[Path, str]) -> None:
    path, token = kept
    assert token not in path.read_text()
    holders = [one for one in tmp_path.rglob("*") if one.is_file() and token in one.read_text()]
    assert holders == [tmp_path / "credentials" / "tokens.d" / "shop"]
    assert {one.stat().st_mode & 0o777 for one in (path, *holders)} == {0o600}


def test_the_folder_of_another_file_is_left_as_it_is(tmp_path: Path) -> None:
    shared = tmp_path / "etc"
    shared.mkdir(mode=0o755)
    settings = home(tmp_path / "home").model_copy(update={"tokens_file": shared / "tokens"})
    path, _ = give(settings, "shop", frozenset({"metrics"}))
    assert path == shared / "tokens"
    assert (path.stat().st_mode & 0o777, shared.stat().st_mode & 0o777) == (0o600, 0o755)


@pytest.mark.parametrize(
    ("header", "name"),
    [
        pytest.param("Bearer {token}", "shop", id="bearer"),
        pytest.param("bearer  {token} ", "shop", id="other-case-and-blanks"),
        pytest.param("Basic {basic}", "shop", id="as-a-password"),
        pytest.param("Basic {token}", None, id="basic-that-is-no-base64"),
        pytest.param("{token}", None, id="without-a-scheme"),
        pytest.param("Bearer {token}x", None, id="one-letter-more"),
        pytest.param("Bearer {short}", None, id="one-letter-less"),
        pytest.param("Bearer {digest}", None, id="the-digest-itself"),
        pytest.param("Bearer ", None, id="empty"),
        pytest.param("", None, id="no-header"),
        pytest.param("Bearer " + "x" * MOST_BYTES + " {token}", None, id="beyond-the-bound"),
        pytest.param("Bearer \udcff\udcfe", None, id="no-text"),
    ],
)
def test_who_is_known(kept: tuple[Path, str], header: str, name: str | None) -> None:
    path, token = kept
    basic = base64.b64encode(f"anything:{token}".encode()).decode()
    digest = path.read_text().split()[-1]
    shown = header.format(token=token, short=token[:-1], basic=basic, digest=digest)
    found = Tokens(path).client(shown.encode("utf-8", "surrogateescape"))
    assert (found.name if found else None) == name


@pytest.mark.parametrize(
    "line",
    [
        pytest.param("shop embeddings", id="no-digest"),
        pytest.param("shop everything " + "0" * 64, id="unknown-scope"),
        pytest.param("shop embeddings " + "0" * 63, id="short-digest"),
        pytest.param("a/../b embeddings " + "0" * 64, id="a-path-for-a-name"),
        pytest.param(".. embeddings " + "0" * 64, id="a-folder-for-a-name"),
    ],
)
def test_a_wrong_line_is_named_and_not_quoted(line: str) -> None:
    with pytest.raises(ValueError, match=r"the file, line 2: .*usermodel infra token") as error:
        parse(f"# clients\n{line}\n", "the file")
    assert "0000" not in str(error.value)


@pytest.mark.parametrize(("name", "scope"), [("a b", "metrics"), ("", "metrics"), ("shop", "root")])
def test_no_such_client_is_made(name: str, scope: str) -> None:
    with pytest.raises(ValueError, match="NAME SCOPE"):
        make_client(name, frozenset({scope}))


def test_tokens_are_exchanged_and_ended_while_the_service_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LOOK_SECONDS", 0.0)
    settings = home(tmp_path)
    path, file = give(settings, "shop", frozenset({"embeddings"}))
    old, service = f"Bearer {file.read_text().strip()}".encode(), Tokens(path)
    give(settings, "shop", frozenset({"embeddings"}))
    new = f"Bearer {file.read_text().strip()}".encode()
    assert old != new
    assert [client.name if (client := service.client(one)) else None for one in (old, new)] == ["shop", "shop"]
    path.write_text("nonsense\n")
    assert service.client(new) is not None, "a broken file leaves those of before"
    path.unlink()
    assert service.client(new) is not None
    path.write_text("")
    assert service.client(new) is None
    give(settings, "shop", frozenset({"embeddings"}))
    again = f"Bearer {file.read_text().strip()}".encode()
    assert service.client(again) is not None
    take_back(settings, "shop")
    assert service.client(again) is None
    assert not file.exists()
    with pytest.raises(ValueError, match="shop has no token"):
        take_back(settings, "shop")


def test_what_people_wrote_into_the_file_stays(tmp_path: Path) -> None:
    settings = home(tmp_path)
    path, _ = give(settings, "shop", frozenset({"embeddings"}))
    by_hand = f"# who asks, and whom to call\n\n{path.read_text().strip()}  # the shop: +1 555\n# the end"
    path.write_text(by_hand)
    give(settings, "prometheus", frozenset({"metrics"}))
    assert path.read_text().startswith(f"{by_hand}\nprometheus metrics ")
    take_back(settings, "prometheus")
    assert path.read_text() == f"{by_hand}\n"
    take_back(settings, "shop")
    assert path.read_text() == "# who asks, and whom to call\n\n# the end\n"


def test_tokens_made_at_once_all_count(tmp_path: Path) -> None:
    settings, names = home(tmp_path), [f"client-{number}" for number in range(24)]
    with ThreadPoolExecutor(8) as pool:
        made = list(pool.map(lambda name: give(settings, name, frozenset({"metrics"})), names))
    service = Tokens(made[0][0])
    found = [service.client(f"Bearer {file.read_text().strip()}".encode()) for _, file in made]
    assert [client and client.name for client in found] == names


def test_a_broken_file_is_left_as_it_is(tmp_path: Path) -> None:
    settings = home(tmp_path)
    path, file = give(settings, "shop", frozenset({"metrics"}))
    path.write_text("nonsense\n")
    before = file.read_text()
    with pytest.raises(ValueError, match="line 1: not `NAME SCOPE"):
        give(settings, "shop", frozenset({"metrics"}))
    assert (path.read_text(), file.read_text()) == ("nonsense\n", before), "the token that counted is not lost"


def test_a_file_is_looked_at_once_in_a_while(kept: tuple[Path, str], monkeypatch: pytest.MonkeyPatch) -> None:
    path, token = kept
    service = Tokens(path)
    path.write_text("")
    monkeypatch.setattr(time, "monotonic", lambda: 0.0)
    assert service.client(f"Bearer {token}".encode()) is not None
