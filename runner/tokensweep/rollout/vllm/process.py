"""A vLLM server of our own: started from a model's folder, watched, and ended with this process."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from tokensweep.redact import redact
from tokensweep.rollout.vllm.client import ServerClient
from tokensweep.rollout.vllm.errors import EngineError, EngineMemoryError
from tokensweep.rollout.vllm.server import PARENT

_POLL_S = 0.25
_END_S = 20.0  # from asking the server to end to killing it
_TAIL = 5  # lines of the log in an error
_ADVICE = (
    " There is too little memory for the rollout engine: lower rollout.max_model_len or max_num_seqs, or "
    "change rollout.kv_cache_gb (on a GPU: rollout.gpu_memory_utilization)."
)
_REASON = re.compile(r" ERROR .*?\] (\w*(?:Error|Exception): .*)")  # the first error that vLLM logs
_RANK_KEYS = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
_MEMORY_WORDS = ("out of memory", "vailable memory", "KV cache", "kv cache", "OutOfMemory")


class ServerProcess:
    """One server and its log. ``stop`` ends it; it also ends by itself when this process does."""

    def __init__(self, arguments: Sequence[str], *, environment: Mapping[str, str], log: Path) -> None:
        self._log = log
        with log.open("ab") as output:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tokensweep.rollout.vllm.server", *arguments],
                env=_environment(environment),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # its own workers are ended with it
            )

    @property
    def pid(self) -> int:
        """Its process id, also that of its process group."""
        return self._process.pid

    def await_healthy(self, client: ServerClient, *, patience_s: float) -> None:
        """Return once the server answers. Raises EngineError with the end of its log when it does not."""
        deadline = time.monotonic() + patience_s
        while not client.healthy():
            if (code := self._process.poll()) is not None:
                told = self.explained()
                kind = EngineMemoryError if _ADVICE in told else EngineError
                raise kind(f"vLLM did not start, it ended with code {code}.{told}")
            if time.monotonic() > deadline:
                self.stop()
                raise EngineError(
                    f"vLLM did not start within {patience_s:g} s: raise rollout.start_s if the model is "
                    f"large.{self.explained()}"
                )
            time.sleep(_POLL_S)

    def explained(self) -> str:
        """The reason that its log names first, its last lines, and what to do where that is known."""
        lines = self._log.read_text(errors="replace").splitlines()
        reason = next((match[1] for line in lines if (match := _REASON.search(line))), "")
        told = redact("\n".join(filter(None, [reason, *lines[-_TAIL:]])))
        hint = _ADVICE if any(word in told for word in _MEMORY_WORDS) else ""
        return f"{hint} From its log:\n{told}" if told else hint

    def stop(self) -> None:
        """End the server and everything it started; does nothing when it is gone."""
        if self._process.poll() is None:
            self._process.terminate()
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(_END_S)
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()


def _environment(own: Mapping[str, str]) -> dict[str, str]:
    """This process's environment, without what makes it a rank of a training run."""
    kept = {key: value for key, value in os.environ.items() if key not in _RANK_KEYS}
    source = str(Path(__file__).parents[3])
    path = os.pathsep.join(
        dict.fromkeys([source, *filter(None, kept.get("PYTHONPATH", "").split(os.pathsep))])
    )
    fixed = {
        PARENT: str(os.getpid()),
        "PYTHONPATH": path,
        "VLLM_SERVER_DEV_MODE": "1",  # the calls for weight updates and sleep; the socket is ours alone
        "VLLM_NO_USAGE_STATS": "1",
        "DO_NOT_TRACK": "1",
        "HF_HUB_OFFLINE": "1",  # the model is on disk
    }
    return {**kept, **fixed, **own}
