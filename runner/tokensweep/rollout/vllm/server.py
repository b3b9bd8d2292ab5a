"""``python -m tokensweep.rollout.vllm.server``: vLLM's API server with tokensweep's plugin.

Takes the arguments of ``vllm serve`` (``--model`` for the folder). The ``vllm`` command itself does not start
with the CPU wheel, which is installed under another name than the one it looks itself up by.
"""

from __future__ import annotations

import ctypes
import math
import os
import signal
import sys
import time
from contextlib import suppress
from pathlib import Path

from tokensweep.rollout.vllm.plugin import register

_PR_SET_PDEATHSIG = 1  # linux/prctl.h
PARENT = "TOKENSWEEP_PARENT"  # process that this server must not outlive
_POLL_S = 0.5
_GRACE_S = 20  # between asking a server to end and killing what is left of it


def main() -> None:
    """Serve until asked to stop; with ``TOKENSWEEP_PARENT`` no longer than that process lives."""
    if parent := os.environ.pop(PARENT, ""):
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != int(parent):
            sys.exit("the process that wanted this server is gone")
        _leave_nothing(int(parent))
    register()
    from vllm.entrypoints.launchers.api_server.entry import main as serve

    serve()


def _leave_nothing(owner: int) -> None:
    """Start a process that ends this one's group when this one or its owner is gone, however that ends.

    vLLM's engine does not notice when its API server is killed, and a server that is asked to end while it
    starts may go on. One whose owner is gone has ``_GRACE_S`` to end by itself.
    """
    server = os.getpid()
    if os.fork():
        return
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    deadline = math.inf
    with suppress(FileNotFoundError):  # the server is gone in this moment
        while os.getppid() == server and time.monotonic() < deadline:
            if _parent_of(server) != owner:
                deadline = min(deadline, time.monotonic() + _GRACE_S)
            time.sleep(_POLL_S)
    os.killpg(0, signal.SIGKILL)


def _parent_of(process: int) -> int:
    """From /proc, as kernels of older clusters have no pidfd_open."""
    return int(Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[1])


if __name__ == "__main__":
    main()
