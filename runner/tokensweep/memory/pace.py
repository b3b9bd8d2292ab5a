"""Time of a step from first principles: matrix products at a share of the peak, decoding by memory bandwidth.

An estimate with wide bounds, not a measurement: nothing here was run on a GPU. Left out are the exchange of
gradients between ranks, grading, checkpoints, groups that dynamic sampling throws away and draws again, and
drawing by an engine that does not say how it draws.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from tokensweep.loss.outcomes import Outcomes
from tokensweep.memory.device import Device
from tokensweep.memory.estimate import Work
from tokensweep.rollout.needs import Drawing

MFU = (0.5, 0.2)  # share of the peak that matrix products reach, well and badly; our range
BANDWIDTH = (0.8, 0.4)  # share of the memory's bandwidth while decoding; our range


@dataclass(frozen=True, kw_only=True)
class Pace:
    """Seconds of a step by phase, at the good and at the bad end."""

    seconds: Mapping[str, tuple[float, float]]
    mean_tokens: float  # of a completion, assumed

    @property
    def step_s(self) -> tuple[float, float]:
        """Of a whole step."""
        good, bad = (sum(each[i] for each in self.seconds.values()) for i in (0, 1))
        return good, bad


def pace_of(work: Work, device: Device, *, mean_tokens: float) -> Pace | None:
    """The time of a step; None where the device's figures are not known, or are not those of the run.

    In float32 a GPU does not reach the figure of its data sheet for bfloat16, so there is no estimate.
    """
    if device.tflops is None or device.bandwidth_gb_s is None or work.dtype == torch.float32:
        return None
    forward = _forward_flops(work, mean_tokens) / device.ranks / (device.tflops * 1e12)
    passes = {
        "old_pass": 2.0 if work.method.needs() & {"ref_logprobs", "ref_entropy"} else 1.0,
        "update": (4.0 if work.recomputes else 3.0) + ("ref_divergence" in work.method.needs()),
    }
    if work.method.needs_after():
        passes["probe"] = 1.0
    seconds = {
        name: (number * forward / MFU[0], number * forward / MFU[1]) for name, number in passes.items()
    }
    if (drawing := work.drawing) is not None:
        drawn = _decoding_bytes(work, drawing, mean_tokens) / (device.bandwidth_gb_s * 1e9)
        seconds = {"rollout": (drawn / BANDWIDTH[0], drawn / BANDWIDTH[1]), **seconds}
    return Pace(seconds=seconds, mean_tokens=mean_tokens)


def _forward_flops(work: Work, mean_tokens: float) -> float:
    """Of one forward over all rollouts of a step: two per weight and token, and attention."""
    numbers = work.parameters
    length = work.prompt + mean_tokens
    attention = numbers.layers * 2 * numbers.width * length  # scores and sums over half of the length
    body = 2 * numbers.products + attention
    return work.rollouts * (length * body + mean_tokens * 2 * numbers.head)


def _decoding_bytes(work: Work, how: Drawing, mean_tokens: float) -> float:
    """What one rank reads while it draws its part: all weights for every token, and the cache so far."""
    if how.rows == 0:
        return 0.0
    start = Outcomes(num_prompts=work.prompts, group_size=work.group_size)
    sampled = max(sum(work.method.allocation.wanted(start)), work.rollouts)
    waves = max(1.0, sampled / work.ranks / how.rows)
    weights = (work.parameters.products + work.parameters.head) * how.weight_bytes
    cache = how.rows * (work.prompt + mean_tokens / 2) * work.kept.cache_per_token
    return waves * mean_tokens * (weights + cache)
