"""The vocabulary head: log-probability and entropy of every token, forward and backward."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from benchmarks.frame import Benchmark, Case, Goal, Measured, measured
from tokensweep.loss.head import linear_token_stats

_SHARE = 0.2  # of the tokens that carry a gradient, in the variants that select
_SEQUENCES = 8  # that the tokens are cut into where a loss wants sequences
_TRL_VOCAB_TILE = 32768  # _CHUNKED_LOGPROB_CHUNK_SIZE in trl/trainer/utils.py of TRL 1.16

Head = Callable[
    [Tensor, Tensor, Tensor, Tensor], Tensor
]  # hidden [T, H], weight [V, H], targets, advantages [T]


def naive(hidden: Tensor, weight: Tensor, targets: Tensor, advantages: Tensor) -> Tensor:
    """All logits at once; the entropy is only looked at."""
    log_p = torch.log_softmax(hidden @ weight.t(), 1)
    with torch.no_grad():
        _ = -(log_p.exp() * log_p).sum(1)
    logprobs = log_p.gather(1, targets.unsqueeze(1)).squeeze(1)
    return -(logprobs * advantages).sum()


def ours(hidden: Tensor, weight: Tensor, targets: Tensor, advantages: Tensor) -> Tensor:
    """Our tiles, every token with a gradient."""
    stats = linear_token_stats(hidden, weight, targets)
    return -(stats.logprobs * advantages).sum()


def ours_sparse(hidden: Tensor, weight: Tensor, targets: Tensor, advantages: Tensor) -> Tensor:
    """Our tiles, all tokens scored, a share of them with a gradient: a selection by the current policy."""
    kept = _selected(targets)
    return ours(hidden, weight, targets, torch.where(kept, advantages, 0.0))


def ours_selected(hidden: Tensor, weight: Tensor, targets: Tensor, advantages: Tensor) -> Tensor:
    """Our tiles, only the selected tokens enter: a selection by the old policy, known beforehand."""
    rows = _selected(targets).nonzero().squeeze(1)
    return ours(hidden[rows], weight, targets[rows], advantages[rows])


def trl(hidden: Tensor, weight: Tensor, targets: Tensor, advantages: Tensor) -> Tensor:
    """TRL's chunked head with its entropy; on a CPU its tiles are folded by torch instead of Triton."""
    from trl.kernels import ChunkedLogProbFunction

    logprobs: Tensor = ChunkedLogProbFunction.apply(
        hidden, weight, None, targets, 1.0, _TRL_VOCAB_TILE, None, 1.0, ("entropy",)
    )[0]
    return -(logprobs * advantages).sum()


def liger(hidden: Tensor, weight: Tensor, targets: Tensor, advantages: Tensor) -> Tensor:
    """Liger's chunked GRPO loss, sequence by sequence and uncompiled; it has no entropy."""
    from liger_kernel.chunked_loss import LigerFusedLinearGRPOLoss

    loss = LigerFusedLinearGRPOLoss(beta=0.0, compiled=False, use_ref_model=False)
    shape = (_SEQUENCES, -1)
    value: Tensor = loss(
        hidden.view(*shape, hidden.shape[1]),
        weight,
        targets.view(shape),
        torch.ones_like(targets.view(shape)),
        advantages.view(shape)[:, 0],
    )[0]
    return value


VARIANTS: dict[str, Head] = {
    "naive": naive,
    "ours": ours,
    "ours, 20 % with gradient": ours_sparse,
    "ours, only 20 % enter": ours_selected,
    "TRL": trl,
    "Liger": liger,
}


def measure(variant: str, *, tokens: int, hidden: int, vocab: int) -> Measured:
    """One forward and backward over ``tokens`` random states, after a short one that warms up."""
    torch.manual_seed(0)
    states = torch.randn(tokens, hidden, requires_grad=True)
    weight = torch.nn.Parameter(torch.randn(vocab, hidden) * hidden**-0.5)
    targets = torch.randint(0, vocab, (tokens,))
    advantages = torch.randn(tokens)
    head = VARIANTS[variant]

    def work(count: int = tokens) -> None:
        head(states[:count], weight, targets[:count], advantages[:count]).backward()  # type: ignore[no-untyped-call]

    work(8 * _SEQUENCES)
    states.grad = weight.grad = None
    return measured(work)


def _selected(targets: Tensor) -> Tensor:
    """A random choice of a share of the tokens, [T] bool."""
    generator = torch.Generator().manual_seed(1)
    kept = torch.zeros(len(targets), dtype=torch.bool)
    kept[torch.randperm(len(targets), generator=generator)[: max(1, round(_SHARE * len(targets)))]] = True
    return kept


def _case(hidden: int, vocab: int, tokens: int, *, rounds: int = 3, goals: bool = False) -> Case:
    wanted = {"ours": Goal(ratio=1.05, peak_mb=150), "ours, only 20 % enter": Goal(ratio=0.25)}
    return Case(
        name=f"H = {hidden}, V = {vocab}, T = {tokens}",
        variants=tuple(VARIANTS),
        baseline="naive",
        options={"hidden": hidden, "vocab": vocab, "tokens": tokens},
        rounds=rounds,
        goals=wanted if goals else {},
    )


BENCHMARK = Benchmark(
    title="Vocabulary head",
    unit="forward and backward",
    note=(
        "From hidden states [T, H] and head [V, H] to log-probability and entropy of T targets, and back, "
        "in float32. *naive* holds all logits. *20 % with gradient*: all tokens are scored, a random fifth "
        "has an upstream gradient. *only 20 % enter*: the fifth is known beforehand. *TRL* is its chunked "
        "head as it runs without Triton, *Liger* its chunked GRPO loss, uncompiled, which gives no entropy."
    ),
    cases=(
        _case(256, 4096, 1024),
        _case(256, 4096, 4096),
        _case(576, 49152, 1024),
        _case(576, 49152, 4096, goals=True),
        _case(1024, 151936, 1024, rounds=1),
        _case(1024, 151936, 4096, rounds=1),
    ),
    small=(_case(16, 512, 128, rounds=1),),
    measure=measure,
)
