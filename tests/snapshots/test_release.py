"""Option 1 of section 5.2: what serves was learnt by every consumer before, whatever happens meanwhile."""

from __future__ import annotations

import json
import shutil
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

import infra.settings
from infra.commands import cli
from infra.settings import Settings
from snapshots.export import WEIGHTS
from snapshots.promotion import promote, rollback, take_back
from snapshots.registry import NotLearntError, Registry
from snapshots.release import release
from snapshots.retention import pointers
from snapshots.seal import DamagedError
from tests.serving.servers import free_port
from tests.snapshots.learners import Learners, copied, learn, learning_recipe
from tests.snapshots.world import DAYS, tiny_recipe
from trainer.downstream.checkpoint import Checkpoints
from trainer.recipes import USER_MODELS
from trainer.serving import Serving

BOTH = ("one", "two")
WALK = [
    ("consume one two", (None, None, {})),
    ("promote 0", (None, None, {1: BOTH})),
    ("promote 1", (None, None, {1: BOTH, 2: BOTH})),
    ("release", (None, None, {1: BOTH, 2: BOTH})),
    ("learn 1 one", (None, None, {1: BOTH, 2: BOTH})),
    ("release", (None, None, {1: ("two",), 2: BOTH})),
    ("learn 1 two", (None, None, {1: ("two",), 2: BOTH})),
    ("release", (1, None, {1: (), 2: BOTH})),
    ("release", (1, None, {1: (), 2: BOTH})),
    ("promote 2", (1, None, {1: (), 2: BOTH, 3: BOTH})),
    ("learn 2 one two", (1, None, {1: (), 2: BOTH, 3: BOTH})),
    ("release", (2, 1, {1: (), 2: (), 3: BOTH})),
]
"""Each step, and champion, previous and who each version waits for after it. In the end 2 serves, and 3 waits."""


@pytest.fixture(scope="module")
def walked(ready_days: Settings, tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """The end of WALK."""
    folder = tmp_path_factory.mktemp("walked")
    with pytest.MonkeyPatch.context() as patched:
        patched.chdir(folder)
        made = Learners(settings=copied(ready_days, folder), monkeypatch=patched)
        for step, state in WALK:
            made.run(step)
            assert made.state == state, step
    return made.settings


@pytest.fixture
def steady(walked: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Learners:
    monkeypatch.chdir(tmp_path)
    made = Learners(settings=copied(walked, tmp_path), monkeypatch=monkeypatch)
    made.consume(*BOTH)
    return made


@pytest.fixture
def ready(ready_days: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Learners:
    """Nothing is promoted, and nobody consumes."""
    monkeypatch.chdir(tmp_path)
    return Learners(settings=copied(ready_days, tmp_path), monkeypatch=monkeypatch)


@pytest.mark.parametrize(
    ("steps", "state"),
    [
        pytest.param(["rollback", "release"], (1, None, {1: ()}), id="rollback: what waits goes with the champion"),
        pytest.param(["take_back 2", "take_back 2"], (2, 1, {1: (), 2: ()}), id="what waits is taken back, twice"),
        pytest.param(["take_back 0"], (2, None, {2: (), 3: BOTH}), id="what served before is taken back"),
        pytest.param(
            ["consume three", "promote 3", "learn 3 one two", "release"],
            (2, 1, {1: (), 2: (), 3: ("three",), 4: (*BOTH, "three")}),
            id="a consumer that was added is waited for",
        ),
        pytest.param(
            ["rollback", "promote 1"], (2, 1, {1: (), 2: ()}), id="promoted again, and still learnt: it serves"
        ),
        pytest.param(
            ["rollback", "learn 2 one", "promote 1"], (1, None, {1: (), 2: ("one",)}),
            id="promoted again, and unlearnt meanwhile",
        ),
    ],
)  # fmt: skip
def test_what_serves(steady: Learners, steps: list[str], state: object) -> None:
    steady.run(*steps)
    assert steady.state == state


def test_consumers_come_late_and_an_older_day_later(ready: Learners) -> None:
    ready.run("consume one", "promote 0", "promote 2", "promote 3", "learn 3 one", "release", "older 1", "release")
    assert ready.state == (3, 1, {1: (), 2: ("one",), 3: (), 4: ("one",)})
    ready.registry.tag(ready.registry.number("tiny", 2), {"path": "/gone"})  # it is loaded, and computes nothing
    ready.run("learn 3 one", "release")
    assert ready.state == (3, 2, {1: (), 2: (), 3: (), 4: ("one",)}), "a rollback would go back to it"


def test_without_consumers_there_is_nothing_to_wait_for(ready: Learners) -> None:
    ready.run("promote 0", "promote 1")
    assert ready.state == (2, 1, {1: (), 2: ()})


def test_the_registry_refuses_what_was_not_learnt(steady: Learners) -> None:
    with pytest.raises(NotLearntError) as refused:
        steady.registry.set_alias("tiny", "champion", 3)
    words = str(refused.value)
    assert "tiny version 3 of 2026-01-03" in words
    assert "one, two did not" in words
    assert "usermodel trainer downstream --name N --ds D" in words
    assert "usermodel snapshots release --recipe tiny" in words
    assert steady.state[0] == 2


def test_who_learnt_what_is_kept_and_said(steady: Learners) -> None:
    assert steady.release().partitions == (DAYS[1],), "told again: the one before may have been killed"
    steady.run("promote 3", "learn 3 one")
    half = steady.release()
    assert half.sentence == (
        "tiny: version 2 of 2026-01-02 serves; version 4 of 2026-01-04 waits for one, two to learn it; "
        "version 3 of 2026-01-03 waits for two to learn it"
    )
    assert (half.released, half.partitions) == ((), ()), "not while others are still at it"
    assert json.loads(json.dumps(half.summary()))["waiting"][1]["learnt"] == [
        {"consumer": "one", "ds": "2026-01-04", "version": 3}
    ]
    steady.run("learn 3 two")
    with ThreadPoolExecutor(2) as pool:
        both = [one.result() for one in [pool.submit(steady.release) for _ in range(2)]]
    assert [(one.champion, one.partitions) for one in both] == [(3, (DAYS[2],))] * 2
    assert sorted(one.released for one in both) == [(), (3,)], "of two at once one moves it"
    assert steady.registry.number("tiny", 3).tags["learnt"] == "one@3 two@3"


def test_a_day_that_is_not_both_registered_and_sealed_is_not_learnt(ready: Learners) -> None:
    ready.run("consume one", "promote 0", "promote 1")
    learn(ready.settings, DAYS[1], "one", register=False)
    assert ready.release().champion is None
    ready.run("learn 1 one")
    (day,) = Checkpoints(ready.settings, "one").days()
    day.path.rename(day.path.with_name("elsewhere"))
    assert ready.release().champion is None
    day.path.with_name("elsewhere").rename(day.path)
    assert ready.release().champion == 1


@pytest.mark.parametrize("point", ["tag", "set_alias"])
def test_a_release_killed_half_way_is_finished_by_the_next(steady: Learners, point: str) -> None:
    steady.run("promote 3", "learn 3 one two")
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(Registry, point, die)
        with pytest.raises(KeyboardInterrupt):
            steady.release()
    assert steady.state[0] == 2
    assert steady.release().partitions == (DAYS[2],)
    assert steady.state[:2] == (3, 2)


def test_a_rollback_takes_along_what_was_learnt_and_not_released(steady: Learners) -> None:
    steady.run("promote 3", "learn 3 one two")
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(Registry, "set_alias", die)
        with pytest.raises(KeyboardInterrupt):
            steady.release()
    steady.run("rollback")
    assert steady.state == (1, None, {1: ()}), "version 3 goes on from what was rejected"
    assert steady.release().champion == 1


def test_a_rollback_killed_half_way_lets_nothing_past(steady: Learners) -> None:
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(Registry, "set_alias", die)  # the champion is rejected, and still the champion
        with pytest.raises(KeyboardInterrupt):
            steady.run("rollback")
    with pytest.raises(ValueError, match="a rollback from tiny version 2 of 2026-01-02 was cut short"):
        steady.release()
    steady.run("rollback")
    assert steady.state == (1, None, {1: ()})


def die(*_args: object, **_kwargs: object) -> None:
    raise KeyboardInterrupt


def test_a_damaged_snapshot_is_not_released(steady: Learners) -> None:
    steady.run("promote 3", "learn 3 one two")
    snapshot = steady.registry.number("tiny", 3)
    copy = steady.settings.home / "damaged"
    shutil.copytree(snapshot.path, copy)
    (copy / WEIGHTS).chmod(0o644)
    (copy / WEIGHTS).write_bytes(b"damaged")
    steady.registry.tag(snapshot, {"path": str(copy)})
    with pytest.raises(DamagedError, match=WEIGHTS):
        steady.release()
    assert steady.state == (2, 1, {1: (), 2: (), 3: BOTH, 4: BOTH})


def test_a_rollback_tells_those_who_learnt_from_what_went(steady: Learners) -> None:
    steady.run("learn 3 one")
    back = rollback(learning_recipe(), settings=steady.settings, by="test")
    assert (back.version, back.partitions) == (1, (DAYS[0], DAYS[2], DAYS[3])), "2 was joined on the third day"
    steady.run("promote 1")
    back = rollback(learning_recipe(), settings=steady.settings, by="test")
    assert back.partitions == (DAYS[0], DAYS[2], DAYS[3]), "its bytes are the same in another table version"


def test_the_commands_say_what_serves_and_that_airflow_does_not_know(
    steady: Learners, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = steady.settings.model_copy(update={"airflow_port": free_port()})
    monkeypatch.setattr(infra.settings, "get_settings", lambda: settings)
    monkeypatch.setitem(USER_MODELS, "tiny", learning_recipe)
    for command, words in (("release", "version 2 of 2026-01-02 serves"), ("rollback --ds 2026-01-03", '"version": 3')):
        done = CliRunner().invoke(cli, ["snapshots", *command.split(), "--recipe", "tiny"])
        assert done.exit_code == 1
        assert words in done.stdout
        assert "consumers are not told; repeat this" in done.stderr
    assert steady.state == (2, 1, {1: (), 2: ()})


def test_what_cannot_be_taken_back(steady: Learners) -> None:
    with pytest.raises(ValueError, match="version 2 of 2026-01-02 is the champion; `usermodel snapshots rollback"):
        steady.run("take_back 1")
    with pytest.raises(ValueError, match="version 4 of 2026-01-04 is pending; only a promoted day is taken back"):
        steady.run("take_back 3")
    taken = take_back(learning_recipe(), DAYS[2], settings=steady.settings, by="test", note="a typo")
    assert (taken.version, taken.partitions) == (3, (DAYS[1],))
    assert steady.registry.number("tiny", 3).tags["note"] == "taken back: a typo"


def test_without_the_policy_nothing_waits_any_more(steady: Learners) -> None:
    found = release(tiny_recipe(), settings=steady.settings)
    assert (found.champion, found.released, found.waiting) == (3, (3,), ())
    promote(tiny_recipe(), DAYS[3], settings=steady.settings, by="test")
    assert steady.state == (4, 3, {1: (), 2: (), 3: (), 4: ()})
    assert release(tiny_recipe(), settings=steady.settings).partitions == ()


def test_what_waits_is_neither_served_frozen_nor_pruned(steady: Learners) -> None:
    assert [getattr(steady.registry.frozen("tiny", ds), "number", None) for ds in (None, *DAYS[:3])] == [1, 1, 2, None]
    promoted = [one for one in steady.registry.versions("tiny") if one.decision == "promoted"]
    assert pointers([*promoted, replace(promoted[0], number=9, ds=DAYS[5])], {}, keep_days=1) == {
        3: ("promoted: waits for one, two to learn it",),
        9: ("of the newest 1 days",),
    }
    assert set(pointers([*promoted, replace(promoted[0], number=9, ds=DAYS[5])], {"champion": 9}, keep_days=1)) == {9}


def test_the_policy_is_one_of_two() -> None:
    with pytest.raises(ValueError, match=r"after is 'never'; it is one of \['promotion', 'learning'\]"):
        replace(Serving(), after="never")  # type: ignore[arg-type]
