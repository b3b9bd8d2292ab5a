"""Mixed-CUTS, "Too correct to learn": a part of each group is drawn uniformly from the likely tokens.

Source: Liang, Zhou et al., arXiv:2604.18493 (``paper`` below), read in two detailed notes and in a third
party's re-implementation; no official code found. CUTS itself is :class:`tokensweep.rollout.rules.Cuts`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from tokensweep.loss.slots import Sampling
from tokensweep.loss.tables import RULED, View, sum_by
from tokensweep.registry import component
from tokensweep.rollout.rules import Cuts

if TYPE_CHECKING:
    from tokensweep.train.collect import Trial

_EQUAL = 1e-12  # variance of rewards that differ by rounding
_EXACT = 1e-5  # nats; float32 gives -log j of j equal logits to 1e-7


@component("method/sampling", "mixed_cuts")
@dataclass(frozen=True)
class MixedCuts(Sampling):
    """The last ``share`` of a group's rollouts is drawn by CUTS, the others as the run's ``sampling`` says.

    Reward, advantage and loss see one merged group. ``pi_old`` is the model's own probability, and nothing
    corrects for CUTS as the proposal. Its own numbers, per optimiser batch: ``plain_accuracy`` and
    ``cuts_accuracy``; ``rescued_groups``, the share of groups whose rewards are all equal in the plain part,
    but not in the whole; ``between_fraction``, the share of the groups' reward variance that lies between the
    two parts; ``survivors``, tokens that CUTS chose from after the warm-up; and ``looks_uniform``, the share
    of the chosen whose ``old_logprobs`` is ``-log j`` for a ``j`` from 2 to K: near 0, unless the engine's
    numbers are taken for the model's.
    Source: the paper: G = 16 = 8 + 8, K 5, delta 0.03, warm-up 5 tokens. Departure: the split is a share of
    the group, so that it goes with any group size.
    """

    share: float = 0.5  # G_cuts / G
    delta: float = 0.03
    top_k: int = 5  # K
    warm_up: int = 5  # T_warm, tokens

    def __post_init__(self) -> None:
        if not 0 <= self.share <= 1:
            raise ValueError(f"share must be in [0, 1], got {self.share:g}")
        self._cuts()

    def rule(self, sample: int, *, group_size: int) -> Cuts | None:
        """CUTS for the last rollouts of the group."""
        number = self.share * group_size
        if abs(number - round(number)) > 1e-9:
            raise ValueError(
                f"method.sampling.share must divide a group into whole rollouts, got {self.share:g} of "
                f"batch.group_size={group_size}"
            )
        return self._cuts() if sample >= group_size - round(number) else None

    def inert(self, *, updates_per_batch: int) -> dict[str, str]:
        """All about CUTS where no rollout is drawn by it."""
        if self.share > 0:
            return {}
        return dict.fromkeys(("delta", "top_k", "warm_up"), "method.sampling.share=0 draws nothing by CUTS")

    def facts(self, trial: Trial) -> Mapping[str, float]:
        """``survivors``: tokens that CUTS chose from, on average; 0 for a rollout without such a choice."""
        chosen = trial.rollout.sampler_logprobs[self.warm_up :] if trial.request.rules else ()
        return {"survivors": sum(math.exp(-value) for value in chosen) / len(chosen) if chosen else 0.0}

    def batch_metrics(self, whole: View) -> Mapping[str, float]:
        """What the class says; nothing where no rollout was drawn by CUTS."""
        if RULED not in whole.facts:
            return {}
        cuts = whole.facts[RULED] > 0  # [R]
        survivors = whole.facts["survivors"][whole.facts["survivors"] > 0]
        chosen = cuts[whole.rollout_of] & (whole.completion_position >= self.warm_up)  # [N]
        numbers = {"cuts_accuracy": whole.accuracy[cuts], "plain_accuracy": whole.accuracy[~cuts]}
        numbers |= {"survivors": survivors, "looks_uniform": self._looks_uniform(whole.logprobs[chosen])}
        found = {name: float(values.double().mean()) for name, values in numbers.items() if len(values)}
        return {**found, **_parts_of_variance(whole, cuts)}

    def _cuts(self) -> Cuts:
        return Cuts(delta=self.delta, top_k=self.top_k, warm_up=self.warm_up)

    def _looks_uniform(self, logprobs: Tensor) -> Tensor:
        """1 where a log-probability [n] is that of one of 2 to K equal tokens, [n]."""
        equal = torch.arange(2, self.top_k + 1, device=logprobs.device).log()
        return ((logprobs[:, None].double() + equal).abs() < _EXACT).any(-1).double()


def _parts_of_variance(whole: View, cuts: Tensor) -> dict[str, float]:
    """``between_fraction`` and ``rescued_groups``; the former only where rewards differ in some group.

    With n plain and m CUTS rollouts, the population variance of a group is the mean of the two parts',
    weighted by n and m, plus ``n m / (n + m)^2 (mean_plain - mean_cuts)^2``.
    """
    rewards, groups = whole.rewards.double(), int(whole.prompt_of.max()) + 1
    size, _, variance = _moments(rewards, whole.prompt_of, groups)
    one, mean_one, variance_one = _moments(rewards[~cuts], whole.prompt_of[~cuts], groups)
    other, mean_other, _ = _moments(rewards[cuts], whole.prompt_of[cuts], groups)
    between = one * other / size.clamp(min=1) ** 2 * (mean_one - mean_other) ** 2
    rescued = (one > 0) & (variance_one < _EQUAL) & (variance > _EQUAL)
    found = {"rescued_groups": float(rescued.double().mean())}
    return (
        {**found, "between_fraction": float(between.sum() / variance.sum())}
        if variance.sum() > _EQUAL
        else found
    )


def _moments(values: Tensor, group: Tensor, groups: int) -> tuple[Tensor, Tensor, Tensor]:
    """Number, mean and population variance of ``values`` [r] by group, each [groups]; of none 0."""
    number = sum_by(torch.ones_like(values), group, size=groups)
    mean = sum_by(values, group, size=groups) / number.clamp(min=1)
    variance = sum_by((values - mean[group]) ** 2, group, size=groups) / number.clamp(min=1)
    return number, mean, variance
