"""A task that a random model solves half of the time, and that can stop, fail or hang in the middle of a run.

For ``TOKENSWEEP_PATH``. A worker waits in its third batch as long as its store has a file ``closed`` and
its run folder no file ``open``, so a test says when a fault hits and when a run goes on. ``fault`` is what
goes wrong in the third batch of an attempt unless the store has a file ``mended``.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tokensweep.problems import Answered, Grade, Outcome, Problem, grade_each
from tokensweep.registry import component

_batches = 0  # graded by this process


@component("data", "test_faulty")
@dataclass(frozen=True)
class Faulty:
    """``size`` prompts; right is any completion whose first character has an even code."""

    fault: str = "none"  # or raise, hang, leave
    size: int = 7
    max_tokens: int = 6
    split: str = "train"

    name = "faulty"
    grader = "faulty/1"
    answer_space = None

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: int, /) -> Problem:
        return Problem(id=f"even-{index}", prompt=f"{index}=", answer=None)

    def check(self) -> None:
        """Nothing has to be there."""

    def content_hash(self) -> str:
        return f"faulty{self.size}{self.split}"

    def prompt_text(self, problem: Problem) -> str:
        return problem.prompt

    def demonstration(self, problem: Problem, seed: int) -> str:
        return "0"

    def grade(self, problem: Problem, text: str, finish_reason: str) -> Grade:
        if not text:
            return Grade(outcome=Outcome.no_answer, extracted=None, rule="none")
        right = ord(text[0]) % 2 == 0
        return Grade(outcome=Outcome.correct if right else Outcome.wrong, extracted=text[0], rule="first")

    def grade_many(self, answers: Sequence[Answered], /) -> list[Grade]:
        global _batches
        _batches += 1
        if _batches >= 3:
            _wait_or_fail(self.fault)
        return grade_each(self, answers)


def _wait_or_fail(fault: str) -> None:
    run_dir = Path(sys.argv[1])  # of python -m tokensweep.worker
    store = run_dir.parents[1]
    while (store / "closed").exists() and not (run_dir / "open").exists():
        time.sleep(0.05)
    if fault == "none" or (store / "mended").exists():
        return
    if fault == "raise":
        raise RuntimeError("the third batch is spoilt")
    if fault == "leave":
        os._exit(0)
    while not (store / "mended").exists():
        time.sleep(0.05)
