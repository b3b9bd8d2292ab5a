"""The verifier: text rules first, then the bomb filter, then the workers; verdicts are remembered."""

from __future__ import annotations

import atexit
import os
import threading
from collections import OrderedDict
from collections.abc import Sequence
from functools import lru_cache
from importlib.metadata import version

from tokensweep.verifier.bombs import bomb
from tokensweep.verifier.decide import decide, is_plain
from tokensweep.verifier.pool import Question, Verdict, Workers

NAME = f"math/2 math-verify-{version('math-verify')}"  # raise the number whenever a verdict can change

_REMEMBERED = 1 << 16  # verdicts; a training step asks the same few answers again and again


class Verifier:
    """Compares answers with references. Close it, or use it as a context, to end its workers."""

    def __init__(self, workers: Workers | None = None) -> None:
        self._workers = workers or Workers()
        self._known: OrderedDict[Question, Verdict] = OrderedDict()
        self._lock = threading.Lock()  # of what is known

    def __enter__(self) -> Verifier:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the worker processes; the next question that needs them starts new ones."""
        self._workers.close()

    def compare(self, pairs: Sequence[tuple[str, str]]) -> list[Verdict]:
        """One verdict per (gold, answer), in order; what no rule on text decides goes to the workers at once.

        A verdict depends on its pair only, not on the batch. Raises RuntimeError if no worker can be started.
        """
        return self._verdicts([Question("equal", gold, answer) for gold, answer in pairs])

    def unreadable(self, golds: Sequence[str]) -> dict[str, str]:
        """Reference answers that would not verify against themselves by mathematics, each with the reason.

        Such a reference would make every answer in another notation wrong.
        """
        distinct = [gold for gold in dict.fromkeys(golds) if not is_plain(gold)]
        verdicts = self._verdicts([Question("understood", gold) for gold in distinct])
        return {
            gold: verdict.reason or "it is no mathematics that can be read"
            for gold, verdict in zip(distinct, verdicts, strict=True)
            if not verdict.equal
        }

    def _verdicts(self, questions: Sequence[Question]) -> list[Verdict]:
        known = {question: self._told(question) for question in dict.fromkeys(questions)}
        open_questions = [question for question, verdict in known.items() if verdict is None]
        for question, verdict in zip(open_questions, self._workers.ask(open_questions), strict=True):
            known[question] = verdict
            self._remember(question, verdict)
        verdicts = [known[question] for question in questions]
        assert None not in verdicts
        return [verdict for verdict in verdicts if verdict is not None]

    def _told(self, question: Question) -> Verdict | None:
        """The verdict without a worker, None if it takes one."""
        with self._lock:
            if question in self._known:
                self._known.move_to_end(question)
                return self._known[question]
        if question.operation != "equal":
            return None
        decided = decide(question.gold, question.answer)
        if decided is not None:
            return Verdict(decided)
        refused = bomb(question.gold, question.answer)
        return Verdict(None, f"bomb: {refused}") if refused else None

    def _remember(self, question: Question, verdict: Verdict) -> None:
        if verdict.reason.startswith("crashed"):
            return  # by something else on the machine: ask again
        with self._lock:
            self._known[question] = verdict
            if len(self._known) > _REMEMBERED:
                self._known.popitem(last=False)


def verifier() -> Verifier:
    """The verifier of this process, whose workers end with it. A forked process gets one of its own."""
    return _of_process(os.getpid())


@lru_cache(maxsize=1)
def _of_process(pid: int) -> Verifier:
    made = Verifier()

    def close() -> None:
        if os.getpid() == pid:  # a fork inherits the hook, but not the workers
            made.close()

    atexit.register(close)
    return made
