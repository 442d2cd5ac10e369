from __future__ import annotations

import time
from pathlib import Path

from infra.processes import is_alive
from infra.settings import Settings, child_environment
from infra.supervision import RUNNING, Program, Supervisor


def sleeper(name: str, *, seconds: int = 600) -> Program:
    return Program(name=name, command=["sleep", str(seconds)])


def test_programs_come_and_go_while_others_run(tmp_path: Path) -> None:
    supervisor = Supervisor(Settings(home=tmp_path, _env_file=None))
    supervisor.launch([sleeper("stays"), sleeper("goes")], environment=child_environment())
    try:
        supervisor.start(["stays", "goes"])
        before = supervisor.processes()
        assert supervisor.update([sleeper("stays"), sleeper("goes")]), "nothing to do"
        assert supervisor.update([sleeper("stays"), sleeper("comes")])
        assert not is_alive(before["goes"].pid)
        supervisor.start(["comes"])
        deadline = time.monotonic() + 30
        while supervisor.processes()["comes"].state != RUNNING:
            assert time.monotonic() < deadline
            time.sleep(0.1)
        after = supervisor.processes()
        assert after.keys() == {"stays", "comes"}
        assert after["stays"].pid == before["stays"].pid

        assert not supervisor.update([sleeper("stays", seconds=601), sleeper("other")]), "one that stays is another"
        assert supervisor.processes().keys() == {"stays", "comes"}
    finally:
        supervisor.shutdown()
