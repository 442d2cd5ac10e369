"""Faults of the network between the hosts of a training job: namespaces of this machine, a rank on each."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from infra.hosts.job import HostsJob
from infra.hosts.namespaces import NoNamespacesError
from infra.hosts.rack import Rack
from infra.hosts.wire import Link
from infra.settings import Settings
from tests.faults.attempts import EVERY, Fault, marks, settings_of, wait_for
from tests.faults.ranks import GO, REACHED
from tests.faults.scenario import Outcome, SkippedError, Trial, error_of
from tests.faults.world import NUM_STEPS
from tests.trainer.planted import DAY, planted_recipe
from trainer.job import train
from trainer.trained import TrainedDay, trained_days

_DEADLINE_SECONDS = 15
_PATIENCE_SECONDS = 300
_PROBE_SECONDS = 3
"""Until a host that does not answer is taken for cut off."""
_REPORT_SECONDS = 15
"""From there to the launcher's error, on a busy machine: stacks are written, agents end."""


@contextmanager
def rack_of(trial: Trial) -> Iterator[Rack]:
    """Two hosts, which end with the block. SkippedError: this machine has no namespaces for them."""
    try:
        rack = Rack(2, settings=settings_of(trial.folder / "rack"))
    except NoNamespacesError as error:
        raise SkippedError(str(error)) from error
    with rack:
        yield rack


def job_on(rack: Rack, *hosts: str) -> HostsJob:
    """On these hosts, or on all."""
    return HostsJob(rack, hosts=hosts or rack.names, lost_seconds=_DEADLINE_SECONDS)


def over(job: HostsJob, settings: Settings, fault: Fault | None = None) -> TrainedDay:
    """Train the planted day, its ranks meeting the fault."""
    told = (fault or Fault()).told

    def launch(entry: str, arguments: list[str], /, *, ranks: int, directory: Path) -> None:
        job("tests.faults.ranks:main", [*arguments, *told], ranks=ranks, directory=directory)

    return train(planted_recipe(), DAY, settings=settings, launch=launch)


@contextmanager
def once_reached(home: Path, action: Callable[[], None], *, goes_on: bool = True) -> Iterator[list[float]]:
    """Acts when a rank waits where it was told to, then lets it go on; when that was (monotonic)."""
    acted: list[float] = []

    def act() -> None:
        if wait_for(lambda: marks(home, REACHED), seconds=_PATIENCE_SECONDS):
            action()
            acted.append(time.monotonic())
            if goes_on:
                (marks(home, REACHED)[-1].parent / GO).touch()

    thread = threading.Thread(target=act)
    thread.start()
    try:
        yield acted
    finally:
        thread.join()


def fresh(trial: Trial) -> tuple[Path, Settings]:
    """A home with the planted day to be trained."""
    home = trial.world.fresh(trial.folder / "home")
    return home, settings_of(home, deadline_seconds=_DEADLINE_SECONDS)


def require_in_time(message: str, cut_at: list[float], *, names: Sequence[str]) -> float:
    """Seconds from the cut to the error, which is in time and names the hosts."""
    assert cut_at, f"the job failed before anything befell it: {message}"
    seconds = time.monotonic() - cut_at[0]
    assert seconds <= _DEADLINE_SECONDS + _PROBE_SECONDS + _REPORT_SECONDS, f"{seconds:.1f} s: {message}"
    said = ("answer", f"USERMODEL_DEADLINE_SECONDS (now {_DEADLINE_SECONDS})")
    for part in (*(f"{name} (" for name in names), *said):
        assert part in message, f"{part!r} is not in {message!r}"
    return seconds


def host_cut_off(trial: Trial) -> Outcome:
    """A host cut off: both are named, the day goes on on the other, to the bit; back again, it writes nothing."""
    draw, (home, settings) = trial.draw(), fresh(trial)
    step, lost = draw.randint(EVERY + 1, NUM_STEPS - 2), draw.randrange(2)
    with rack_of(trial) as rack:
        name, other = rack.names[lost], rack.names[1 - lost]
        first, second = job_on(rack), job_on(rack, other)
        with once_reached(home, lambda: rack.cut(name)) as cut_at:
            message = error_of(lambda: over(first, settings, Fault(moment="waiting", step=step)), RuntimeError)
        seconds = require_in_time(message, cut_at, names=rack.names)
        trained = over(second, settings)
        rack.join(name)
        first.await_the_cut_off()
    trial.world.require_same(trained)
    assert trained_days(settings, "tiny") == [trained]
    redone = step - second.resumed_at
    assert 0 <= redone <= EVERY, f"cut off at {step}, went on at {second.resumed_at}"
    return Outcome(injected=1, lost=f"{redone} of {NUM_STEPS} steps redone; named after {seconds:.1f} s")


def host_fenced(trial: Trial) -> Outcome:
    """A host cut off and stopped as it is about to publish: the day is trained elsewhere; back again, it is refused."""
    home, settings = fresh(trial)
    with rack_of(trial) as rack:
        publisher, other = rack.names
        first = job_on(rack)

        def vanish() -> None:
            rack.cut(publisher)
            for pid in processes_on(rack, publisher):
                os.kill(pid, signal.SIGSTOP)

        with once_reached(home, vanish, goes_on=False) as cut_at:
            message = error_of(lambda: over(first, settings, Fault(moment="held")), RuntimeError)
        seconds = require_in_time(message, cut_at, names=[publisher])
        trained = over(job_on(rack, other), settings)
        assert first.directory is not None
        (first.directory / GO).touch()
        rack.join(publisher)
        rack.wake()
        first.await_the_cut_off()
        assert "nothing is published" in (first.directory / f"{publisher}.log").read_text()
    trial.world.require_same(trained)
    assert trained_days(settings, "tiny") == [trained]
    return Outcome(injected=1, lost=f"the attempt; named after {seconds:.1f} s")


def processes_on(rack: Rack, host: str) -> list[int]:
    """All but the one that holds the host."""
    holder = rack.pids()[host]
    space, found = Path(f"/proc/{holder}/ns/pid").readlink(), []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if (folder / "ns/pid").readlink() == space and int(folder.name) != holder:
                found.append(int(folder.name))
        except OSError:
            continue
    return found


def host_rejoined(trial: Trial) -> Outcome:
    """Hosts apart for longer than the deadline, then together: the day goes on over both, to the bit."""
    home, settings = fresh(trial)
    step = trial.draw().randint(EVERY + 1, NUM_STEPS - 2)
    with rack_of(trial) as rack:
        second = job_on(rack)
        with once_reached(home, lambda: rack.split(rack.names[1])) as cut_at:
            message = error_of(lambda: over(job_on(rack), settings, Fault(moment="waiting", step=step)), RuntimeError)
        seconds = require_in_time(message, cut_at, names=rack.names)
        rack.split()
        trained = over(second, settings)
    trial.world.require_same(trained)
    redone = step - second.resumed_at
    assert 0 <= redone <= EVERY, f"apart at {step}, went on at {second.resumed_at}"
    return Outcome(injected=1, lost=f"{redone} of {NUM_STEPS} steps redone; named after {seconds:.1f} s")


def network_blip(trial: Trial) -> Outcome:
    """A host cut off for less than half the deadline: the job waits and ends as if undisturbed, to the bit."""
    home, settings = fresh(trial)
    outage = _DEADLINE_SECONDS * trial.draw().uniform(0.2, 0.4)
    step = trial.draw().randint(1, NUM_STEPS - 2)
    with rack_of(trial) as rack:
        healer = threading.Timer(outage, lambda: rack.join("host-2"))

        def cut() -> None:
            rack.cut("host-2")
            healer.start()

        with once_reached(home, cut):
            trained = over(job_on(rack), settings, Fault(moment="waiting", step=step))
        healer.join()
    assert trained.resumed == 0
    trial.world.require_same(trained)
    return Outcome(injected=1, lost=f"an outage of {outage:.1f} s")


def network_slow(trial: Trial) -> Outcome:
    """Slow and narrow cables: the day takes longer, and ends with the same bits."""
    links = [Link(delay_ms=10), Link(rate_mbit=100)]
    return _shaped(trial, links[: trial.times(1, len(links))])


def packets_dropped(trial: Trial) -> Outcome:
    """Packets lost on every cable: the day takes longer, and ends with the same bits."""
    links = [Link(loss=share, seed=trial.seed) for share in (0.01, 0.05)]
    return _shaped(trial, links[: trial.times(1, len(links))])


def _shaped(trial: Trial, links: list[Link]) -> Outcome:
    took = []
    with rack_of(trial) as rack:
        for number, link in enumerate(links):
            for name in rack.names:
                rack.shape(name, link)
            home = trial.world.fresh(trial.folder / f"home-{number}")
            trained = over(job_on(rack), settings_of(home))
            trial.world.require_same(trained)
            took.append(f"{trained.seconds:.1f} s in place of {trial.world.undisturbed.trained.seconds:.1f}")
    return Outcome(injected=len(links), lost="; ".join(took))
