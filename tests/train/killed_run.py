"""Trains a run again and again in child processes, each killed in another place, then continued.

``python killed_run.py CONFIG FOLDER`` leaves ``undisturbed`` and a run folder per place in FOLDER. The places
are patched in here; the product has no hooks. One process imports torch, the children are forks of it.
"""

from __future__ import annotations

import importlib
import json
import os
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import tokensweep.methods
import tokensweep.models
import tokensweep.problems
import tokensweep.rollout  # noqa: F401  the imports register components
from tokensweep.ledger import Attempt
from tokensweep.models.policy import Policy
from tokensweep.rollout.embedded import TorchEngine
from tokensweep.train import checkpoint, trainer, update

importlib.import_module("easy_task")  # registers data=test_even


def kill_on_call(owner: Any, name: str, count: int, *, after: bool = False) -> None:
    """Make the ``count``-th call of a function kill the process, before or after it did its work."""
    original: Callable[..., Any] = getattr(owner, name)
    calls = 0

    def patched(*args: Any, **kwargs: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls < count:
            return original(*args, **kwargs)
        if after:
            original(*args, **kwargs)
        return os.kill(os.getpid(), signal.SIGKILL)

    setattr(owner, name, patched)


# Four steps, a checkpoint after steps 2 and 4; each step samples once and runs several micro-batches.
PLACES: dict[str, Callable[[], None]] = {
    "in_a_rollout": lambda: kill_on_call(TorchEngine, "generate", 3),
    "between_micro_batches": lambda: kill_on_call(update, "micro_loss", 11),
    "before_a_checkpoint": lambda: kill_on_call(trainer, "save_checkpoint", 1),
    "inside_a_checkpoint": lambda: kill_on_call(checkpoint, "save_file", 1, after=True),
    "before_the_rename": lambda: kill_on_call(Path, "rename", 2),
    "after_the_rename": lambda: kill_on_call(Path, "rename", 1, after=True),
    "while_an_old_checkpoint_goes": lambda: kill_on_call(shutil, "rmtree", 1),
    "after_a_metrics_row": lambda: kill_on_call(Attempt, "metrics", 3, after=True),
    "after_the_last_step": lambda: kill_on_call(trainer, "save_checkpoint", 2, after=True),
    "as_the_policy_loads": lambda: kill_on_call(Policy, "__init__", 1),
}


def train(config: dict[str, Any], run_dir: Path, *, place: Callable[[], None] | None) -> int:
    """Train in a fork; gives back the signal that ended it, 0 for none. Raises RuntimeError if it failed."""
    child = os.fork()
    if child == 0:
        if place is not None:
            place()
        with Attempt.open(run_dir) as attempt:
            trainer.run_training(config, run_dir, attempt, cache=run_dir.parent / "models")
        os._exit(0)
    _, status = os.waitpid(child, 0)
    if os.WIFEXITED(status) and os.WEXITSTATUS(status):
        raise RuntimeError(f"{run_dir.name} ended with exit code {os.WEXITSTATUS(status)}")
    return os.WTERMSIG(status)


def main(config: dict[str, Any], folder: Path) -> None:
    """Run all places."""
    train(config, folder / "undisturbed", place=None)
    for name, place in PLACES.items():
        if train(config, folder / name, place=place) != signal.SIGKILL:
            raise RuntimeError(f"the run ended without coming to the place {name}")
        train(config, folder / name, place=None)


if __name__ == "__main__":
    main(json.loads(Path(sys.argv[1]).read_text()), Path(sys.argv[2]))
