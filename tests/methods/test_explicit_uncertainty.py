"""Explicit uncertainty, arXiv:2604.05306, and RLCR: the properties of their cards, with numbers by hand."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from tokensweep.loss.laws import example_trials, loss_and_gradient, near_old, told_batch
from tokensweep.loss.method import Method
from tokensweep.loss.objective import prepare, score
from tokensweep.loss.tables import Batch, pack
from tokensweep.methods.explicit_uncertainty import (
    ConfidenceReward,
    Missing,
    RLCRBrier,
    SignedConfidence,
    UncertainMarker,
)
from tokensweep.methods.grpo import GroupNormalisedAdvantage
from tokensweep.problems import Grade, Outcome

GRID = torch.linspace(0, 1, 101, dtype=torch.float64)


def batch_with(correct: Sequence[float], **facts: Sequence[float]) -> Batch:
    batch = pack(
        [[1]] * len(correct),
        completions=[[2]] * len(correct),
        prompt_of=[0] * len(correct),
        accuracy=correct,
        truncated=[False] * len(correct),
        max_tokens=1,
    )
    told = {name: torch.tensor(fact, dtype=torch.float64) for name, fact in facts.items()}
    return replace(batch, accuracy=batch.accuracy.double(), facts=told)


def rewards(part: ConfidenceReward, confidence: Tensor, correct: float) -> Tensor:
    """Of stated confidences [n] that were all right, or all wrong."""
    stated = {"confidence": confidence.tolist(), "confidence_stated": [1.0] * len(confidence)}
    return part(batch_with([correct] * len(confidence), **stated))


def best(part: ConfidenceReward, chance: float) -> float:
    """The confidence on a grid with the largest mean reward, where that is the chance to be right."""
    mean = chance * rewards(part, GRID, 1) + (1 - chance) * rewards(part, GRID, 0)
    return float(GRID[mean.argmax()])


def test_the_signed_reward_is_the_confidence_with_the_sign_of_the_grade() -> None:
    right, wrong = rewards(SignedConfidence(), GRID, 1), rewards(SignedConfidence(), GRID, 0)
    assert torch.equal(right, GRID)
    assert torch.equal(right, -wrong)
    assert right.abs().max() == 1
    assert right[0] == wrong[0] == 0


@pytest.mark.parametrize("chance", [0.05, 0.3, 0.49, 0.51, 0.7, 0.95])
def test_the_signed_reward_is_no_proper_scoring_rule_and_that_of_rlcr_is_one(chance: float) -> None:
    # p (2q - 1) is a line in p: its best end is 0 or 1; q - q (1 - p)^2 - (1 - q) p^2 has its top at p = q
    assert best(SignedConfidence(), chance) == float(chance > 0.5)
    assert best(RLCRBrier(), chance) == pytest.approx(chance)


def test_rlcr_takes_the_brier_score_off_the_grade() -> None:
    # c = 1: 1 - (p - 1)^2; c = 0: -p^2
    assert rewards(RLCRBrier(), torch.tensor([0.0, 0.5, 1.0]), 1).tolist() == [0, 0.75, 1]
    assert rewards(RLCRBrier(), torch.tensor([0.0, 0.5, 1.0]), 0).tolist() == [0, -0.25, -1]


def test_a_missing_confidence_is_worth_what_is_configured() -> None:
    # right and wrong answers without one (so p = 1), a wrong one with 0.5, and neither answer nor confidence
    batch = batch_with([1, 0, 0, 0], confidence=[1, 1, 0.5, 0], confidence_stated=[0, 0, 1, 0])
    assert SignedConfidence()(batch).tolist() == [1, -1, -0.5, 0]
    assert SignedConfidence(missing=Missing.lenient)(batch).tolist() == [0, 0, -0.5, 0]
    assert RLCRBrier()(batch).tolist() == [1, -1, -0.25, 0]
    assert RLCRBrier(missing=Missing.lenient)(batch).tolist() == [0, 0, -0.25, 0]


def test_facts_read_the_text_and_whether_there_is_an_answer() -> None:
    trial = example_trials()[0]
    nothing = Grade(outcome=Outcome.no_answer, extracted=None, rule="none")
    read = SignedConfidence().facts
    assert read(replace(trial, text="7. Confidence: 30 %")) == {"confidence": 0.3, "confidence_stated": 1}
    assert read(replace(trial, text="7")) == {"confidence": 1, "confidence_stated": 0}
    assert read(replace(trial, text="?", grade=nothing)) == {"confidence": 0, "confidence_stated": 0}
    assert UncertainMarker().facts(replace(trial, text="<uncertain> 7 <uncertain>")) == {"markers": 2}


def test_the_marker_has_the_papers_four_rewards() -> None:
    batch = batch_with([1, 1, 0, 0, 1, 0], markers=[0, 1, 1, 0, 3, 3])
    assert UncertainMarker()(batch).tolist() == [5, 3.5, 0, -2, 3.5, 0]
    # more than two markers cost a quarter once, however many there are
    assert UncertainMarker(repetition_penalty=0.25)(batch).tolist() == [5, 3.5, 0, -2, 3.25, -0.25]


@pytest.mark.parametrize("sevenths", [1, 3.9, 4.1, 6])
def test_marking_pays_below_four_sevenths(sevenths: float) -> None:
    # marked 3.5 q, plain 5 q - 2 (1 - q): marking gains 2 (1 - q) - 1.5 q, above 0 for q < 2 / 3.5
    right_marked, right, wrong_marked, wrong = UncertainMarker()(
        batch_with([1, 1, 0, 0], markers=[1, 0, 1, 0])
    ).tolist()
    q = sevenths / 7
    gain = q * (right_marked - right) + (1 - q) * (wrong_marked - wrong)
    assert gain == pytest.approx(2 * (1 - q) - 1.5 * q)
    assert (gain > 0) is (sevenths < 4)


def test_a_tilted_policy_moves_odds_at_least_as_the_theory_says() -> None:
    # Three right answers with p >= 0.6 and three wrong ones with p >= 0.3; one of each never occurs. One
    # ideal step is pi exp(eta r) / Z: the odds of right grow by at least exp(eta (0.6 + 0.3)).
    confidence, correct = [0.6, 0.8, 0.9, 0.3, 0.5, 1.0], [1.0, 1, 1, 0, 0, 0]
    batch = batch_with(correct, confidence=confidence, confidence_stated=[1.0] * 6)
    policy = torch.tensor([0.1, 0.2, 0.0, 0.4, 0.3, 0.0], dtype=torch.float64)
    tilted = policy * torch.exp(2 * SignedConfidence()(batch))
    tilted = tilted / tilted.sum()
    assert float(tilted.sum()) == pytest.approx(1)
    assert tilted[[2, 5]].tolist() == [0, 0]
    odds = [float(pi[:3].sum() / pi[3:].sum()) for pi in (policy, tilted)]
    assert odds[1] / odds[0] >= torch.tensor(2 * 0.9).exp()


@pytest.mark.parametrize("preset", ["explicit_uncertainty_verbal", "explicit_uncertainty_token", "rlcr"])
def test_a_preset_is_grpo_with_another_reward(preset: str, method_of: Callable[..., Method]) -> None:
    method, grpo = method_of(f"method={preset}"), method_of("method=grpo")
    assert replace(method, name="grpo", reward_terms=grpo.reward_terms) == grpo
    batch = told_batch(method)
    (own,) = [term for name, term in method.reward_terms.items() if name != "verifier"]
    assert torch.equal(score(method, batch), own(batch))


def test_who_is_sure_of_everything_gets_the_gradient_of_grpo(method_of: Callable[..., Method]) -> None:
    # p = 1 everywhere: rewards ±1 instead of 1 and 0, the same once they are normalised (without eps)
    exact = GroupNormalisedAdvantage(eps=0)
    verbal = replace(method_of("method=explicit_uncertainty_verbal"), advantage=exact)
    grpo = replace(method_of("method=grpo"), advantage=exact)
    batch = told_batch(verbal)
    sure = {name: torch.ones_like(fact) for name, fact in batch.facts.items()}
    batch = replace(batch, facts=sure)
    now = near_old(batch)
    results = []
    for method in (verbal, grpo):
        prepared = prepare(method, replace(batch, rewards=score(method, batch)))
        results.append(loss_and_gradient(method, prepared, now)[1])
    torch.testing.assert_close(*results)


def test_it_tells_how_sure_rollouts_are_and_what_that_knows_of_the_grade(
    method_of: Callable[..., Method],
) -> None:
    # right with 0.8 and 0.4, wrong with 0.6 and with no word (1): mean 0.7 against an accuracy of 0.5;
    # Brier (0.04 + 0.36 + 0.36 + 1) / 4
    batch = batch_with([1, 1, 0, 0], confidence=[0.8, 0.4, 0.6, 1], confidence_stated=[1, 1, 1, 0])
    method = method_of("method=explicit_uncertainty_verbal")
    batch = batch.with_columns(old_logprobs=torch.zeros(4, dtype=torch.float64))
    told = prepare(method, replace(batch, rewards=score(method, batch))).measured
    assert told == pytest.approx(
        {
            "reward_terms.confidence/stated_fraction": 0.75,
            "reward_terms.confidence/confidence": 0.7,
            "reward_terms.confidence/gap": 0.2,
            "reward_terms.confidence/brier": 0.44,
            "reward_terms.confidence/on_right": 0.6,
            "reward_terms.confidence/on_wrong": 0.8,
        }
    )


def test_it_tells_which_answers_are_marked(method_of: Callable[..., Method]) -> None:
    # two right, one of them marked; four wrong, three of them marked, one with three markers
    batch = batch_with([1, 1, 0, 0, 0, 0], markers=[0, 1, 1, 1, 3, 0])
    method = method_of("method=explicit_uncertainty_token")
    batch = batch.with_columns(old_logprobs=torch.zeros(6, dtype=torch.float64))
    told = prepare(method, replace(batch, rewards=score(method, batch))).measured
    assert told == pytest.approx(
        {
            "reward_terms.marker/marked_fraction": 4 / 6,
            "reward_terms.marker/silent_error_fraction": 1 / 6,
            "reward_terms.marker/marked_right_fraction": 1 / 2,
            "reward_terms.marker/marked_wrong_fraction": 3 / 4,
            "reward_terms.marker/repeated_fraction": 1 / 6,
        }
    )


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"right_marked": 6.0}, "rewards must fall from right"),
        ({"wrong": 0.0}, "rewards must fall from right"),
        ({"repetition_penalty": -1.0}, "repetition_penalty must be at least 0"),
        ({"most_markers": 0}, "most_markers at least 1"),
    ],
)
def test_marker_rewards_that_make_no_sense_are_refused(fields: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        UncertainMarker(**fields)  # type: ignore[arg-type]  # mixed types
