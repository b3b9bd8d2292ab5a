"""What a command says of a run that another command is working on."""

from __future__ import annotations

import io
import threading
from pathlib import Path

from rich.console import Console
from tests.spine.test_settings import plan_of

from tokensweep.dispatch import dispatch_local
from tokensweep.ledger import Attempt, Kind
from tokensweep.plan import write_plan
from tokensweep.progress import Board


def test_a_run_that_another_process_works_on_is_waited_for_and_named(tmp_path: Path) -> None:
    plan = plan_of(tmp_path)
    write_plan(plan)
    (run,) = plan.runs
    printed = io.StringIO()
    board = Board(Console(file=printed, width=200), labels={run.run_id: "ops run seed 0"})
    with Attempt.open(run.dir(tmp_path)) as attempt:

        def end() -> None:
            attempt.event(Kind.trained, step=40)
            attempt.event(Kind.finished)

        later = threading.Timer(1.0, end)
        later.start()
        waiting = threading.Thread(target=dispatch_local, args=(plan,), kwargs={"board": board})
        waiting.start()
        later.join()
    waiting.join(timeout=30)
    assert not waiting.is_alive()
    assert "waits  ops run seed 0  another process works on it" in printed.getvalue()
