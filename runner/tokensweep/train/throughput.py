"""How fast a step was: tokens per second of its phases, and how much of the GPUs its update used."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Protocol

import torch

from tokensweep.models.policy import Policy
from tokensweep.train.ranks import Ranks

_RATES = {  # the tokens of a rate, and the phase that they went through
    "throughput/generate_tokens_per_s": ("tokens/generated", "time/generate_s"),
    "throughput/score_tokens_per_s": ("tokens/trained", "time/old_pass_s"),
    "throughput/update_tokens_per_s": ("tokens/updated", "time/update_s"),
}

# Matrix products of one GPU per second without sparsity: NVIDIA's data sheets; bfloat16 as in torchtitan's
# tools/utils.py. float32 is without TF32, which torch leaves off.
_PEAK_FLOPS = (
    (r"\bA100\b", {torch.bfloat16: 312e12, torch.float32: 19.5e12}),
    (r"\bH100 NVL\b", {torch.bfloat16: 835e12, torch.float32: 60e12}),
    (r"\bH100 PCIe\b", {torch.bfloat16: 756e12, torch.float32: 51e12}),
    (r"\bH200 NVL\b", {torch.bfloat16: 835e12, torch.float32: 60e12}),
    (r"\b(H100|H200|GH200)\b", {torch.bfloat16: 989e12, torch.float32: 67e12}),
    (r"\bB200\b", {torch.bfloat16: 2.25e15}),
    (r"\bL40S\b", {torch.bfloat16: 362e12}),
)


class _Parameter(Protocol):
    """What counts of a parameter."""

    requires_grad: bool

    def numel(self) -> int: ...


def throughput(
    values: Mapping[str, float],
    seconds: Mapping[str, float],
    *,
    policy: Policy,
    dtype: torch.dtype,
    ranks: Ranks,
) -> dict[str, float]:
    """The rates ``throughput/...`` of a step with these metrics and phases; without tokens there is none.

    ``values`` count the tokens of all ranks, ``seconds`` are this rank's: every rank calls this. A rate is
    the tokens of all over the seconds of the slowest. On a GPU (not run on a GPU) there is also::

        mfu = flops_per_token * tokens/updated / (update_s * peak FLOPs of a GPU * ranks)

    It counts completion tokens of rollouts that carry a gradient and nothing else: prompts, attention scores,
    the old-policy pass and whatever is computed again would raise it. Left out where the peak is not known.
    """
    slowest: dict[str, float] = {}
    for told in ranks.gather(dict(seconds)):
        for name, value in told.items():
            slowest[name] = max(value, slowest.get(name, 0.0))
    rates = {
        rate: values[tokens] / slowest[phase]
        for rate, (tokens, phase) in _RATES.items()
        if values.get(tokens) and slowest.get(phase)
    }
    updated, peak = rates.get("throughput/update_tokens_per_s"), _peak_flops(policy.device, dtype)
    if updated and peak:
        work = flops_per_token(policy.model.parameters())
        rates["throughput/mfu"] = work * updated / (peak * ranks.size)
    return rates


def flops_per_token(parameters: Iterable[_Parameter]) -> float:
    """Matrix products of an update for one token: 6 per trained parameter, 4 per frozen one.

    Forward 2, gradient of the activations 2, gradient of the weight 2; a tied embedding counts once, as head.
    Source: Kaplan et al., arXiv:2001.08361: ``C = 6 N`` per token. Departure: frozen parameters.
    """
    return float(sum((6 if each.requires_grad else 4) * each.numel() for each in parameters))


def peak_flops(name: str, dtype: torch.dtype) -> float | None:
    """What a GPU of this name can do per second in matrix products of ``dtype``; None: not known.

    A part of a GPU (MIG) is not known either: its name says how much memory it has.
    """
    if "MIG" in name:
        return None
    found = next((peaks for pattern, peaks in _PEAK_FLOPS if re.search(pattern, name)), {})
    return found.get(dtype)


def _peak_flops(device: torch.device, dtype: torch.dtype) -> float | None:
    """Of the GPU that a rank computes on; None on a CPU. Not run on a GPU."""
    return peak_flops(torch.cuda.get_device_name(device), dtype) if device.type == "cuda" else None
