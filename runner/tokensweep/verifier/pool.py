"""Worker processes that compare answers: lazily started, limited, killed and replaced.

Why processes: SymPy can neither be interrupted in a thread (big integers hold the interpreter lock) nor by
``signal.alarm``, which exists only in the main thread and clears the caller's own timers. Why not
``multiprocessing``, nor a pool on top of it: its children first import the caller's main script, torch
included, and a script without a guard would start itself again.

The limit is two seconds of *processor* time, so that a grade does not depend on how busy the machine is. On a
machine of another speed only comparisons near the limit can end otherwise: the usual one takes 10 ms, and a
bomb is far beyond any limit. The wall clock is a backstop for what waits instead of computing.
"""

from __future__ import annotations

import json
import os
import selectors
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any, TypeVar

_T = TypeVar("_T")

CPU_LIMIT_S = 2.0
WALL_LIMIT_S = 30.0

_START_LIMIT_S = 120.0  # a cold disk on a busy machine
_MOST_WORKERS = 16
_COMMAND = (sys.executable, "-P", "-m", "tokensweep.verifier.worker")


@dataclass(frozen=True)
class Verdict:
    """Whether an answer equals the reference, or why that could not be decided."""

    equal: bool | None
    reason: str = ""  # "" if decided, else "timeout", "memory", "bomb: ..." or "crashed: ..."


@dataclass(frozen=True)
class Question:
    """What a worker is asked: ``equal`` (gold, answer) or ``understood`` (gold)."""

    operation: str
    gold: str
    answer: str = ""


class Workers:
    """As many workers as processors, started when first needed; use it as a context or close it.

    Safe to use from several threads, which take turns. ``cpu_limit_s`` and ``wall_limit_s`` hold for each
    question; any positive number will do.
    """

    def __init__(
        self,
        count: int | None = None,
        *,
        cpu_limit_s: float = CPU_LIMIT_S,
        wall_limit_s: float = WALL_LIMIT_S,
    ) -> None:
        if cpu_limit_s <= 0 or wall_limit_s <= 0:
            raise ValueError(f"limits must be positive, got {cpu_limit_s} s and {wall_limit_s} s")
        self._limits = float(cpu_limit_s), float(wall_limit_s)
        self._workers = [_Worker() for _ in range(count or min(_processors(), _MOST_WORKERS))]
        self._turn = threading.Lock()

    def __enter__(self) -> Workers:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def ask(self, questions: Sequence[Question]) -> list[Verdict]:
        """One verdict per question, in order. Raises RuntimeError if no worker can be started.

        An interrupt ends the workers at once and is raised from here, without what it interrupted.
        """
        verdicts = [Verdict(None, "not asked")] * len(questions)
        waiting: SimpleQueue[tuple[int, Question]] = SimpleQueue()
        for item in enumerate(questions):
            waiting.put(item)

        def work(worker: _Worker) -> None:
            for index, question in _drawn(waiting):
                verdicts[index] = worker.ask(question, *self._limits)

        with self._turn:
            try:
                _each(work, self._workers[: len(questions)])
            except KeyboardInterrupt as interrupt:
                raise interrupt.with_traceback(None) from None
        return verdicts

    def pids(self) -> list[int]:
        """Process ids of the workers that run."""
        return [worker.process.pid for worker in self._workers if worker.process is not None]

    def close(self) -> None:
        """End every worker. The next question starts new ones."""
        with self._turn:
            for worker in self._workers:
                worker.kill()


def _each(work: Callable[[_Worker], None], workers: Sequence[_Worker]) -> None:
    """Let every worker work, each in a thread of its own; what stops one, an interrupt too, stops all."""
    for worker in workers:
        worker.stopped = False
    if len(workers) == 1:
        work(workers[0])
    elif workers:
        with ThreadPoolExecutor(len(workers), thread_name_prefix="verifier") as threads:
            try:
                list(threads.map(work, workers))
            except BaseException:
                for worker in workers:
                    worker.stop()
                raise


class _Worker:
    """One process and the lines that go to and fro."""

    def __init__(self) -> None:
        self.process: subprocess.Popen[bytes] | None = None
        self.stopped = False  # by another thread than the one that asks

    def ask(self, question: Question, cpu_limit_s: float, wall_limit_s: float) -> Verdict:
        """The verdict. A worker that died is replaced and asked again: an answer can only end its fork."""
        request = [question.operation, question.gold, question.answer, cpu_limit_s]
        for _ in range(2):
            if self.stopped:
                break
            try:
                if self.process is None:
                    self._start()
                reply = None if self.stopped else self._exchange(request, wall_limit_s)
            except TimeoutError:
                self.kill()
                return Verdict(None, "timeout")
            except BaseException:
                self.kill()  # interrupted: its reply must not be taken for that of the next question
                raise
            if reply is not None:
                return Verdict(*reply)
            self.kill()
        return Verdict(None, f"crashed: its worker {'was stopped' if self.stopped else 'died twice'}")

    def stop(self) -> None:
        """End the process, from any thread; the thread that asks sees that and asks no more."""
        self.stopped = True
        process = self.process
        if process is not None:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)

    def kill(self) -> None:
        """End the process and a fork that it may have, and wait until it is gone."""
        process, self.process = self.process, None
        if process is None:
            return
        with suppress(ProcessLookupError):  # it has ended by itself
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        for stream in (process.stdin, process.stdout):
            assert stream is not None
            stream.close()

    def _start(self) -> None:
        """Start the process. One that ends or hangs meanwhile, perhaps for want of memory, has two goes."""
        if not (self._started() or self.stopped or self._started()):
            raise RuntimeError(
                f"the verifier's worker does not start: run {' '.join(_COMMAND)}, "
                'which should print "ready", to see why'
            )

    def _started(self) -> bool:
        """Whether a new process is ready."""
        environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join(path or str(Path.cwd()) for path in sys.path),
            "PYTHONHASHSEED": "0",  # SymPy orders some terms by their hash
        }
        self.process = subprocess.Popen(
            _COMMAND,
            bufsize=0,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment,
            start_new_session=True,
        )
        try:
            ready: bool = self._receive(_START_LIMIT_S) == "ready"
        except TimeoutError:
            ready = False
        if not ready:
            self.kill()
        return ready

    def _exchange(self, request: list[Any], limit_s: float) -> Any:
        """The reply to a request; None from a worker that is dead, TimeoutError from one that is late."""
        assert self.process is not None
        assert self.process.stdin is not None
        try:
            self.process.stdin.write(json.dumps(request).encode() + b"\n")
        except BrokenPipeError:
            return None
        return self._receive(limit_s)

    def _receive(self, limit_s: float) -> Any:
        """The next line as JSON; None at the end of the stream, TimeoutError when nothing comes in time."""
        assert self.process is not None
        assert self.process.stdout is not None
        with selectors.DefaultSelector() as selector:
            selector.register(self.process.stdout, selectors.EVENT_READ)
            if not selector.select(limit_s):
                raise TimeoutError(f"no reply within {limit_s} s")
        line = self.process.stdout.readline()  # a reply is written as a whole
        return json.loads(line) if line else None


def _drawn(items: SimpleQueue[_T]) -> Iterator[_T]:
    """What is left in a queue, which several threads may draw from."""
    with suppress(Empty):
        while True:
            yield items.get_nowait()


def _processors() -> int:
    """Processors that this process may use."""
    return len(os.sched_getaffinity(0))
