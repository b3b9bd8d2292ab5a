"""Checkpoints: a folder that is complete or absent, holds all a run needs to continue, and loads as a model.

``step-000020/`` is a Hugging Face folder (config, weights, tokenizer) plus ``optimizer.safetensors`` and
``state.json``. It is written beside its place and renamed, so a reader sees all of it or nothing; sizes and
hashes in ``state.json`` catch what a file system lost after the rename. Nothing is pickled.

With ``trainable=lora`` the weights are those of base and adapters together, for whoever reads the model, and
``adapter/`` holds the adapters alone, in peft's format, with a hash of the base model's weights. Training
goes on from these adapters and from the base model, which is not stored again: merged weights are rounded,
and no adapter can be got back from them. The optimiser has a state for the trained parameters only.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import socket
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from tokensweep.loss.slots import Memory
from tokensweep.models.policy import Policy

SCHEMA = 1  # raise when a field of state.json changes its meaning

_STATE = "state.json"
_OPTIMIZER = "optimizer.safetensors"
_PREFIX = "step-"
_PATIENCE_S = 120.0  # NFS clients remember for up to 60 s that a file was not there


@dataclass(frozen=True, kw_only=True)
class Progress:
    """Where a run stands between two optimiser batches."""

    step: int = 0  # finished optimiser batches
    position: int = 0  # problems drawn so far
    updates: int = 0  # optimiser steps made
    generated_tokens: int = 0  # completion tokens sampled so far
    memories: Mapping[str, Memory] = field(default_factory=dict)  # of the method's components


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """A complete checkpoint on disk."""

    folder: Path
    progress: Progress
    threads: int  # torch threads that computed it, on each rank
    ranks: int
    torch_version: str


def save_checkpoint(
    root: Path,
    *,
    policy: Policy,
    optimizer: torch.optim.Optimizer,
    progress: Progress,
    owner: str,
    keep: int,
    ranks: int = 1,
) -> Path:
    """Write ``step-<n>`` under ``root``, then drop all but the newest ``keep``. Gives back its folder.

    ``owner`` identifies the run: another run refuses to continue from this checkpoint. A crash at any
    point leaves either no new checkpoint or a complete one.
    """
    root.mkdir(parents=True, exist_ok=True)
    folder = checkpoint_folder(root, step=progress.step)
    partial = root / f".{folder.name}.partial"
    partial.mkdir()
    policy.save(partial)
    save_file(_optimizer_tensors(policy, optimizer), partial / _OPTIMIZER)
    state = {
        "schema": SCHEMA,
        "owner": owner,
        "progress": asdict(progress),
        "threads": torch.get_num_threads(),
        "ranks": ranks,
        "torch": torch.__version__,
        "files": {path.relative_to(partial).as_posix(): _fingerprint(path) for path in _files(partial)},
    }
    (partial / _STATE).write_text(json.dumps(state, indent=1))
    for path in [*partial.rglob("*"), partial]:
        _fsync(path)
    if folder.exists():
        _remove(folder)  # one that was skipped as damaged
    partial.rename(folder)
    _fsync(root)
    for old in _folders(root)[:-keep]:
        _remove(old)
    return folder


def checkpoint_folder(root: Path, *, step: int) -> Path:
    """Where the checkpoint of a step is, if there is one."""
    return root / f"{_PREFIX}{step:06d}"


def clear_leftovers(root: Path) -> None:
    """Remove what a killed attempt left half written or half removed. Only for who holds the run's lock."""
    for path in root.glob(f".{_PREFIX}*"):
        shutil.rmtree(path)


def newest_checkpoint(root: Path, *, owner: str, note: Callable[[str], None]) -> Checkpoint | None:
    """The newest complete checkpoint under ``root``, or None.

    A damaged one is passed over and ``note`` is told why. Raises ValueError for a checkpoint of another
    run or of a newer tokensweep: to train from those would give numbers under a wrong name.
    """
    for folder in reversed(_folders(root)):
        damage = _damage(folder)
        if damage is None:
            return _open(folder, owner=owner)
        note(f"{folder} is skipped: {damage}; training goes on from an older state")
    return None


def await_checkpoint(folder: Path, *, owner: str, patience_s: float = _PATIENCE_S) -> Checkpoint:
    """A checkpoint that another machine sees complete, once it is so here: shared file systems take a while.

    Raises ValueError when it is not after ``patience_s``, and as :func:`newest_checkpoint`.
    """
    deadline = time.monotonic() + patience_s
    while (damage := _damage(folder)) is not None:
        if time.monotonic() > deadline:
            raise ValueError(
                f"{folder} must be the same for all ranks of a run, but {socket.gethostname()} saw for "
                f"{patience_s:g} s that {damage}: put the store on a file system that all nodes share"
            )
        time.sleep(0.5)
    return _open(folder, owner=owner)


def load_optimizer(folder: Path, *, policy: Policy, optimizer: torch.optim.Optimizer) -> None:
    """Put the stored optimiser state back. Raises ValueError when a parameter has none."""
    index_of = {name: index for index, name in enumerate(_trained_names(policy))}
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in load_file(folder / _OPTIMIZER).items():
        name, _, field = key.rpartition("|")
        state.setdefault(index_of[name], {})[field] = value
    if state and len(state) < len(index_of):  # empty: no optimiser step has been made yet
        raise ValueError(
            f"{folder / _OPTIMIZER} must have a state for all parameters of its run: it is of another model"
        )
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})


def _optimizer_tensors(policy: Policy, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    names = _trained_names(policy)
    state = optimizer.state_dict()["state"]
    return {
        f"{names[index]}|{key}": value.contiguous()
        for index, entry in state.items()
        for key, value in entry.items()
    }


def _trained_names(policy: Policy) -> list[str]:
    return list(policy.trained)


def _open(folder: Path, *, owner: str) -> Checkpoint:
    state = json.loads((folder / _STATE).read_text())
    if state["schema"] > SCHEMA:
        raise ValueError(
            f"{folder} has schema {state['schema']}, this tokensweep reads up to {SCHEMA}: "
            "continue with the newer one"
        )
    if state["owner"] != owner:
        raise ValueError(
            f"{folder} belongs to another run ({state['owner'][:12]}, this one is {owner[:12]}): "
            "move it away to start over"
        )
    return Checkpoint(
        folder=folder,
        progress=Progress(**state["progress"]),
        threads=state["threads"],
        ranks=state.get("ranks", 1),  # checkpoints of schema 1 began without it, when there was one
        torch_version=state["torch"],
    )


def _damage(folder: Path) -> str | None:
    """What is wrong with the files of a checkpoint, None when they are as written."""
    try:
        files = json.loads((folder / _STATE).read_text())["files"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        return f"its {_STATE} is unreadable ({error})"
    for name, expected in files.items():
        if not (folder / name).is_file():
            return f"{name} is missing"
        if _fingerprint(folder / name) != expected:
            return f"{name} is not what was written"
    return None


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def _fingerprint(path: Path) -> str:
    with path.open("rb") as file:
        return f"{path.stat().st_size}:{hashlib.file_digest(file, 'sha256').hexdigest()}"


def _folders(root: Path) -> list[Path]:
    return sorted(root.glob(f"{_PREFIX}*"), key=lambda folder: folder.name)


def _remove(folder: Path) -> None:
    """Delete a checkpoint so that a crash cannot leave a part of it under its name."""
    doomed = folder.with_name(f".{folder.name}.removed")
    folder.rename(doomed)
    shutil.rmtree(doomed)


def _fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
