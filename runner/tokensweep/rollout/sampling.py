"""From logits to tokens: temperature, top-k, top-p, and the draw by inverse CDF."""

from __future__ import annotations

import torch
from torch import Tensor

from tokensweep.rollout.protocol import SamplingSpec


def sampler_logprobs(logits: Tensor, sampling: SamplingSpec) -> Tensor:
    """Log-probabilities [B, V] float32 of the distribution tokens are drawn from; -inf where excluded.

    Temperature first, then top-k, then top-p on what is left, renormalised. At temperature 0 the model's own.
    """
    logits = logits.float()
    if sampling.temperature == 0:
        return logits.log_softmax(-1)
    if sampling.temperature != 1:
        logits = logits / sampling.temperature
    logprobs = logits.log_softmax(-1)
    if sampling.top_k == 0 and sampling.top_p == 1:
        return logprobs
    kept = _kept(logprobs, top_k=sampling.top_k or logprobs.shape[-1], top_p=sampling.top_p)
    return logprobs.masked_fill(~kept, -torch.inf).log_softmax(-1)


def draw(logprobs: Tensor, uniform: Tensor) -> Tensor:
    """Tokens [B] where the cumulative probability of logprobs [B, V] first exceeds uniform [B] float64.

    Tokens of probability zero are never drawn. The order is that of the vocabulary, so float noise in the
    logits moves a draw only when ``uniform`` lies within that noise of a boundary.
    """
    cumulative = logprobs.exp().cumsum(-1, dtype=torch.float64)
    total = cumulative[:, -1:]
    target = torch.minimum(uniform[:, None] * total, total.nextafter(torch.zeros_like(total)))
    return torch.searchsorted(cumulative, target, right=True)[:, 0]


def _kept(logprobs: Tensor, *, top_k: int, top_p: float) -> Tensor:
    """True for tokens among the top k and, of those, in the smallest set that reaches mass top_p, [B, V]."""
    ordered, token = logprobs.topk(min(top_k, logprobs.shape[-1]), dim=-1)
    mass = ordered.softmax(-1).cumsum(-1)
    before = mass - ordered.softmax(-1)
    inside = before < top_p if top_p < 1 else torch.ones_like(before, dtype=torch.bool)
    return torch.zeros_like(logprobs, dtype=torch.bool).scatter(-1, token, inside)
