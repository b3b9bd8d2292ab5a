"""``tokensweep plan train``: memory and time of the runs of a command line, before anything is written."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from rich.console import Console
from rich.table import Table

from tokensweep.compose import Freezer, Frozen
from tokensweep.memory.device import GB, Device, device_of
from tokensweep.memory.estimate import Phase, Work, peak, phases, work_of
from tokensweep.memory.fit import Change, fits, largest_micro_tokens, smallest_changes
from tokensweep.memory.pace import MFU, Pace, pace_of
from tokensweep.plan import freeze_job
from tokensweep.registry import KIND
from tokensweep.sweepfile import Job

_SHOWN_FROM = 0.005  # GB: smaller parts are left out where all of them are, as they show as 0.00


@dataclass(frozen=True)
class _Planned:
    """A run on its devices."""

    job: Job
    frozen: Frozen
    device: Device
    work: Work


def plan_memory(jobs: Sequence[Job], *, words: Mapping[str, float], console: Console) -> None:
    """Print what the run of ``jobs`` that takes most of a device takes, and how long its steps take.

    ``words`` describe devices by hand, see memory.device. Leaves with exit code 1 where it does not fit.
    Raises ValueError as composing does, for a site without figures and, where devices are described, for a
    model of unknown sizes; elsewhere that is said, as the run itself may be planned.
    """
    freezer = Freezer()
    frozen = [freeze_job(job, freezer) for job in jobs]
    try:
        planned = [_planned(*pair, words) for pair in zip(jobs, frozen, strict=True)]
    except ValueError as error:
        if words or frozen[0]["site"]:
            raise
        console.print(f"no plan of memory: {error}", style="yellow", highlight=False, markup=False)
        return
    largest = max(planned, key=lambda each: peak(each.work).total / each.device.memory_gb)
    if len(jobs) > 1:
        console.print(
            f"memory and time of the largest of {len(jobs)} runs: {' '.join(largest.job.overrides)}"
        )
    _show(largest, words, console)
    if not fits(largest.frozen, largest.device):
        _refuse(largest, console)
        raise SystemExit(1)
    _say_room(largest, console)


def _planned(job: Job, frozen: Frozen, words: Mapping[str, float]) -> _Planned:
    device = device_of(frozen, words)
    return _Planned(job, frozen, device, work_of(frozen, device))


def _show(planned: _Planned, words: Mapping[str, float], console: Console) -> None:
    work, device = planned.work, planned.device
    numbers = work.parameters
    kinds = ", ".join(f"{kind} {_count(count)}" for kind, count in numbers.kinds.items())
    model = planned.frozen["model"].get("path") or planned.frozen["model"]["_component_"]
    console.print(f"{model}: {_count(numbers.total)} parameters ({kinds})", highlight=False)
    console.print(f"{_devices(device)}; every one holds the whole model and its optimiser", highlight=False)
    mean = words.get("mean_tokens", work.completion)
    if mean > work.completion:
        raise ValueError(
            f"mean_tokens must be at most sampling.max_tokens={work.completion}, the longest completion, got "
            f"{mean:g}"
        )
    pace = pace_of(work, device, mean_tokens=mean)
    console.print(_table(phases(work), pace))
    for remark in _remarks(planned):
        console.print(remark, style="yellow", highlight=False)
    console.print(_time(planned, pace), highlight=False)


def _count(number: int) -> str:
    """Such as ``8.19 billion``."""
    for size, unit in ((1e9, " billion"), (1e6, " million"), (1e3, " thousand")):
        if number >= size:
            return f"{number / size:.3g}{unit}"
    return str(number)


def _devices(device: Device) -> str:
    """Such as ``8 x GPU with 80 GB``."""
    number = f"{device.ranks} x " if device.ranks > 1 else ""
    alone = ", for one run at a time" if device.on_cpu else ""
    return f"{number}{device.name} with {device.memory_gb:.4g} GB (GB: 10^9 bytes){alone}"


def _table(found: Sequence[Phase], pace: Pace | None) -> Table:
    """Parts by phase in GB, their sum, and the seconds of a phase."""
    table = Table(box=None, pad_edge=False, title="GB on each device", title_justify="left")
    table.add_column("")
    for phase in found:
        table.add_column(phase.name, justify="right")
    for part in dict.fromkeys(name for phase in found for name in phase.parts):
        sizes = [phase.parts.get(part, 0.0) / GB for phase in found]
        if max(sizes) >= _SHOWN_FROM:
            table.add_row(part, *(f"{size:.2f}" if size else "" for size in sizes))
    most = max(found, key=lambda phase: phase.total)
    totals = [f"{phase.total / GB:.2f}" for phase in found]
    table.add_row(
        "sum",
        *(f"[bold]{text}[/]" if phase is most else text for phase, text in zip(found, totals, strict=True)),
        style="bold" if len(found) == 1 else None,
    )
    if pace is not None:
        spans = [pace.seconds.get(phase.name) for phase in found]
        table.add_row("time", *("" if span is None else _span(span) for span in spans))
    return table


def _remarks(planned: _Planned) -> list[str]:
    """What a reader must know of the figures."""
    work, found = planned.work, []
    if not (planned.frozen.get("prompt") or {}).get("max_tokens"):
        found.append(f"prompts are taken as {work.prompt} tokens long; prompt.max_tokens=N says otherwise")
    if work.drawing is None:
        found.append(
            f"{planned.frozen['rollout'][KIND]} does not say what it needs of memory: what drawing takes, "
            "and how long, is in none of these figures"
        )
    if work.micro_tokens < work.sequence:
        found.append(
            f"a forward holds a whole rollout, here up to {work.sequence:,} tokens, whatever "
            f"batch.micro_tokens={work.micro_tokens} says"
        )
    if work.sequence > work.parameters.positions:
        found.append(
            f"a rollout of {work.sequence:,} tokens is longer than the {work.parameters.positions:,} "
            "positions that the model was made for: lower data.max_tokens or prompt.max_tokens"
        )
    return found


def _time(planned: _Planned, pace: Pace | None) -> str:
    """A sentence on the time of a step and of the run."""
    if pace is None:
        if planned.device.on_cpu:
            return "no estimate of time for a CPU: run a step of scale=smoke"
        if planned.frozen["compute"]["dtype"] == "float32":
            return "no estimate of time in float32: data sheets give a GPU's speed in bfloat16"
        return "no estimate of time without gpu_tflops and gpu_bandwidth_gb_s, of the site or given here"
    steps, ranks = planned.frozen["steps"], planned.device.ranks
    hours = [steps * seconds * ranks / 3600 for seconds in pace.step_s]
    price = planned.device.hour_price
    cost = (
        ""
        if price is None
        else f", {hours[0] * price:,.0f} to {hours[1] * price:,.0f} {planned.device.currency}"
    )
    return (
        f"estimate, not measured: a step takes {_span(pace.step_s)}, {steps} steps {hours[0]:,.0f} to "
        f"{hours[1]:,.0f} GPU-hours{cost}; products at {MFU[0]:.0%} to {MFU[1]:.0%} of the peak, completions "
        f"of {pace.mean_tokens:,.0f} tokens (mean_tokens=N), no group drawn twice; exchange and grading left "
        "out"
    )


def _span(seconds: tuple[float, float]) -> str:
    """Such as ``12-31 s`` or ``1.2-3.1 h``."""
    for unit, size in (("h", 3600.0), ("min", 60.0)):
        if seconds[0] >= 2 * size:
            return f"{seconds[0] / size:.0f}-{seconds[1] / size:.0f} {unit}"
    return f"{seconds[0]:.2g}-{seconds[1]:.2g} s"


def _refuse(planned: _Planned, console: Console) -> None:
    """Say by how much it is too large, of what most is, and the smallest changes that help."""
    device, most = planned.device, peak(planned.work)
    told = [
        f"does not fit: {most.name} takes {most.total / GB:.1f} GB of each device, which has "
        f"{device.memory_gb:.4g}."
    ]
    if not device.on_cpu:
        told.append("More GPUs do not help, as every one holds the whole model.")
    changes = smallest_changes(planned.frozen, device)
    if changes:
        same_model = " with this model" if len(changes) > 1 else ""  # then the first is another model
        told.append(_change(changes[-1], device, which=f"The smallest change that fits{same_model}"))
        told += [_change(change, device, which="A smaller model that fits") for change in changes[:-1]]
    else:
        told.append("No three changes of settings make it fit: take a smaller model or larger devices.")
    console.print(" ".join(told), style="red", highlight=False, markup=False)


def _change(change: Change, device: Device, *, which: str) -> str:
    """A sentence on a change that fits."""
    now = peak(work_of(change.frozen, device))
    return f"{which}: {' '.join(change.overrides)} ({now.name} then takes {now.total / GB:.1f} GB)."


def _say_room(planned: _Planned, console: Console) -> None:
    """Say that it fits, and how large a micro-batch could be."""
    device, most = planned.device, peak(planned.work)
    micro = largest_micro_tokens(planned.frozen, device)
    room = "" if micro is None else f"; batch.micro_tokens up to {micro} fits"
    alone = ", without what drawing takes" if planned.work.drawing is None else ""
    console.print(
        f"fits{alone}: {most.name} takes {most.total / GB:.3g} of {device.memory_gb:.4g} GB{room}",
        highlight=False,
    )
