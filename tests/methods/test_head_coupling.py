"""The coupling of tokens by the output matrix, arXiv:2605.08666, against autograd and by hand."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from tokensweep.loss.probe import States
from tokensweep.loss.tables import Batch, pack
from tokensweep.methods.head_coupling import HeadCoupling, head_coupling


def drawn(m: int = 6, h: int = 4, v: int = 5) -> tuple[Tensor, Tensor, Tensor]:
    """Hidden states, output matrix and targets, two of them alike."""
    draw = torch.Generator().manual_seed(0)
    hidden = torch.randn(m, h, generator=draw, dtype=torch.float64)
    weight = torch.randn(v, h, generator=draw, dtype=torch.float64)
    return hidden, weight, torch.tensor([0, 1, 2, 2, 4, 0])


def test_coupling_is_the_inner_product_of_the_gradients() -> None:
    hidden, weight, targets = drawn()
    weight.requires_grad_()
    gradients = []
    for state, target in zip(hidden, targets, strict=True):
        logprob = torch.log_softmax(weight @ state, 0)[target]
        gradients.append(torch.autograd.grad(logprob, weight)[0].flatten())
    rows = torch.stack(gradients)
    p = torch.softmax(hidden @ weight.detach().t(), 1)
    pull = torch.nn.functional.one_hot(targets, 5) - p
    got = head_coupling(States(rows=torch.arange(6), hidden=hidden, pull=pull))
    torch.testing.assert_close(got, rows @ rows.t(), rtol=0, atol=1e-10)
    # and the identity of the card
    same = (targets[:, None] == targets[None, :]).double()
    crossed = p[:, targets]  # p_t(y_j)
    expected = (hidden @ hidden.t()) * (same - crossed - crossed.t() + p @ p.t())
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-10)


@pytest.fixture
def batch() -> Batch:
    """A group with both outcomes between groups without a signal; token 5 is in both of its rollouts."""
    made = pack(
        [[1]] * 4,
        completions=[[9], [5, 6], [5], [9, 9]],
        prompt_of=[0, 1, 1, 2],
        accuracy=[1, 1, 0, 0],
        truncated=[False] * 4,
        max_tokens=2,
    )
    logprobs = torch.tensor([0.5, 0.1, 0.9, 0.2, 0.5, 0.5]).log()
    return made.with_columns(
        old_logprobs=logprobs,
        uniform=torch.tensor([0.0, 0.6, 0.9, 0.3, 0.1, 0.2]),
        advantages=torch.tensor([0.0, 1, 1, -1, 0, 0]),
        weights=torch.ones(6),
    )


def test_it_reads_tokens_of_a_group_with_both_outcomes(batch: Batch) -> None:
    assert HeadCoupling().rows(batch).tolist() == [1, 2, 3]
    assert HeadCoupling(num_tokens=2).rows(batch).tolist() == [1, 3]  # lots 0.6 and 0.3


def test_opposite_pushes_on_one_token_cancel(batch: Batch) -> None:
    # K = [[2, 0, 2], [0, 1, 0], [2, 0, 2]] and A = 1 1 -1: own 2 1 -2, from the others -2 0 2, together 0 1 0
    hidden = torch.tensor([[1.0, 0], [0, 1], [1, 0]])
    pull = torch.tensor([[1.0, -1, 0], [0, 0, 1], [1, -1, 0]])
    told = HeadCoupling().of_states(batch, States(rows=torch.tensor([1, 2, 3]), hidden=hidden, pull=pull))
    assert told == {
        "identical_low": 2.0,  # both 5s, of probability 0.1 and 0.2
        "different": 0.0,
        "coupled_fraction": pytest.approx(4 / 9),
        "reversed_fraction": pytest.approx(2 / 3),
    }


def test_without_a_group_of_both_outcomes_there_is_nothing_to_read(batch: Batch) -> None:
    assert HeadCoupling().rows(replace(batch, rewards=torch.ones(4))).numel() == 0


@pytest.mark.parametrize("fields", [{"num_tokens": 1}, {"confident": 1.0}, {"confident": math.nan}])
def test_a_sample_that_says_nothing_is_refused(fields: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="num_tokens must be at least 2 and confident in"):
        HeadCoupling(**fields)  # type: ignore[arg-type]  # mixed types
