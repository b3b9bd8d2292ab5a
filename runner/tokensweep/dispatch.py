"""Runs the missing runs of a plan as worker processes of this machine, a few at a time.

A worker gets nothing but the path of a run folder. What happened is read from the run's own ledger, never
from the worker's exit: this process may die at any time, and the same command takes up where it was.
(submitit's local executor is not used here: it hides the GPUs from its jobs and puts a time limit on them.)
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections import deque
from pathlib import Path

from tokensweep.ledger import read_run
from tokensweep.plan import Plan, PlannedRun, is_complete
from tokensweep.progress import Board
from tokensweep.worker import start_worker

_POLL_S = 0.3
_STOP_GRACE_S = 10.0  # between SIGTERM and SIGKILL


def dispatch_local(plan: Plan, *, board: Board) -> list[str]:
    """Run everything that is missing and wait for it; returns the ids of runs that failed.

    A run that fails does not stop the others. A run that another process is working on is waited for.
    On Ctrl-C the workers of this call are stopped; the same command continues them.
    """
    waiting = deque(plan.missing())
    width = plan.workers or os.cpu_count() or 1
    working: dict[str, _Worker] = {}
    board.start(total=len(plan.runs), done=len(plan.runs) - len(waiting))
    try:
        while waiting or working:
            while waiting and len(working) < width:
                run = waiting.popleft()
                working[run.run_id] = worker = _Worker(run, plan.store)
                if worker.of_others:
                    board.waits(worker.folder)
            for run_id in [key for key, worker in working.items() if worker.ended()]:
                board.ended(working.pop(run_id).folder)
            board.show([worker.folder for worker in working.values()])
            time.sleep(_POLL_S)
    except KeyboardInterrupt:
        for worker in working.values():
            worker.stop()
        raise
    finally:
        board.stop()
    return [run.run_id for run in plan.runs if not is_complete(run.dir(plan.store), run.evals)]


class _Worker:
    """One run that is being worked on, by a process of ours or by somebody else's."""

    def __init__(self, run: PlannedRun, store: Path) -> None:
        self.folder = run.dir(store)
        alive = read_run(self.folder).status == "running"
        self._process = None if alive else start_worker(self.folder, threads=run.config["compute"]["threads"])

    @property
    def of_others(self) -> bool:
        """Whether it is somebody else's process."""
        return self._process is None

    def ended(self) -> bool:
        if self._process is not None:
            return self._process.poll() is not None
        return read_run(self.folder).status != "running"

    def stop(self) -> None:
        if self._process is None:
            return
        self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(_STOP_GRACE_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
