"""Distributions and draws, worked out by hand."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from scipy.stats import chisquare
from torch import Tensor

from tokensweep.rollout import Request, SamplingSpec
from tokensweep.rollout.protocol import uniforms
from tokensweep.rollout.sampling import draw, sampler_logprobs


def logits(*probabilities: float) -> Tensor:
    return torch.tensor([probabilities]).log()


def distribution(table: Tensor, **fields: float) -> list[float]:
    spec = SamplingSpec(max_tokens=1, **fields)  # type: ignore[arg-type]  # ints and floats mixed
    row: list[float] = sampler_logprobs(table, spec).exp()[0].tolist()
    return row


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, [0.1, 0.4, 0.2, 0.3]),
        ({"top_k": 2}, [0, 4 / 7, 0, 3 / 7]),
        ({"top_k": 9}, [0.1, 0.4, 0.2, 0.3]),
        ({"top_p": 0.65}, [0, 4 / 7, 0, 3 / 7]),  # 0.4 is not enough, 0.4 + 0.3 is
        ({"top_p": 0.75}, [0, 4 / 9, 2 / 9, 3 / 9]),  # 0.7 is not enough
        ({"top_p": 1e-6}, [0, 1, 0, 0]),  # the most likely token always stays
        ({"top_k": 3, "top_p": 0.75}, [0, 4 / 7, 0, 3 / 7]),  # of the top 3's 0.9, 0.4 + 0.3 is 0.78
        ({"temperature": 0.5}, [1 / 30, 16 / 30, 4 / 30, 9 / 30]),  # squares of 1, 4, 2, 3
        # Squared first: 16/30 + 9/30 = 0.83 reaches 0.8, which 0.4 + 0.3 would not.
        ({"temperature": 0.5, "top_p": 0.8}, [0, 16 / 25, 0, 9 / 25]),
        ({"temperature": 0.0, "top_k": 1}, [0.1, 0.4, 0.2, 0.3]),  # greedy reports the model's own
    ],
)
def test_temperature_top_k_and_top_p_give_the_renormalised_distribution(
    fields: dict[str, float], expected: list[float]
) -> None:
    assert distribution(logits(0.1, 0.4, 0.2, 0.3), **fields) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize(("uniform", "token"), [(0.0, 1), (0.24, 1), (0.26, 3), (1 - 1e-16, 3)])
def test_a_draw_is_where_the_cumulative_probability_passes_the_uniform(uniform: float, token: int) -> None:
    # Cumulative 0, 0.25, 0.25, 1, 1: tokens 0, 2 and 4 are impossible at either edge.
    table = torch.tensor([[0.0, 0.25, 0.0, 0.75, 0.0]]).log()
    assert draw(table, torch.tensor([uniform], dtype=torch.float64)).tolist() == [token]


def test_draws_from_request_streams_have_the_right_frequencies() -> None:
    probabilities = [0.05, 0.15, 0.3, 0.5]
    count = 4000
    stream = torch.tensor([uniforms(seed, 1)[0] for seed in range(count)])
    drawn = draw(logits(*probabilities).expand(count, 4), stream)
    observed = torch.bincount(drawn, minlength=4).tolist()
    assert chisquare(observed, [count * p for p in probabilities]).pvalue > 0.01


def test_a_longer_stream_begins_with_the_shorter_one() -> None:
    assert uniforms(7, 3).tolist() == uniforms(7, 10)[:3].tolist()
    assert uniforms(7, 3).tolist() != uniforms(8, 3).tolist()


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"temperature": -0.1}, "temperature must not be negative"),
        ({"top_p": 0.0}, r"top_p must be in \(0, 1\]"),
        ({"top_k": -1}, "top_k must not be negative"),
        ({"max_tokens": 0}, "max_tokens must be at least 1"),
        ({"stop": ("",)}, "stop must not hold an empty text"),
    ],
)
def test_sampling_out_of_range_is_refused(fields: dict[str, float | Sequence[str]], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SamplingSpec(**{"max_tokens": 1, **fields})  # type: ignore[arg-type]  # values of several types


def test_a_request_without_a_prompt_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one token"):
        Request(prompt_ids=(), seed=0, sampling=SamplingSpec(max_tokens=1))
