"""What to say when a run is out of memory: where, what was planned, what was found, and what to change."""

from __future__ import annotations

import resource
from pathlib import Path

import torch

from tokensweep.identity import read_json
from tokensweep.memory.device import GB, Device, this_machine
from tokensweep.memory.estimate import Work, peak, phases, work_of
from tokensweep.train.metrics import phase_of

_UNPLANNED = (ValueError, LookupError, MemoryError, RuntimeError, OSError)
_KIB = 1024  # bytes: the unit of ru_maxrss on Linux


def explain_shortage(error: BaseException, run_dir: Path, *, ranks: int) -> str:
    """A sentence on a shortage of memory in the run of a folder, which ends with the error's own words."""
    phase = phase_of(error)
    where = f"in the phase {phase}" if phase else "outside a step, while weights were loaded or evaluated"
    try:
        config = read_json(run_dir / "config.json")
        device = this_machine(config["compute"]["device"], ranks=ranks)
        told = _planned(work_of(config, device), device, phase)
    except _UNPLANNED as unknown:  # what went wrong first is what people must see
        told = f"not planned, as {unknown}"
    return f"out of memory {where}: {told}; found {_found()} GB in use at most. {error}"


def _planned(work: Work, device: Device, phase: str | None) -> str:
    """The planned figure of a phase, or of the largest, and the setting that lowers it."""
    most = next((each for each in phases(work) if each.name == phase), peak(work))
    return (
        f"planned {most.total / GB:.2f} GB of {device.memory_gb:.2f} for {most.name}; "
        f"{_setting(work, most.name)}"
    )


def _setting(work: Work, phase: str) -> str:
    """What to change."""
    if phase == "rollout" and work.drawing is not None and (setting := work.drawing.setting):
        return f"lower rollout.{setting}={getattr(work.engine, setting)}"
    if work.micro_tokens > work.completion:  # prompts may be shorter than planned
        return f"lower batch.micro_tokens={work.micro_tokens}"
    return (
        f"lower data.max_tokens={work.completion}, as a forward holds a whole rollout, or take another model "
        "(tokensweep plan train says what fits)"
    )


def _found() -> str:
    """The most that this process has had, on its GPU if it computes on one."""
    if torch.cuda.is_available() and torch.cuda.max_memory_allocated():  # not run on a GPU
        return f"{torch.cuda.max_memory_allocated() / GB:.2f}"
    return f"{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * _KIB / GB:.2f}"
