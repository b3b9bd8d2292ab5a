"""The fused head against the plain softmax form."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from tokensweep.loss.head import STATISTICS, linear_token_stats

NAMES = sorted(STATISTICS)


class Watch(TorchDispatchMode):  # type: ignore[no-untyped-call]  # untyped in torch
    """Writes down every tensor that an operation makes."""

    def __init__(self, made: list[tuple[Any, Tensor]]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # untyped in torch
        self.made = made

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        outputs = out if isinstance(out, tuple) else (out,)
        self.made += [(func, tensor.detach()) for tensor in outputs if isinstance(tensor, Tensor)]
        return out


@contextmanager
def watched() -> Iterator[list[tuple[Any, Tensor]]]:
    """Operations and results of everything that runs inside."""
    made: list[tuple[Any, Tensor]] = []
    with Watch(made):
        yield made


def problem(*, n: int = 7, h: int = 5, v: int = 19, dtype: torch.dtype = torch.float64) -> list[Tensor]:
    """Hidden states, weight and targets."""
    draw = torch.Generator().manual_seed(0)
    hidden = torch.randn(n, h, generator=draw, dtype=torch.float64).to(dtype).requires_grad_()
    weight = torch.randn(v, h, generator=draw, dtype=torch.float64).to(dtype).requires_grad_()
    return [hidden, weight, torch.randint(0, v, (n,), generator=draw)]


def biases(v: int = 19) -> Tensor:
    """A bias for each word, as large as the products."""
    draw = torch.Generator().manual_seed(2)
    return torch.randn(v, generator=draw, dtype=torch.float64).requires_grad_()


def upstream(n: int) -> Tensor:
    """A gradient for each row and statistic, [5, n]."""
    return torch.randn(len(NAMES), n, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def naive(
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    scale: float | Tensor = 1.0,
    *,
    bias: Tensor | None = None,
    softcap: float | None = None,
) -> dict[str, Tensor]:
    """All statistics by the definition, from all logits."""
    scale = torch.as_tensor(scale, dtype=hidden.dtype).expand(targets.shape).unsqueeze(1)
    logits = hidden @ weight.t() + (0 if bias is None else bias)
    if softcap is not None:
        logits = softcap * torch.tanh(logits / softcap)
    log_p = torch.log_softmax(scale * logits, 1)
    p = log_p.exp()
    entropy = -(p * log_p).sum(1)
    return {
        "logprobs": log_p.gather(1, targets.unsqueeze(1)).squeeze(1),
        "entropy": entropy,
        "varentropy": (p * (log_p + entropy.unsqueeze(1)) ** 2).sum(1),
        "sum_p2": (p**2).sum(1),
        "sum_p2c": (p**2 * (log_p + entropy.unsqueeze(1))).sum(1),
    }


def fused(
    hidden: Tensor, weight: Tensor, targets: Tensor, scale: float | Tensor = 1.0, **head: Any
) -> dict[str, Tensor]:
    """All statistics from tiles that divide neither the rows nor the vocabulary."""
    stats = linear_token_stats(
        hidden, weight, targets, scale=scale, needs=STATISTICS, row_tile=3, vocab_tile=8, **head
    )
    return dict(vars(stats))


def gradients(stats: dict[str, Tensor], inputs: list[Tensor], g: Tensor) -> tuple[Tensor, ...]:
    loss = torch.stack([(stats[name] * row).sum() for name, row in zip(NAMES, g, strict=True)]).sum()
    return torch.autograd.grad(loss, inputs)


@pytest.mark.parametrize("softcap", [None, 1.5])
@pytest.mark.parametrize("name", NAMES)
def test_each_statistic_has_the_right_gradient(name: str, softcap: float | None) -> None:
    hidden, weight, targets = problem()
    scale, bias = torch.linspace(0.5, 1.5, 7, dtype=torch.float64), biases()

    def statistic(hidden: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return fused(hidden, weight, targets, scale, bias=bias, softcap=softcap)[name]

    assert torch.autograd.gradcheck(statistic, (hidden, weight, bias))


@pytest.mark.parametrize("scale", [1.0, 1 / 0.7, "rows"])
def test_values_and_gradients_are_those_of_the_softmax(scale: float | str) -> None:
    hidden, weight, targets = problem()
    scales = torch.linspace(0.5, 2, 7, dtype=torch.float64) if isinstance(scale, str) else scale
    ours, theirs = fused(hidden, weight, targets, scales), naive(hidden, weight, targets, scales)
    for name in NAMES:
        torch.testing.assert_close(ours[name], theirs[name])
    g = upstream(7)
    for a, b in zip(
        gradients(ours, [hidden, weight], g), gradients(theirs, [hidden, weight], g), strict=True
    ):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("scale", [1.0, 1 / 0.7])
@pytest.mark.parametrize("softcap", [None, 0.8, 30.0])  # products are about 2: saturated, hardly felt
@pytest.mark.parametrize("with_bias", [False, True])
def test_cap_bias_and_temperature_act_in_the_order_of_the_models(
    scale: float, softcap: float | None, with_bias: bool
) -> None:
    hidden, weight, targets = problem()
    bias = biases() if with_bias else None
    inputs = [hidden, weight] if bias is None else [hidden, weight, bias]
    ours = fused(hidden, weight, targets, scale, bias=bias, softcap=softcap)
    theirs = naive(hidden, weight, targets, scale, bias=bias, softcap=softcap)
    for name in NAMES:
        torch.testing.assert_close(ours[name], theirs[name])
    g = upstream(7)
    for a, b in zip(gradients(ours, inputs, g), gradients(theirs, inputs, g), strict=True):
        torch.testing.assert_close(a, b)


def test_a_capped_choice_between_two_words_by_hand() -> None:
    # Products 3 and 0 under cap 2: logits 2 tanh 1.5 = 1.8103 and 0. log p of the first is
    # -log(1 + exp(-1.8103)) = -0.1515; a bias of 3 on the second instead gives the same in mirror.
    weight = torch.tensor([[1.0], [0.0]])
    first = fused(torch.tensor([[3.0]]), weight, torch.tensor([0]), softcap=2.0)["logprobs"]
    bias = torch.tensor([0.0, 3.0])
    second = fused(torch.tensor([[0.0]]), weight, torch.tensor([1]), softcap=2.0, bias=bias)["logprobs"]
    expected = -math.log1p(math.exp(-2 * math.tanh(1.5)))
    assert first.item() == second.item() == pytest.approx(expected)


def test_a_uniform_distribution_by_hand() -> None:
    # four equal logits: log p = -log 4, entropy log 4, no variance, sum p^2 = 4 / 16
    stats = fused(torch.zeros(1, 3), torch.ones(4, 3), torch.tensor([2]))
    assert stats["logprobs"].item() == pytest.approx(-1.3862944)
    assert stats["entropy"].item() == pytest.approx(1.3862944)
    assert stats["varentropy"].item() == pytest.approx(0)
    assert stats["sum_p2"].item() == pytest.approx(0.25)
    assert stats["sum_p2c"].item() == pytest.approx(0)  # log p + entropy is 0 everywhere


def test_two_unequal_words_by_hand() -> None:
    # probabilities 3/4 and 1/4: entropy 0.75 log(4/3) + 0.25 log 4; -log p differ by log 3, so the
    # variance is (3/4)(1/4)(log 3)^2; sum p^2 = 10/16; log p + entropy is (log 3) / 4 and -3 (log 3) / 4, so
    # sum p^2 (log p + entropy) = (9/64 - 3/64) log 3
    log3 = 1.0986122886681098
    stats = fused(torch.tensor([[log3]]), torch.tensor([[1.0], [0.0]]), torch.tensor([1]))
    assert stats["logprobs"].item() == pytest.approx(-1.3862944)
    assert stats["entropy"].item() == pytest.approx(0.75 * 0.28768207 + 0.25 * 1.3862944)
    assert stats["varentropy"].item() == pytest.approx(3 / 16 * log3**2)
    assert stats["sum_p2"].item() == pytest.approx(0.625)
    assert stats["sum_p2c"].item() == pytest.approx(6 / 64 * log3)


@pytest.mark.parametrize(("row_tile", "vocab_tile"), [(1, 1), (2, 5), (7, 19), (100, 100)])
def test_tiles_change_nothing(row_tile: int, vocab_tile: int) -> None:
    hidden, weight, targets = problem()
    tiled = linear_token_stats(
        hidden, weight, targets, needs=STATISTICS, row_tile=row_tile, vocab_tile=vocab_tile
    )
    expected = naive(hidden, weight, targets)
    for name in NAMES:
        torch.testing.assert_close(getattr(tiled, name), expected[name])
    g = upstream(7)
    for a, b in zip(
        gradients(vars(tiled), [hidden, weight], g), gradients(expected, [hidden, weight], g), strict=True
    ):
        torch.testing.assert_close(a, b)


def test_statistics_that_nobody_needs_are_not_made() -> None:
    stats = linear_token_stats(*problem())
    assert stats.varentropy is None
    assert stats.sum_p2 is None
    assert stats.sum_p2c is None


def test_the_tilted_square_sum_comes_with_the_square_sum_alone() -> None:
    stats = linear_token_stats(*problem(), needs=frozenset({"sum_p2c"}))
    expected = naive(*problem())
    assert stats.varentropy is None
    torch.testing.assert_close(stats.sum_p2c, expected["sum_p2c"])
    torch.testing.assert_close(stats.sum_p2, expected["sum_p2"])


@pytest.mark.parametrize("softcap", [None, 1.5])
def test_a_tied_weight_collects_both_gradients(softcap: float | None) -> None:
    _, weight, targets = problem()
    ids = torch.tensor([3, 1, 4, 1, 5, 9, 2])

    def gradient(stats: Any) -> Tensor:
        values = stats(torch.tanh(weight[ids]), weight, targets, softcap=softcap)
        return torch.autograd.grad(values["logprobs"].sum() + values["entropy"].sum(), weight)[0]

    torch.testing.assert_close(gradient(fused), gradient(naive))


def test_rows_without_a_gradient_are_left_out_of_the_backward_pass() -> None:
    hidden, weight, targets = problem(n=64)
    g = torch.zeros(64, dtype=torch.float64)
    g[[5, 40, 41]] = 1.0
    stats = linear_token_stats(hidden, weight, targets, row_tile=16)
    with watched() as made:
        got = torch.autograd.grad((stats.logprobs * g).sum(), [hidden, weight])
    products = (torch.ops.aten.mm.default, torch.ops.aten.addmm_.default)
    shapes = [list(tensor.shape) for func, tensor in made if func in products]
    assert shapes == [[3, 19], [3, 5], [19, 5]]  # logits, hidden and weight of three rows out of 64
    expected = torch.autograd.grad((naive(hidden, weight, targets)["logprobs"] * g).sum(), [hidden, weight])
    for a, b in zip(got, expected, strict=True):
        torch.testing.assert_close(a, b)
    assert (got[0][g == 0] == 0).all()


@pytest.mark.parametrize("softcap", [None, 1.5])
def test_no_tensor_of_all_logits_ever_exists(softcap: float | None) -> None:
    hidden, weight, targets = problem(n=64, h=4, v=96)
    with watched() as made:
        stats = linear_token_stats(
            hidden, weight, targets, softcap=softcap, needs=STATISTICS, row_tile=16, vocab_tile=32
        )
        torch.autograd.grad(sum((s.sum() for s in vars(stats).values()), torch.zeros(())), [hidden, weight])
    largest = max(tensor.numel() for _, tensor in made)
    assert largest == 16 * 32  # one tile; hidden has 64 * 4, weight 96 * 4, all logits 64 * 96


def test_narrow_inputs_are_accumulated_in_single_precision() -> None:
    hidden, weight, targets = problem(n=256, h=64, v=50, dtype=torch.bfloat16)
    wide = [x.detach().float().requires_grad_() for x in (hidden, weight)]
    stats, exact = linear_token_stats(hidden, weight, targets), naive(wide[0], wide[1], targets)
    assert stats.logprobs.dtype == stats.entropy.dtype == torch.float32
    torch.testing.assert_close(stats.logprobs, exact["logprobs"])  # float32 tolerance, not bfloat16's
    torch.testing.assert_close(stats.entropy, exact["entropy"])
    got = torch.autograd.grad(stats.logprobs.sum(), [hidden, weight])
    expected = torch.autograd.grad(exact["logprobs"].sum(), wide)
    for a, b in zip(got, expected, strict=True):  # rounded once, at the end
        assert a.dtype == torch.bfloat16
        torch.testing.assert_close(a, b.bfloat16(), rtol=2**-7, atol=1e-5)


def test_large_logits_keep_their_entropy() -> None:
    # logits 10000 and 10000 - 1 in float32: as good as logits 1 and 0
    far = fused(torch.tensor([[10000.0, 1.0]]), torch.tensor([[1.0, 0.0], [1.0, -1.0]]), torch.tensor([0]))
    near = fused(torch.tensor([[1.0]]), torch.tensor([[1.0], [0.0]]), torch.tensor([0]))
    for name in NAMES:
        torch.testing.assert_close(far[name], near[name])


def test_no_rows_give_no_statistics_and_a_gradient_of_zero() -> None:
    hidden, weight, targets = problem(n=0)
    stats = linear_token_stats(hidden, weight, targets)
    assert stats.logprobs.shape == (0,)
    d_hidden, d_weight = torch.autograd.grad(stats.logprobs.sum(), [hidden, weight])
    assert d_hidden.shape == (0, 5)
    assert (d_weight == 0).all()


def test_a_frozen_weight_gets_no_gradient_made() -> None:
    hidden, weight, targets = problem()
    stats = linear_token_stats(hidden, weight.detach(), targets)
    stats.logprobs.sum().backward()  # type: ignore[no-untyped-call]  # untyped in torch
    expected = torch.autograd.grad(naive(hidden, weight, targets)["logprobs"].sum(), hidden)[0]
    assert hidden.grad is not None
    torch.testing.assert_close(hidden.grad, expected)


def test_an_unknown_statistic_is_refused() -> None:
    with pytest.raises(
        ValueError,
        match="needs must be among entropy, logprobs, sum_p2, sum_p2c, varentropy, got top_k",
    ):
        linear_token_stats(*problem(), needs=frozenset({"top_k"}))


def test_narrow_biases_are_accumulated_in_single_precision() -> None:
    # 300 rows of p = 1/2 each for words 0 and 1: d log p(word 0) / d bias = (1 - 1/2, -1/2) per row.
    hidden, weight = torch.zeros(300, 2, dtype=torch.bfloat16), torch.zeros(2, 2, dtype=torch.bfloat16)
    bias = torch.zeros(2, dtype=torch.bfloat16, requires_grad=True)
    stats = linear_token_stats(hidden, weight, torch.zeros(300, dtype=torch.int64), bias=bias, row_tile=1)
    (got,) = torch.autograd.grad(stats.logprobs.sum(), [bias])
    assert got.tolist() == [150.0, -150.0]  # added up in bfloat16 it would stop at 128


def test_shapes_that_do_not_fit_are_refused() -> None:
    hidden, weight, targets = problem()
    with pytest.raises(
        ValueError, match=r"hidden must be \[n, H\] and weight \[V, H\], got \[7, 5\] and \[19, 4\]"
    ):
        linear_token_stats(hidden, weight[:, :4], targets)
    with pytest.raises(ValueError, match=r"targets must be \[7\], one per row, got \[6\]"):
        linear_token_stats(hidden, weight, targets[:6])
    with pytest.raises(ValueError, match=r"bias must be \[19\], one per word, got \[18\]"):
        linear_token_stats(hidden, weight, targets, bias=biases(18))


def test_a_cap_that_is_not_positive_is_refused() -> None:
    with pytest.raises(ValueError, match=r"softcap must be positive, got 0\.0"):
        linear_token_stats(*problem(), softcap=0.0)
