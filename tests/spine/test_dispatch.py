"""What a command says of a run that another command is working on."""

from __future__ import annotations

import io
import re
import threading
from pathlib import Path

import pytest
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


@pytest.mark.parametrize("is_terminal", [False, True])
def test_brackets_of_a_label_and_of_an_error_are_shown_as_they_are(tmp_path: Path, is_terminal: bool) -> None:
    plan = plan_of(tmp_path)
    write_plan(plan)
    (run,) = plan.runs
    folder = run.dir(tmp_path)
    printed = io.StringIO()
    console = Console(file=printed, width=200, force_terminal=is_terminal, no_color=True)
    board = Board(console, labels={run.run_id: "ops method=[dapo,tis] seed 0"})
    board.start(total=1, done=0)
    board.waits(folder)
    with Attempt.open(folder) as attempt:
        board.show([folder])
        attempt.event(Kind.failed, error="prompts must be [of] tokens, got [/tmp/x]", **{"class": "other"})
    board.ended(folder)
    board.stop()
    for line in ("waits  ops method=[dapo,tis] seed 0", "failed ops method=[dapo,tis] seed 0"):
        assert line in re.sub("\\x1b\\[[0-9;?]*[a-zA-Z]", "", printed.getvalue())
    assert "prompts must be [of] tokens, got [/tmp/x]" in printed.getvalue()
