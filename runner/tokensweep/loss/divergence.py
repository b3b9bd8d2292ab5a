"""The fused head for two models: KL(reference || policy) of each token over all words, tile by tile.

Neither model's N x V logits ever exist. With respect to the policy's logits the gradient of the divergence is
``p_j - q_j`` (p of the policy, q of the reference); none flows into the reference.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from tokensweep.loss.tiles import Projection, Tiles, accumulator, add_product, wide_type


def linear_token_divergence(
    hidden: Tensor,
    weight: Tensor,
    ref_hidden: Tensor,
    ref_weight: Tensor,
    *,
    bias: Tensor | None = None,
    ref_bias: Tensor | None = None,
    softcap: float | None = None,
    ref_softcap: float | None = None,
    scale: float = 1.0,
    ref_scale: float = 1.0,
    row_tile: int | None = None,
    vocab_tile: int | None = None,
) -> Tensor:
    """``sum_v q_v (log q_v - log p_v)`` for each row, [n] nats, with gradient for hidden, weight and bias.

    p and q are ``softmax(scale * cap(hidden @ weight.T + bias))`` of the policy and of the reference, as in
    :func:`tokensweep.loss.head.linear_token_stats`; ``hidden`` [n, H], ``weight`` [V, H], ``bias`` [V], and
    those of the reference with H of their own. float32, or float64 for such inputs. Equal logits give exactly
    0. Differentiable once; rows whose upstream gradient is 0 are left out of the backward pass, which
    computes both models' logits again. Raises ValueError for shapes that don't fit.
    Source: our derivation, checked against autograd.
    """
    if hidden.ndim != 2 or ref_hidden.ndim != 2 or hidden.shape[0] != ref_hidden.shape[0]:
        raise ValueError(
            "hidden and ref_hidden must have one row per token, got "
            f"{list(hidden.shape)} and {list(ref_hidden.shape)}"
        )
    if weight.shape[0] != ref_weight.shape[0]:
        raise ValueError(
            f"policy and reference must have the same words, got {weight.shape[0]} and {ref_weight.shape[0]}"
        )
    tiles = Tiles.suited(hidden.device, rows=row_tile, vocab=vocab_tile)
    reference = Projection(ref_weight.detach(), None if ref_bias is None else ref_bias.detach(), ref_softcap)
    apply: Any = _LinearTokenDivergence.apply  # untyped in torch
    divergence: Tensor = apply(
        hidden, weight, bias, ref_hidden.detach(), softcap, (scale, ref_scale), reference, tiles
    )
    return divergence


class _LinearTokenDivergence(torch.autograd.Function):
    """Forward folds tiles of both models into running sums; backward makes each tile again."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        ref_hidden: Tensor,
        softcap: float | None,
        scales: tuple[float, float],
        reference: Projection,
        tiles: Tiles,
    ) -> Tensor:
        count = hidden.shape[0]
        divergence = hidden.new_empty(count, dtype=wide_type(hidden.dtype))
        lse, ref_lse = (divergence.new_empty((2, count)) for _ in range(2))  # maximum, and log of the sum
        policy = Projection(weight, bias, softcap)
        for rows in tiles.over_rows(count):
            fold = _Fold(divergence[rows])
            for vocab in tiles.over_vocab(weight.shape[0]):
                fold.add(
                    _logits(policy, hidden[rows], vocab, scale=scales[0]),
                    _logits(reference, ref_hidden[rows], vocab, scale=scales[1]),
                )
            lse[:, rows], ref_lse[:, rows] = fold.own.lse(), fold.reference.lse()
            divergence[rows] = fold.divergence()
        ctx.softcap, ctx.scales, ctx.reference, ctx.tiles = softcap, scales, reference, tiles
        ctx.save_for_backward(hidden, weight, bias, ref_hidden, lse, ref_lse)
        return divergence

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        hidden, weight, bias, ref_hidden, lse, ref_lse = ctx.saved_tensors
        rows = (upstream != 0).nonzero().squeeze(1)
        d_hidden, d_weight, d_bias = _backward_rows(
            (hidden[rows], ref_hidden[rows]),
            (Projection(weight, bias, ctx.softcap), ctx.reference),
            (lse[:, rows], ref_lse[:, rows]),
            upstream=upstream[rows],
            scales=ctx.scales,
            tiles=ctx.tiles,
            wants_weight=ctx.needs_input_grad[1],
            wants_bias=ctx.needs_input_grad[2],
        )
        d_hidden = torch.zeros_like(hidden).index_copy_(0, rows, d_hidden.to(hidden.dtype))
        d_bias = None if d_bias is None else d_bias.to(bias.dtype)
        return d_hidden, d_weight, d_bias, None, None, None, None, None


def _logits(projection: Projection, hidden: Tensor, vocab: slice, *, scale: float) -> Tensor:
    """One tile of the logits, in the wide type."""
    factor = scale if projection.softcap is None else scale * projection.softcap
    return projection.raw(hidden, vocab).mul_(factor)


class _Sum:
    """Running sum of exp(z) relative to the running maximum, for a block of rows."""

    def __init__(self, like: Tensor) -> None:
        self.high = torch.full_like(like, -torch.inf)
        self.total = torch.zeros_like(like)

    def add(self, logits: Tensor) -> tuple[Tensor, Tensor]:
        """Fold in a tile; gives back its exponentials, and the factor that moved the sum to a new maximum."""
        high = torch.maximum(self.high, logits.amax(1))
        factor = torch.where(self.total > 0, self.high - high, 0.0).exp()
        exponentials = (logits - high.unsqueeze(1)).exp_()
        self.total = factor * self.total + exponentials.sum(1)
        self.high = high
        return exponentials, factor

    def lse(self) -> Tensor:
        """The maximum and the logarithm of the sum, [2, rows]: one by one they keep more digits."""
        return torch.stack([self.high, self.total.log()])


class _Fold:
    """Running sums of both models, and of ``exp(z_ref) (z_ref - z)``."""

    def __init__(self, like: Tensor) -> None:
        self.own, self.reference = _Sum(like), _Sum(like)
        self._gap = torch.zeros_like(like)

    def add(self, logits: Tensor, ref_logits: Tensor) -> None:
        """Fold in a tile of each; the reference's is overwritten."""
        self.own.add(logits)
        weights, factor = self.reference.add(ref_logits)
        self._gap = factor * self._gap + torch.linalg.vecdot(weights, ref_logits.sub_(logits))

    def divergence(self) -> Tensor:
        high = self.reference.high - self.own.high
        return (self._gap / self.reference.total - high) - (self.reference.total.log() - self.own.total.log())


def _backward_rows(
    hidden: tuple[Tensor, Tensor],
    projections: tuple[Projection, Projection],
    lse: tuple[Tensor, Tensor],
    *,
    upstream: Tensor,
    scales: tuple[float, float],
    tiles: Tiles,
    wants_weight: bool,
    wants_bias: bool,
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """Gradients of the policy; each pair is of policy and reference. [n, H], [V, H] and [V]."""
    own, (weight, bias) = projections[0], (projections[0].weight, projections[0].bias)
    d_hidden = torch.zeros(hidden[0].shape, dtype=upstream.dtype, device=upstream.device)
    d_weight = torch.zeros_like(weight) if wants_weight else None
    d_bias = torch.zeros_like(bias, dtype=upstream.dtype) if bias is not None and wants_bias else None
    strength = (upstream * scales[0]).unsqueeze(1)
    for vocab in tiles.over_vocab(weight.shape[0]):
        block = accumulator(d_weight, vocab, dtype=d_hidden.dtype)
        for rows in tiles.over_rows(upstream.numel()):
            raw = own.raw(hidden[0][rows], vocab)
            factor = scales[0] if own.softcap is None else scales[0] * own.softcap
            dz = _probabilities(raw * factor, lse[0][:, rows])
            ref_logits = _logits(projections[1], hidden[1][rows], vocab, scale=scales[1])
            dz.sub_(_probabilities(ref_logits, lse[1][:, rows])).mul_(strength[rows])
            if own.softcap is not None:
                dz.mul_(raw.square_().neg_().add_(1))  # the slope of the cap
            add_product(d_hidden[rows], dz, weight[vocab])
            if block is not None:
                add_product(block, dz.t(), hidden[0][rows])
            if d_bias is not None:
                d_bias[vocab] += dz.sum(0)
        if d_weight is not None and block is not None and block.dtype != d_weight.dtype:
            d_weight[vocab] = block
    return d_hidden, d_weight, d_bias


def _probabilities(logits: Tensor, lse: Tensor) -> Tensor:
    """Probabilities of a tile, in place of its logits."""
    return logits.sub_(lse[0].unsqueeze(1)).sub_(lse[1].unsqueeze(1)).exp_()
