"""KL(reference || policy) by tiles against the dense formula in float64, values and gradients."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from tokensweep.loss.divergence import linear_token_divergence

N, V, H, REF_H = 13, 37, 8, 5


def given(*, seed: int = 0, spread: float = 1.0) -> dict[str, Tensor]:
    """Two random models of different width in float64."""
    draw = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return spread * torch.randn(*shape, generator=draw, dtype=torch.float64)

    return {
        "hidden": normal(N, H),
        "weight": normal(V, H),
        "bias": normal(V),
        "ref_hidden": normal(N, REF_H),
        "ref_weight": normal(V, REF_H),
        "ref_bias": normal(V),
    }


def capped(x: Tensor, cap: float | None) -> Tensor:
    return x if cap is None else cap * torch.tanh(x / cap)


def dense(x: dict[str, Tensor], *, cap: float | None, scale: float, ref_scale: float) -> Tensor:
    logits = scale * capped(x["hidden"] @ x["weight"].T + x["bias"], cap)
    ref_logits = ref_scale * capped(x["ref_hidden"] @ x["ref_weight"].T + x["ref_bias"], cap)
    log_p, log_q = logits.log_softmax(1), ref_logits.log_softmax(1)
    return (log_q.exp() * (log_q - log_p)).sum(1)


@pytest.mark.parametrize("cap", [None, 2.0])
@pytest.mark.parametrize("tiles", [(4, 10), (13, 37), (5, 1), (100, 100)])
def test_value_and_gradient_are_those_of_the_dense_formula(cap: float | None, tiles: tuple[int, int]) -> None:
    draw = torch.Generator().manual_seed(3)
    upstream = torch.randn(N, generator=draw, dtype=torch.float64)
    upstream[::3] = 0  # rows that no loss reads
    names = ("hidden", "weight", "bias")
    results = []
    for fused in (False, True):
        x = given()
        for name in names:
            x[name].requires_grad_()
        if fused:
            value = linear_token_divergence(
                **x, softcap=cap, ref_softcap=cap, scale=1.3, ref_scale=0.7,
                row_tile=tiles[0], vocab_tile=tiles[1],
            )  # fmt: skip
        else:
            value = dense(x, cap=cap, scale=1.3, ref_scale=0.7)
        (upstream * value).sum().backward()  # type: ignore[no-untyped-call]  # torch
        results.append([value.detach(), *(x[name].grad for name in names)])
    for expected, got in zip(*results, strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-10, atol=1e-12)


def test_its_gradient_is_that_of_finite_differences() -> None:
    x = given(spread=0.5)
    moved = {name: x[name].requires_grad_() for name in ("hidden", "weight", "bias")}

    def divergence(hidden: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        still: dict[str, Any] = {name: x[name] for name in ("ref_hidden", "ref_weight", "ref_bias")}
        return linear_token_divergence(hidden, weight, bias=bias, **still, row_tile=6, vocab_tile=9)

    assert torch.autograd.gradcheck(divergence, tuple(moved.values()))


def test_equal_logits_have_divergence_and_gradient_of_exactly_zero() -> None:
    x = given()
    hidden, weight = x["hidden"].float().requires_grad_(), x["weight"].float().requires_grad_()
    value = linear_token_divergence(
        hidden, weight, hidden.detach(), weight.detach(), row_tile=4, vocab_tile=10
    )
    value.sum().backward()  # type: ignore[no-untyped-call]  # torch
    assert hidden.grad is not None
    assert weight.grad is not None
    assert (value == 0).all()
    assert (hidden.grad == 0).all()
    assert (weight.grad == 0).all()


def test_nothing_flows_into_the_reference() -> None:
    x: dict[str, Any] = {name: each.requires_grad_() for name, each in given().items()}
    linear_token_divergence(**x).sum().backward()  # type: ignore[no-untyped-call]  # torch
    assert all((each.grad is None) == name.startswith("ref_") for name, each in x.items())


def test_large_logits_and_a_common_shift_keep_the_digits_of_float32() -> None:
    # Two words, policy (s, s), reference (t, t + log 3): log 2 - H(1/4, 3/4) whatever s and t are.
    expected = 0.25 * torch.tensor(0.25 / 0.5).log() + 0.75 * torch.tensor(0.75 / 0.5).log()
    one = torch.ones(1, 1)
    for s, t in ((0.0, 0.0), (80.0, -60.0), (-300.0, 200.0)):
        log3 = torch.tensor(3.0).log()
        got = linear_token_divergence(
            one, torch.tensor([[s], [s]]), one, torch.stack([torch.tensor([t]), t + log3[None]])
        )
        torch.testing.assert_close(got[0], expected, rtol=0, atol=5e-5)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"ref_hidden": torch.zeros(3, REF_H)}, "one row per token"),
        ({"ref_weight": torch.zeros(V + 1, REF_H)}, "must have the same words, got 37 and 38"),
    ],
)
def test_models_that_do_not_fit_are_refused(change: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        linear_token_divergence(**{**given(), **change})
