"""Many runs at once: the caller's process loads them from one end, a few others from the other end.

Not threads: the time goes into small pieces of Python, for which they would wait for each other.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from pathlib import Path

from tokensweep_analysis.runs import Run, count_majorities, load_run

WORTH_HELP = 100  # runs; a process takes 0.8 s to import what it needs, a run of 5 x 1,920 samples 10 ms
_MOST_PROCESSES = 4  # of 0.2 GB each
_CHUNK = 8  # runs that a process is asked for at once


def load_runs(
    run_dirs: Iterable[Path], *, progress: Callable[[int, int], None] | None = None
) -> dict[str, Run]:
    """Runs by the names of their folders, each as :func:`tokensweep_analysis.runs.load_run` gives it.

    The maj@k that their evaluations ask for are computed, for all of them together. From ``WORTH_HELP`` runs
    on, other processes help; as with every use of :mod:`multiprocessing`, a script that calls this needs the
    guard ``if __name__ == "__main__"``. ``progress`` hears (runs loaded, runs in total) every few runs.
    """
    folders = list(dict.fromkeys(run_dirs))
    runs: list[Run] = []
    for some in _loaded([folders[start : start + _CHUNK] for start in range(0, len(folders), _CHUNK)]):
        runs += some
        if progress is not None:
            progress(len(runs), len(folders))
    count_majorities([each for run in runs for each in run.scored.values()])
    return {folder.name: run for folder, run in zip(folders, runs, strict=True)}


def _loaded(chunks: Sequence[Sequence[Path]]) -> Iterator[list[Run]]:
    """The runs of every chunk, in order."""
    others = min(len(os.sched_getaffinity(0)), _MOST_PROCESSES) - 1
    if others == 0 or len(chunks) * _CHUNK < WORTH_HELP:
        yield from map(_load, chunks)
        return
    with ProcessPoolExecutor(others, mp_context=get_context("spawn")) as pool:
        futures = [pool.submit(_load, chunk) for chunk in reversed(chunks)]
        for chunk, future in zip(chunks, reversed(futures), strict=True):
            yield _load(chunk) if future.cancel() else _answer(future, chunk)


def _answer(future: Future[list[Run]], chunk: Sequence[Path]) -> list[Run]:
    """What another process loaded, or, when it died, the same loaded here."""
    try:
        return future.result()
    except BrokenProcessPool:
        return _load(chunk)


def _load(chunk: Sequence[Path]) -> list[Run]:
    return [load_run(folder) for folder in chunk]
