"""Rewards for completions that say how sure they are: a confidence in numbers, or a marker.

Sources: Guo et al., "LLMs Should Express Uncertainty Explicitly", arXiv:2604.05306 v1 (``paper`` below; no
code was found), and RLCR, arXiv:2507.16806. What a completion says is read by
:mod:`tokensweep.verifier.uncertainty`; ``prompt=verbal_confidence``, ``uncertain_marker`` and
``stated_uncertainty`` ask a model to say it. Each reward is the whole reward of its paper, so the presets
give the verifier's own term the weight 0.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from tokensweep.loss.slots import RewardTerm
from tokensweep.loss.tables import Batch, View
from tokensweep.registry import component
from tokensweep.verifier import count_markers, stated_confidence

if TYPE_CHECKING:
    from tokensweep.train.collect import Trial


class Missing(StrEnum):
    """What becomes of a completion that states no confidence."""

    strict = "strict"  # its confidence is 1 if it gives an answer, else 0
    lenient = "lenient"  # its reward is 0, right or wrong


@dataclass(frozen=True)
class ConfidenceReward(RewardTerm):
    """A reward from the grade c and the stated confidence p of a rollout, [R].

    Facts: ``confidence`` with ``missing=strict`` filled in, and ``confidence_stated`` as 0 or 1. Neither says
    what a completion without an answer and a confidence is worth; here it was sure of nothing, p = 0.
    """

    weight: float = 1.0
    missing: Missing = Missing.strict

    @abstractmethod
    def reward(self, confidence: Tensor, correct: Tensor) -> Tensor:
        """What p and c are worth, elementwise."""
        ...

    def facts(self, trial: Trial) -> Mapping[str, float]:
        """The stated confidence, or what stands for it."""
        stated = stated_confidence(trial.text)
        silent = float(trial.grade.extracted is not None)
        confidence = silent if stated is None else stated
        return {"confidence": confidence, "confidence_stated": float(stated is not None)}

    def __call__(self, batch: Batch) -> Tensor:
        correct = batch.accuracy
        confidence, stated = (
            batch.facts[name].to(correct.dtype) for name in ("confidence", "confidence_stated")
        )
        reward = self.reward(confidence, correct)
        return torch.where(stated > 0, reward, 0.0) if self.missing is Missing.lenient else reward

    def batch_metrics(self, whole: View) -> Mapping[str, float]:
        """How sure rollouts are, by how much too sure, and what their confidence knows of the grade.

        ``gap`` is mean confidence minus accuracy; ``on_right`` and ``on_wrong`` are mean confidences of right
        and of wrong rollouts, 0 where there are none.
        """
        confidence, correct = (x.double() for x in (whole.facts["confidence"], whole.accuracy))
        return {
            "stated_fraction": float(whole.facts["confidence_stated"].double().mean()),
            "confidence": float(confidence.mean()),
            "gap": float((confidence - correct).mean()),
            "brier": float(((confidence - correct) ** 2).mean()),
            "on_right": _mean(confidence, correct),
            "on_wrong": _mean(confidence, 1 - correct),
        }


@component("method/reward_terms", "signed_confidence")
@dataclass(frozen=True)
class SignedConfidence(ConfidenceReward):
    """``+p`` where the answer is right and ``-p`` where it is not, [R].

    No proper scoring rule: with the chance q to be right its mean is ``p (2q - 1)``, largest at p = 1 for
    q > 1/2 and at p = 0 below.
    Source: the paper, the verbal reward. Departure: ``missing`` is not described there.
    """

    def reward(self, confidence: Tensor, correct: Tensor) -> Tensor:
        """``p (2c - 1)``."""
        return confidence * (2 * correct - 1)


@component("method/reward_terms", "rlcr_brier")
@dataclass(frozen=True)
class RLCRBrier(ConfidenceReward):
    """The grade minus the Brier score of the confidence, ``c - (p - c)^2``, [R].

    Its mean ``q - q (1 - p)^2 - (1 - q) p^2`` is largest at p = q.
    Source: arXiv:2507.16806, the reward. Departure: ``missing`` as for the signed reward, so that both can be
    compared.
    """

    def reward(self, confidence: Tensor, correct: Tensor) -> Tensor:
        """``c - (p - c)^2``."""
        return correct - (confidence - correct) ** 2


@component("method/reward_terms", "uncertain_marker")
@dataclass(frozen=True)
class UncertainMarker(RewardTerm):
    """What an answer with or without the marker ``<uncertain>`` is worth, [R]; the fact is ``markers``.

    To mark is better than not to exactly where the chance to be right is below
    ``(wrong_marked - wrong) / (wrong_marked - wrong + right - right_marked)``, with the defaults 4/7.
    Source: the paper, the token reward. Departure: the paper takes something off where the marker stands more
    than twice and its size was not found in the text, so ``repetition_penalty`` is 0 unless it is set.
    Raises ValueError unless ``right > right_marked > wrong_marked > wrong`` and the penalty is at least 0.
    """

    weight: float = 1.0
    right: float = 5.0
    right_marked: float = 3.5
    wrong_marked: float = 0.0
    wrong: float = -2.0
    repetition_penalty: float = 0.0  # taken off once, where there are more markers than most_markers
    most_markers: int = 2

    def __post_init__(self) -> None:
        rewards = (self.right, self.right_marked, self.wrong_marked, self.wrong)
        if sorted(set(rewards), reverse=True) != list(rewards):
            raise ValueError(
                "rewards must fall from right over right_marked and wrong_marked to wrong, got "
                f"{', '.join(f'{reward:g}' for reward in rewards)}"
            )
        if self.repetition_penalty < 0 or self.most_markers < 1:
            raise ValueError(
                "repetition_penalty must be at least 0 and most_markers at least 1, got "
                f"{self.repetition_penalty:g} and {self.most_markers}"
            )

    def facts(self, trial: Trial) -> Mapping[str, float]:
        """How many markers it has."""
        return {"markers": float(count_markers(trial.text))}

    def __call__(self, batch: Batch) -> Tensor:
        correct, markers = batch.accuracy, batch.facts["markers"].to(batch.accuracy.dtype)
        marked = self.wrong_marked + correct * (self.right_marked - self.wrong_marked)
        plain = self.wrong + correct * (self.right - self.wrong)
        repeated = torch.where(markers > self.most_markers, self.repetition_penalty, 0.0)
        return torch.where(markers > 0, marked, plain) - repeated

    def batch_metrics(self, whole: View) -> Mapping[str, float]:
        """Shares of all rollouts: marked, and wrong without a marker; and the marked share of each grade."""
        marked, correct = (whole.facts["markers"] > 0).double(), whole.accuracy.double()
        return {
            "marked_fraction": float(marked.mean()),
            "silent_error_fraction": float(((1 - correct) * (1 - marked)).mean()),
            "marked_right_fraction": _mean(marked, correct),
            "marked_wrong_fraction": _mean(marked, 1 - correct),
            "repeated_fraction": float((whole.facts["markers"] > self.most_markers).double().mean()),
        }

    def inert(self, *, updates_per_batch: int) -> dict[str, str]:
        """The bound, as long as nothing is taken off beyond it."""
        if self.repetition_penalty:
            return {}
        return {"most_markers": "nothing is taken off beyond it; set repetition_penalty above 0"}


def _mean(x: Tensor, weights: Tensor) -> float:
    """Weighted mean; 0 where all weights are."""
    return float((x * weights).sum() / weights.sum().clamp(min=1))
