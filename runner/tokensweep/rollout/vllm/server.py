"""``python -m tokensweep.rollout.vllm.server``: vLLM's API server with tokensweep's plugin.

Takes the arguments of ``vllm serve`` (``--model`` for the folder). The ``vllm`` command itself does not start
with the CPU wheel, which is installed under another name than the one it looks itself up by.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys

from tokensweep.rollout.vllm.plugin import register

_PR_SET_PDEATHSIG = 1  # linux/prctl.h
PARENT = "TOKENSWEEP_PARENT"  # process that this server must not outlive


def main() -> None:
    """Serve until asked to stop; with ``TOKENSWEEP_PARENT`` no longer than that process lives."""
    if parent := os.environ.pop(PARENT, ""):
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != int(parent):
            sys.exit("the process that wanted this server is gone")
    register()
    from vllm.entrypoints.launchers.api_server.entry import main as serve

    serve()


if __name__ == "__main__":
    main()
