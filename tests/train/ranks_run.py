"""Trains runs by one rank and by several, each rank a fork of this process, and breaks some of them.

``python ranks_run.py CONFIGS FOLDER``: CONFIGS is a JSON file of name -> config. Leaves ``one/NAME`` and
``two/NAME`` for each, ``broken/WHAT`` with what every rank said, and ``outcomes.json``. What is broken is
patched in here; the product has no hooks.
"""

from __future__ import annotations

import importlib
import json
import os
import signal
import socket
import sys
import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch

import tokensweep.methods
import tokensweep.models
import tokensweep.problems
import tokensweep.rollout  # noqa: F401  the imports register components
from tokensweep.ledger import Attempt
from tokensweep.rollout.embedded import TorchEngine
from tokensweep.train import trainer, update
from tokensweep.train.ranks import Place, joined
from tokensweep.train.update import NonFiniteError

importlib.import_module("easy_task")  # registers data=test_even

_PATIENCE_S = 60.0  # for a run that must end


def on_call(owner: Any, name: str, count: int, act: Callable[[], None], *, after: bool = False) -> None:
    """Make the ``count``-th call of a function act before, or after, it does its work."""
    original: Callable[..., Any] = getattr(owner, name)
    calls = 0

    def patched(*args: Any, **kwargs: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == count and not after:
            act()
        result = original(*args, **kwargs)
        if calls == count and after:
            act()
        return result

    setattr(owner, name, patched)


def kill() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def stop() -> None:
    os.kill(os.getpid(), signal.SIGSTOP)


def no_number() -> None:
    raise NonFiniteError("the loss is nan")


def disk_full() -> None:
    raise OSError(28, "No space left on device")


def spoil() -> None:
    """Make the optimiser of this rank add a little more to the weights than that of the others."""
    original = torch.optim.AdamW.step

    def step(self: torch.optim.AdamW, closure: Any = None) -> Any:
        original(self, closure)
        with torch.no_grad():
            self.param_groups[0]["params"][-1].mul_(1.0000002)

    torch.optim.AdamW.step = step  # type: ignore[assignment, method-assign]


# The rank that breaks, and how; in the third of four steps, with checkpoints after the second and the fourth.
BREAKS: dict[str, tuple[int, Callable[[], None]]] = {
    "killed": (1, lambda: on_call(TorchEngine, "generate", 3, kill)),
    "leader_killed": (0, lambda: on_call(TorchEngine, "generate", 3, kill)),
    "silent": (1, lambda: on_call(TorchEngine, "generate", 3, stop)),
    "not_finite": (1, lambda: on_call(update, "micro_loss", 7, no_number)),
    "disk_full": (0, lambda: on_call(trainer, "save_checkpoint", 2, disk_full)),
    "different": (1, spoil),
}


def train(
    config: dict[str, Any],
    run_dir: Path,
    *,
    size: int,
    broken: tuple[int, Callable[[], None]] | None = None,
    answer_s: float = _PATIENCE_S,
) -> list[int]:
    """Train in ``size`` forks; gives back how each ended: 0, 1 for an error, minus the signal otherwise."""
    run_dir.mkdir(parents=True, exist_ok=True)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = str(free.getsockname()[1])
    pids = []
    for rank in range(size):
        pid = os.fork()
        if pid == 0:
            environ = {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(size)}
            environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
            if broken is not None and broken[0] == rank:
                broken[1]()
            os._exit(_rank(config, run_dir, environ, answer_s=answer_s))
        pids.append(pid)
    return _ends(pids)


def _rank(config: dict[str, Any], run_dir: Path, environ: dict[str, str], *, answer_s: float) -> int:
    """Train as one rank; leaves an error it ended with in ``rank-<n>.json``."""
    try:
        with (
            joined(Place.of(environ), name=run_dir.name, join_s=_PATIENCE_S, answer_s=answer_s) as ranks,
            Attempt.open(run_dir) if ranks.leads else nullcontext() as attempt,
        ):
            trainer.run_training(config, run_dir, attempt, cache=run_dir.parents[1] / "models", ranks=ranks)
    except Exception as error:  # noqa: BLE001  whatever it is, it is told
        told = {"class": type(error).__name__, "text": str(error), "number": getattr(error, "errno", None)}
        (run_dir / f"rank-{environ['RANK']}.json").write_text(json.dumps(told))
        return 1
    return 0


def _ends(pids: list[int]) -> list[int]:
    """How each process ended; what still lives, or is stopped, when patience is over is killed."""
    ends: dict[int, int] = {}
    deadline = time.monotonic() + _PATIENCE_S
    while len(ends) < len(pids):
        others_failed = any(ends.values())
        for pid in set(pids) - set(ends):
            ended, status = os.waitpid(pid, os.WNOHANG | os.WUNTRACED)
            if ended and os.WIFSTOPPED(status):
                continue
            if ended:
                ends[pid] = os.waitstatus_to_exitcode(status)
            elif time.monotonic() > deadline or (others_failed and _stopped(pid)):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.02)
    return [ends[pid] for pid in pids]


def _stopped(pid: int) -> bool:
    return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] == "T"


def main(configs: dict[str, dict[str, Any]], folder: Path) -> None:
    """Run everything."""
    outcomes: dict[str, list[int]] = {}
    for name, config in configs.items():
        outcomes[f"one/{name}"] = train(config, folder / "one" / name, size=1)
        outcomes[f"two/{name}"] = train(config, folder / "two" / name, size=2)
    config = next(iter(configs.values()))
    for what, broken in BREAKS.items():
        answer_s = 3.0 if what == "silent" else _PATIENCE_S
        run_dir = folder / "broken" / what
        outcomes[f"broken/{what}"] = train(config, run_dir, size=2, broken=broken, answer_s=answer_s)
    outcomes["continued"] = train(config, folder / "broken" / "killed", size=2)
    outcomes["three"] = train(config, folder / "broken" / "leader_killed", size=3)
    (folder / "outcomes.json").write_text(json.dumps(outcomes))


if __name__ == "__main__":
    main(json.loads(Path(sys.argv[1]).read_text()), Path(sys.argv[2]))
