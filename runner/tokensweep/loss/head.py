"""The fused head: from hidden states to statistics of the next-token distribution, tile by tile.

:func:`linear_token_stats` never holds the N x V logits. Each statistic has a gradient with respect to the
logits ``z`` that is made of six numbers per row,

    dz_j = a [j = target] + p_j (b0 + b1 c_j + b2 c_j^2 + b3 p_j + b4 p_j c_j),     c_j = log p_j + entropy,

so that the backward pass needs the upstream gradients of the statistics and nothing of the method's loss.
``c`` is the log-probability around its own mean, which keeps the digits when logits are large. A soft cap of
the logits is one more factor of ``dz``, its slope ``1 - tanh^2``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from tokensweep.loss.tiles import Projection, Tiles, accumulator, add_product, wide_type

_ON_REQUEST = ("varentropy", "sum_p2", "sum_p2c")
STATISTICS = frozenset({"logprobs", "entropy", *_ON_REQUEST})


@dataclass(frozen=True, kw_only=True)
class TokenStats:
    """Statistics of the full next-token distribution in each row; float32, or float64 for such inputs."""

    logprobs: Tensor  # [n] nats, of the target
    entropy: Tensor  # [n] nats
    varentropy: Tensor | None  # [n] nats squared, variance of -log p; None unless asked for
    sum_p2: Tensor | None  # [n], sum of squared probabilities; None unless asked for
    sum_p2c: Tensor | None  # [n] nats, sum of p^2 (log p + entropy); None unless asked for


def linear_token_stats(
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    *,
    bias: Tensor | None = None,
    softcap: float | None = None,
    scale: float | Tensor = 1.0,
    needs: frozenset[str] = frozenset(),
    row_tile: int | None = None,
    vocab_tile: int | None = None,
) -> TokenStats:
    """Statistics of ``softmax(scale * cap(hidden @ weight.T + bias))`` for each row, differentiable once.

    ``hidden`` [n, H], ``weight`` [V, H] and ``bias`` [V] in any float type, ``targets`` [n] int64, ``scale``
    the model's logit scale over the temperature, for all rows or for each [n] (no gradient). ``cap(x)`` is
    ``softcap * tanh(x / softcap)``, or x without ``softcap``. ``needs`` names statistics out of
    ``STATISTICS``; log-probability and entropy always come, and ``sum_p2`` with ``sum_p2c``. ``row_tile`` and
    ``vocab_tile`` bound the piece of the logits that exists at a time; without them they suit the device.
    Products are accumulated in float32 or better.
    The backward pass computes the logits again, for rows with a gradient that is not 0 only; the gradient
    of a tied weight is returned to autograd like any other. Raises ValueError for shapes that don't fit,
    for a cap that is not positive and for unknown statistics.
    Source: the recompute form of fused linear cross-entropy (Wijmans et al., arXiv:2411.09009); entropy,
    varentropy and the sums of squares are our derivation, checked against autograd.
    """
    if unknown := sorted(needs - STATISTICS):
        raise ValueError(f"needs must be among {', '.join(sorted(STATISTICS))}, got {', '.join(unknown)}")
    if hidden.ndim != 2 or weight.ndim != 2 or hidden.shape[1] != weight.shape[1]:
        raise ValueError(
            f"hidden must be [n, H] and weight [V, H], got {list(hidden.shape)} and {list(weight.shape)}"
        )
    if targets.shape != hidden.shape[:1]:
        raise ValueError(f"targets must be [{hidden.shape[0]}], one per row, got {list(targets.shape)}")
    if bias is not None and bias.shape != weight.shape[:1]:
        raise ValueError(f"bias must be [{weight.shape[0]}], one per word, got {list(bias.shape)}")
    if softcap is not None and softcap <= 0:
        raise ValueError(f"softcap must be positive, got {softcap}")
    dtype = wide_type(hidden.dtype)
    scales = torch.as_tensor(scale, dtype=dtype, device=hidden.device).expand(targets.shape)
    tiles = Tiles.suited(hidden.device, rows=row_tile, vocab=vocab_tile)
    if "sum_p2c" in needs:
        needs = needs | {"sum_p2"}  # part of its gradient
    apply: Any = _LinearTokenStats.apply  # untyped in torch
    logprobs, entropy, *rest = apply(hidden, weight, bias, targets, scales, softcap, tiles, needs)
    return TokenStats(logprobs=logprobs, entropy=entropy, **dict(zip(_ON_REQUEST, rest, strict=True)))


class _LinearTokenStats(torch.autograd.Function):
    """Forward folds tiles into running sums; backward makes each tile again and turns it into dz in place."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        targets: Tensor,
        scales: Tensor,
        softcap: float | None,
        tiles: Tiles,
        needs: frozenset[str],
    ) -> tuple[Tensor | None, ...]:
        logprobs, entropy = scales.new_empty(targets.shape), scales.new_empty(targets.shape)
        high, log_sum = torch.empty_like(entropy), torch.empty_like(entropy)
        asked = {name: torch.empty_like(entropy) for name in _ON_REQUEST if name in needs}
        projection = Projection(weight, bias, softcap)
        for rows in tiles.over_rows(targets.numel()):
            fold = _Fold(scales[rows], needs=needs)
            for vocab in tiles.over_vocab(weight.shape[0]):
                logits = projection.raw(hidden[rows], vocab).mul_(projection.factor(scales[rows]))
                fold.add(logits, targets[rows] - vocab.start)
            high[rows], log_sum[rows], entropy[rows] = fold.high, fold.log_sum(), fold.entropy()
            logprobs[rows] = (fold.target - high[rows]) - log_sum[rows]
            for name, values in asked.items():
                values[rows] = getattr(fold, name)()
        ctx.set_materialize_grads(False)
        ctx.softcap, ctx.tiles = softcap, tiles
        on_request = [asked.get(name) for name in _ON_REQUEST]
        ctx.save_for_backward(hidden, weight, bias, targets, scales, high, log_sum, entropy, *on_request)
        return logprobs, entropy, *on_request

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *upstream: Tensor | None) -> tuple[Tensor | None, ...]:
        hidden, weight, bias, targets, scales, high, log_sum, entropy, *on_request = ctx.saved_tensors
        coefficients = _coefficients(upstream, like=entropy, on_request=on_request)
        moving = (coefficients != 0).any(0)
        rows = slice(None) if bool(moving.all()) else moving.nonzero().squeeze(1)  # a slice copies nothing
        d_hidden, d_weight, d_bias = _backward_rows(
            hidden[rows],
            Projection(weight, bias, ctx.softcap),
            targets[rows],
            scales[rows],
            high=high[rows],
            log_sum=log_sum[rows],
            entropy=entropy[rows],
            coefficients=coefficients[:, rows] * scales[rows],  # dz is linear in them
            terms=tuple(values is not None for values in on_request),
            tiles=ctx.tiles,
            wants_weight=ctx.needs_input_grad[1],
            wants_bias=ctx.needs_input_grad[2],
        )
        d_hidden = d_hidden.to(hidden.dtype)
        d_bias = None if d_bias is None else d_bias.to(bias.dtype)
        if isinstance(rows, Tensor):
            d_hidden = torch.zeros_like(hidden).index_copy_(0, rows, d_hidden)
        return d_hidden, d_weight, d_bias, None, None, None, None, None


class _Fold:
    """Running sums over vocabulary tiles of one block of rows, all relative to the running maximum."""

    def __init__(self, like: Tensor, *, needs: frozenset[str]) -> None:
        self.target = torch.zeros_like(like)  # logit of the target
        self.high = torch.full_like(like, -torch.inf)
        self._sum = torch.zeros_like(like)  # of e = exp(z - max)
        self._first = torch.zeros_like(like)  # of e (z - max)
        self._second = torch.zeros_like(like) if "varentropy" in needs else None  # of e (z - max)^2
        self._squares = torch.zeros_like(like) if "sum_p2" in needs else None  # of e^2
        self._tilted = torch.zeros_like(like) if "sum_p2c" in needs else None  # of e^2 (z - max)

    def add(self, logits: Tensor, targets: Tensor) -> None:
        """Fold in a tile of logits [rows, tile], which is overwritten; ``targets`` count from its start."""
        inside = (targets >= 0) & (targets < logits.shape[1])
        picked = logits.gather(1, targets.clamp(0, logits.shape[1] - 1).unsqueeze(1)).squeeze(1)
        self.target = torch.where(inside, picked, self.target)
        high = torch.maximum(self.high, logits.amax(1))
        self._move(high)
        logits.sub_(high.unsqueeze(1))
        e = logits.exp()
        self._sum += e.sum(1)
        if self._squares is not None:
            self._squares += torch.linalg.vecdot(e, e)
        self._first += torch.linalg.vecdot(e, logits)
        if self._tilted is not None:
            self._tilted += torch.linalg.vecdot(e.square(), logits)
        if self._second is not None:
            self._second += torch.linalg.vecdot(e.mul_(logits), logits)

    def _move(self, high: Tensor) -> None:
        """Make the sums relative to a new maximum."""
        shift = torch.where(self._sum > 0, self.high - high, 0.0)
        factor = shift.exp()
        if self._second is not None:
            self._second = factor * (self._second + shift * (2 * self._first + shift * self._sum))
        self._first = factor * (self._first + shift * self._sum)
        self._sum = factor * self._sum
        if self._tilted is not None and self._squares is not None:
            self._tilted = factor**2 * (self._tilted + shift * self._squares)
        if self._squares is not None:
            self._squares = factor**2 * self._squares
        self.high = high

    def log_sum(self) -> Tensor:
        return self._sum.log()

    def entropy(self) -> Tensor:
        return self._sum.log() - self._first / self._sum

    def varentropy(self) -> Tensor:
        assert self._second is not None
        return (self._second / self._sum - (self._first / self._sum) ** 2).clamp(min=0)

    def sum_p2(self) -> Tensor:
        assert self._squares is not None
        return self._squares / self._sum**2

    def sum_p2c(self) -> Tensor:
        assert self._squares is not None
        assert self._tilted is not None  # c = z - max - E[z - max]
        return (self._tilted - self._first / self._sum * self._squares) / self._sum**2


def _coefficients(
    upstream: tuple[Tensor | None, ...], *, like: Tensor, on_request: Sequence[Tensor | None]
) -> Tensor:
    """The rows a, b0, b1, b2, b3, b4 of the module's formula, [6, n]."""
    zero = torch.zeros_like(like)
    g_logprob, g_entropy, g_varentropy, g_sum_p2, g_sum_p2c = (zero if g is None else g for g in upstream)
    varentropy, sum_p2, sum_p2c = on_request
    b0, b1 = -g_logprob, 2 * g_varentropy - g_entropy
    if varentropy is not None:
        b0 = b0 - g_varentropy * varentropy
    if sum_p2 is not None:
        b0 = b0 - 2 * g_sum_p2 * sum_p2
    if sum_p2c is not None:
        assert sum_p2 is not None
        b0 = b0 - g_sum_p2c * (2 * sum_p2c + sum_p2)
        b1 = b1 - g_sum_p2c * sum_p2
    return torch.stack([g_logprob, b0, b1, g_varentropy, 2 * g_sum_p2 + g_sum_p2c, 2 * g_sum_p2c])


def _backward_rows(
    hidden: Tensor,
    projection: Projection,
    targets: Tensor,
    scales: Tensor,
    *,
    high: Tensor,
    log_sum: Tensor,
    entropy: Tensor,
    coefficients: Tensor,
    terms: tuple[bool, ...],
    tiles: Tiles,
    wants_weight: bool,
    wants_bias: bool,
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """Gradients of the rows that have one: [n, H] and [V] in the wide type, [V, H] in the weight's."""
    weight, bias = projection.weight, projection.bias
    d_hidden = torch.zeros(hidden.shape, dtype=scales.dtype, device=hidden.device)
    d_weight = torch.zeros_like(weight) if wants_weight else None
    d_bias = torch.zeros_like(bias, dtype=scales.dtype) if bias is not None and wants_bias else None
    for vocab in tiles.over_vocab(weight.shape[0]):
        block = accumulator(d_weight, vocab, dtype=d_hidden.dtype)
        for rows in tiles.over_rows(targets.numel()):
            raw, factor = projection.raw(hidden[rows], vocab), projection.factor(scales[rows])
            dz = raw.mul_(factor) if projection.softcap is None else raw * factor
            _to_gradient(
                dz,
                targets[rows] - vocab.start,
                high=high[rows],
                log_sum=log_sum[rows],
                entropy=entropy[rows],
                coefficients=coefficients[:, rows],
                terms=terms,
            )
            if projection.softcap is not None:
                dz.mul_(raw.square_().neg_().add_(1))  # the slope of the cap
            add_product(d_hidden[rows], dz, weight[vocab])
            if block is not None:
                add_product(block, dz.t(), hidden[rows])
            if d_bias is not None:
                d_bias[vocab] += dz.sum(0)
        if d_weight is not None and block is not None and block.dtype != d_weight.dtype:
            d_weight[vocab] = block
    return d_hidden, d_weight, d_bias


def _to_gradient(
    z: Tensor,
    targets: Tensor,
    *,
    high: Tensor,
    log_sum: Tensor,
    entropy: Tensor,
    coefficients: Tensor,
    terms: tuple[bool, ...],
) -> None:
    """Overwrite a tile of logits [rows, tile] with the gradient of the loss with respect to it.

    ``terms`` says which of the statistics on request were made: the others' coefficients are 0.
    """
    second, squares, tilted = terms
    a, b0, b1, b2, b3, b4 = (c.unsqueeze(1) for c in coefficients)
    z.sub_(high.unsqueeze(1)).sub_(log_sum.unsqueeze(1))  # one by one: their sum has fewer digits
    p = z.exp()
    z.add_(entropy.unsqueeze(1))  # now the c of the module's formula
    slope = b1 + b2 * z if second else b1
    if tilted:
        slope = slope + b4 * p
    z.mul_(slope).add_(b0)
    if squares:
        z.add_(b3 * p)
    z.mul_(p)
    inside = ((targets >= 0) & (targets < z.shape[1])).unsqueeze(1)
    z.scatter_add_(1, targets.clamp(0, z.shape[1] - 1).unsqueeze(1), torch.where(inside, a, 0.0))
