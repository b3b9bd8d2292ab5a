"""A worker process: ``python -m tokensweep.verifier.worker``, started by :mod:`tokensweep.verifier.pool`.

It imports SymPy once and then forks for every pair. The fork compares and ends, so a pair finds the same
state whatever was compared before it, and what it breaks or fills with memory is gone with it. Requests and
replies are JSON lines on the standard streams.
"""

from __future__ import annotations

import gc
import json
import logging
import os
import resource
import signal
import sys
import warnings
from collections.abc import Callable
from typing import Any

MEMORY_LIMIT = 2 << 30  # bytes of address space, of which Python with SymPy takes 0.1 GB

_WARM_UP = (  # makes SymPy load what it loads late
    (r"\frac{1+\sqrt{7}}{2}", r"\frac{\sqrt{7}}{2}+\frac12"),
    (r"(1,\infty)", "x>1"),
    ("(x+1)^2", "x^2+2x+1"),
)
_TIMEOUT, _MEMORY = "timeout", "memory"


def serve() -> None:
    """Answer requests until the standard input ends.

    A request is ``[operation, gold, answer, seconds]``, its reply ``[verdict, reason]``. The first line says
    ``"ready"``.
    """
    # The caller ends this process. A cluster signals every process of a job: a comparison that died of it
    # would be a wrong reward, and the run another one.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR2):
        signal.signal(number, signal.SIG_IGN)
    replies = os.fdopen(os.dup(1), "w")
    silence = os.open(os.devnull, os.O_WRONLY)
    os.dup2(silence, 1)  # the parser prints
    operations = _load()
    print(json.dumps("ready"), file=replies, flush=True)
    os.dup2(silence, 2)  # after start-up nothing that is said there is of use
    for line in sys.stdin:
        operation, gold, answer, seconds = json.loads(line)
        reply = in_fork(operations[operation], gold, answer, seconds=seconds)
        print(json.dumps(reply), file=replies, flush=True)


def _load() -> dict[str, Callable[[str, str], bool]]:
    """The operations, warm and within the memory limit."""
    from tokensweep.verifier import compare

    logging.disable(logging.CRITICAL)
    warnings.simplefilter("ignore")
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_LIMIT, MEMORY_LIMIT))
    for gold, answer in _WARM_UP:
        compare.equal(gold, answer)
    gc.collect()
    gc.freeze()
    return {"equal": compare.equal, "understood": lambda gold, _: compare.understood(gold)}


def in_fork(
    operation: Callable[[str, str], bool], gold: str, answer: str, *, seconds: float
) -> tuple[bool | None, str]:
    """Verdict and reason of one operation, at most ``seconds`` of processor time."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reading)
        _compute(operation, gold, answer, seconds=seconds, pipe=writing)
    os.close(writing)
    with os.fdopen(reading, "rb") as stream:
        result = stream.read()
    _, status = os.waitpid(child, 0)
    if result:
        verdict: Any = json.loads(result)
        return verdict[0], verdict[1]
    if os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGPROF:
        return None, _TIMEOUT
    ending = f"signal {os.WTERMSIG(status)}" if os.WIFSIGNALED(status) else f"exit {os.WEXITSTATUS(status)}"
    return None, f"crashed: {ending}"


def _compute(
    operation: Callable[[str, str], bool], gold: str, answer: str, *, seconds: float, pipe: int
) -> None:
    """The life of a fork: the kernel ends it with SIGPROF once it has used its processor time."""
    status = 1
    try:
        signal.signal(signal.SIGPROF, signal.SIG_DFL)
        signal.setitimer(signal.ITIMER_PROF, seconds)
        verdict: tuple[bool | None, str] = (operation(gold, answer), "")
        if not verdict[0] and _peak() > MEMORY_LIMIT // 2:
            verdict = None, _MEMORY  # math-verify takes a MemoryError for "not equal"
        os.write(pipe, json.dumps(verdict).encode())
        status = 0
    except MemoryError:
        os.write(pipe, json.dumps((None, _MEMORY)).encode())
    except Exception as error:  # noqa: BLE001  # reported to the caller, whatever it is
        os.write(pipe, json.dumps((None, f"crashed: {type(error).__name__}")).encode())
    finally:
        os._exit(status)


def _peak() -> int:
    """The largest address space that this process has had, in bytes."""
    with open("/proc/self/status") as status:  # noqa: PTH123  # plain and quick
        line = next(line for line in status if line.startswith("VmPeak"))
    return int(line.split()[1]) << 10


if __name__ == "__main__":
    serve()
