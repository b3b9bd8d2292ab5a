"""Many runs at once: the caller's process and a few helpers of its own load them together.

``python -m tokensweep_analysis.loading`` is a helper: it reads pickled lists of folders from its standard
input and answers each with the pickled list of their runs. Not ``multiprocessing``, whose children first
import the caller's main script: one without a guard would start itself again. Not threads either: the time
goes into small pieces of Python, for which they wait for each other.
"""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from tokensweep_analysis.runs import Run, count_majorities, load_run

WORTH_HELP = 100  # runs; a helper takes 0.8 s to import what it needs, a run of 5 x 1,920 samples 10 ms
_MOST_PROCESSES = 4  # of 0.2 GB each
_CHUNK = 8  # runs that a helper is asked for at once
_COMMAND = (sys.executable, "-P", "-m", "tokensweep_analysis.loading")


def load_runs(
    run_dirs: Iterable[Path], *, progress: Callable[[int, int], None] | None = None
) -> dict[str, Run]:
    """Runs by the names of their folders, each as :func:`tokensweep_analysis.runs.load_run` gives it.

    The maj@k that their evaluations ask for are computed, for all of them together. From ``WORTH_HELP`` runs
    on, other processes help. ``progress`` hears (runs loaded, runs in total) every few runs, in the caller's
    thread.
    """
    folders = list(dict.fromkeys(run_dirs))
    processes = min(len(os.sched_getaffinity(0)), _MOST_PROCESSES) if len(folders) >= WORTH_HELP else 1
    runs = _Work(folders).done(helpers=processes - 1, progress=progress)
    count_majorities([each for run in runs.values() for each in run.scored.values()])
    return {folder.name: runs[folder] for folder in folders}


class _Work:
    """Folders to load, taken in chunks by this process and by helpers."""

    def __init__(self, folders: Sequence[Path]) -> None:
        self._chunks = deque(folders[start : start + _CHUNK] for start in range(0, len(folders), _CHUNK))
        self._folders = folders
        self._runs: dict[Path, Run] = {}

    def done(self, *, helpers: int, progress: Callable[[int, int], None] | None) -> dict[Path, Run]:
        """Do all of it. What a helper that died had taken is loaded here."""
        processes = [_start() for _ in range(helpers)]
        threads = [threading.Thread(target=self._ask, args=(process,)) for process in processes]
        try:
            for thread in threads:
                thread.start()
            self._load(progress)
            for thread in threads:
                thread.join()
        finally:
            for process in processes:
                process.kill()
                process.communicate()  # its streams are closed with it
        self._chunks.extend([folder] for folder in self._folders if folder not in self._runs)
        self._load(progress)
        return self._runs

    def _load(self, progress: Callable[[int, int], None] | None) -> None:
        while (chunk := self._next()) is not None:
            self._runs.update({folder: load_run(folder) for folder in chunk})
            if progress is not None:
                progress(len(self._runs), len(self._folders))
        if progress is not None:
            progress(len(self._runs), len(self._folders))

    def _ask(self, process: subprocess.Popen[bytes]) -> None:
        """Have a helper load chunk after chunk, until nothing is left or it is gone."""
        assert process.stdin is not None
        assert process.stdout is not None
        while (chunk := self._next()) is not None:
            try:
                pickle.dump(chunk, process.stdin)
                process.stdin.flush()
                runs = pickle.load(process.stdout)
            except (OSError, EOFError, pickle.UnpicklingError):
                return  # it is gone
            self._runs.update(zip(chunk, runs, strict=True))

    def _next(self) -> Sequence[Path] | None:
        try:
            return self._chunks.popleft()
        except IndexError:
            return None


def _start() -> subprocess.Popen[bytes]:
    paths = os.pathsep.join(path or str(Path.cwd()) for path in sys.path)
    return subprocess.Popen(
        _COMMAND,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": paths},
    )


def help_out() -> None:
    """Answer requests until the standard input ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the caller hears it, too, and ends this process
    with os.fdopen(os.dup(1), "wb") as replies:
        os.dup2(2, 1)  # whatever prints does not get between
        while True:
            try:
                chunk = pickle.load(sys.stdin.buffer)
            except EOFError:
                return
            pickle.dump([load_run(folder) for folder in chunk], replies, pickle.HIGHEST_PROTOCOL)
            replies.flush()


if __name__ == "__main__":
    help_out()
