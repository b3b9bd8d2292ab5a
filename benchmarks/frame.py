"""What all benchmarks share: cases, variants, and how CPU seconds and peak memory are taken.

Every variant of a case does the same work in a process of its own, again in each round, in turns with the
others: a busy moment of the machine then falls on all of them. What counts is CPU seconds, because wall time
on a shared machine measures the neighbours; what is compared is medians within one case.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

_KIBIBYTES_PER_MB = 1e6 / 1024


@dataclass(frozen=True, kw_only=True)
class Goal:
    """What a variant has to reach. ``ratio`` is to the baseline: at most for costs, at least for rates."""

    ratio: float | None = None
    peak_mb: float | None = None  # at most
    wall_s: float | None = None  # at most: a promise to somebody who waits, so for a machine that is not busy


@dataclass(frozen=True, kw_only=True)
class Case:
    """One piece of work and the ways to do it; ratios are to ``baseline``, which is one of ``variants``."""

    name: str
    variants: tuple[str, ...]
    baseline: str
    options: Mapping[str, Any]  # handed to every variant as keyword arguments
    rounds: int = 3
    goals: Mapping[str, Goal] = field(default_factory=dict)  # by variant

    def __post_init__(self) -> None:
        if unknown := {self.baseline, *self.goals} - set(self.variants):
            raise ValueError(f"{self.name}: {', '.join(sorted(unknown))} must be among {self.variants}")


@dataclass(frozen=True, kw_only=True)
class Measured:
    """One round of one variant."""

    cpu_s: float  # of the process and its threads, for one unit of work
    wall_s: float  # the same on the wall clock: moved by whatever else runs on the machine
    peak_mb: float  # resident memory at its highest, above what was held before the work
    amount: float = 1.0  # what was produced, for benchmarks that report a rate


@dataclass(frozen=True, kw_only=True)
class Benchmark:
    """A question with its cases. ``measure(variant, **options)`` sets up, works and measures."""

    title: str
    unit: str  # what cpu_s is of
    note: str  # what the variants are, in Markdown
    cases: tuple[Case, ...]
    small: tuple[Case, ...]  # the same in seconds, to prove that it works
    measure: Callable[..., Measured]
    rate: str = ""  # what `amount` counts; then the table shows it per CPU second and more is better


def measured(work: Callable[[], object], *, amount: float = 1.0) -> Measured:
    """Cost of ``work()``, called once. Linux only: the peak is the kernel's own high-water mark."""
    Path("/proc/self/clear_refs").write_text("5")  # brings the high-water mark down to what is resident
    held = _status_mb("VmRSS")
    start, began = time.process_time(), time.perf_counter()
    work()
    cpu_s, wall_s = time.process_time() - start, time.perf_counter() - began
    return Measured(cpu_s=cpu_s, wall_s=wall_s, peak_mb=_status_mb("VmHWM") - held, amount=amount)


def _status_mb(name: str) -> float:
    for line in Path("/proc/self/status").read_text().splitlines():
        key, _, value = line.partition(":")
        if key == name:
            return int(value.split()[0]) / _KIBIBYTES_PER_MB
    raise AssertionError(f"/proc/self/status has no {name}")
