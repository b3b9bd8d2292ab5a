"""Forward passes of a policy over packed rollouts: one path for old, reference and current log-probabilities.

The old-policy pass runs over the very packs that the update runs over, so before the first optimiser step
both give the same bits and every ratio is exactly 1. The first pack is even run only once: its forward of the
old-policy pass, kept with its graph, is the one that the update differentiates.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor

from tokensweep.loss.divergence import linear_token_divergence
from tokensweep.loss.head import STATISTICS, TokenStats, linear_token_stats
from tokensweep.loss.probe import States
from tokensweep.loss.tables import Batch
from tokensweep.models.policy import Policy
from tokensweep.train.batch import Plan


@dataclass(frozen=True, kw_only=True)
class Described(TokenStats):
    """Statistics of tokens with what the policy was in when it had read them."""

    hidden: Tensor | None = None  # [n, H] states after each token, without gradient; None unless asked for


@dataclass(frozen=True)
class Ahead:
    """A forward that was run before the loss was known, with its graph; good until the weights move.

    Its graph is that of one pack, which the update needs anyway; it lives through the old-policy pass.
    """

    rollouts: Tensor  # [r] the pack
    rows: Tensor  # [n] its trained rows, ascending
    stats: Described  # of these rows

    def at(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Log-probabilities and entropies of some of the rows, ascending; the others get no gradient."""
        place = torch.searchsorted(self.rows, rows)
        return self.stats.logprobs[place], self.stats.entropy[place]


@dataclass(frozen=True, kw_only=True)
class Scorer:
    """What a policy says of the tokens of a batch, under its logits divided by ``temperature``.

    ``dtype`` is that of the matrix products; the weights and the statistics stay in float32.
    """

    policy: Policy
    temperature: float
    dtype: torch.dtype = torch.float32

    def _hidden(self, batch: Batch, *, rollouts: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        """All states [m, H] of one packed forward over ``rollouts``, and which one predicts each of ``rows``.

        The state of a token itself comes right after the one that predicts it.
        """
        sizes = torch.bincount(batch.sequence_of, minlength=batch.num_rollouts)
        starts = sizes.cumsum(0) - sizes
        bounds = torch.cat([sizes.new_zeros(1), sizes[rollouts].cumsum(0)])
        shift = torch.zeros_like(starts).index_copy(0, rollouts, starts[rollouts] - bounds[:-1])
        packed = torch.repeat_interleave(shift[rollouts], sizes[rollouts])
        packed = packed + torch.arange(packed.numel(), device=packed.device)
        with autocast(self.policy, self.dtype):
            hidden = self.policy.hidden(batch.token_ids[packed], bounds)
        target = batch.trained[rows]
        before = target - shift[batch.sequence_of[target]] - 1  # a state predicts the token after it
        return hidden, before

    def stats(
        self, batch: Batch, *, rollouts: Tensor, rows: Tensor, needs: frozenset[str] = frozenset()
    ) -> Described:
        """Statistics [n] of the trained rows ``rows`` [n], all of ``rollouts`` [r]; both ascend.

        ``needs`` names statistics of the head, and ``hidden`` for the states. One packed forward over the
        whole sequences of ``rollouts``; only the n rows enter the head. Gradients flow where they are
        enabled, but not through the states.
        """
        hidden, before = self._hidden(batch, rollouts=rollouts, rows=rows)
        targets = batch.token_ids[batch.trained[rows]]
        stats = self._of_head(hidden[before].to(self.dtype), targets, needs=needs - {"hidden"})
        states = hidden.detach()[before + 1].to(self.dtype) if "hidden" in needs else None
        return Described(**vars(stats), hidden=states)

    def _of_head(self, states: Tensor, targets: Tensor, *, needs: frozenset[str] = frozenset()) -> TokenStats:
        """Statistics of what the head makes of states [n, H]."""
        head = self.policy.head
        return linear_token_stats(
            states,
            head.weight.to(self.dtype),
            targets,
            bias=head.bias,
            softcap=head.softcap,
            scale=head.scale / self.temperature,
            needs=needs,
        )

    def beside(
        self, reference: Scorer, batch: Batch, *, rollouts: Tensor, rows: Tensor
    ) -> tuple[TokenStats, Tensor]:
        """The statistics as :meth:`stats`, and KL(reference || this policy) over all words, [n] nats.

        One forward of each model; no gradient flows into the reference.
        """
        hidden, before = self._hidden(batch, rollouts=rollouts, rows=rows)
        states = hidden[before].to(self.dtype)
        with torch.no_grad():
            other, _ = reference._hidden(batch, rollouts=rollouts, rows=rows)
        own, its = self.policy.head, reference.policy.head
        divergence = linear_token_divergence(
            states,
            own.weight.to(self.dtype),
            other[before].to(self.dtype),
            its.weight.to(self.dtype),
            bias=own.bias,
            ref_bias=its.bias,
            softcap=own.softcap,
            ref_softcap=its.softcap,
            scale=own.scale / self.temperature,
            ref_scale=its.scale / self.temperature,
        )
        return self._of_head(states, batch.token_ids[batch.trained[rows]]), divergence

    @torch.no_grad()
    def states(self, batch: Batch, *, rows: Tensor) -> States:
        """What the head makes of the trained rows ``rows`` [m], ascending: m x V numbers, so for a few."""
        rollouts = torch.bincount(batch.rollout_of[rows]).nonzero().squeeze(1)
        packed, before = self._hidden(batch, rollouts=rollouts, rows=rows)
        hidden = packed[before]
        target = batch.token_ids[batch.trained[rows]]
        head = self.policy.head
        products = torch.nn.functional.linear(hidden.float(), head.weight.float()).requires_grad_()
        with torch.enable_grad():
            logits = head.finish(products if head.bias is None else products + head.bias) / self.temperature
            logprobs = torch.log_softmax(logits, 1).gather(1, target.unsqueeze(1))
            (pull,) = torch.autograd.grad(logprobs.sum(), products)
        return States(rows=rows, hidden=hidden.float(), pull=pull)

    def ahead(self, batch: Batch, *, plan: Plan, needs: frozenset[str] = frozenset()) -> Ahead:
        """The forward of the plan's first pack, with gradient: the update's first, before it is known."""
        rollouts = plan[0][0].packs[0]
        rows = rows_of(batch, rollouts)
        return Ahead(rollouts, rows, self.stats(batch, rollouts=rollouts, rows=rows, needs=needs))

    @torch.no_grad()
    def everywhere(
        self, batch: Batch, *, plan: Plan, needs: frozenset[str] = frozenset(), ahead: Ahead | None = None
    ) -> dict[str, Tensor]:
        """``logprobs``, ``entropy`` and the statistics in ``needs`` of the trained tokens, [N] each.

        ``hidden``, where it is needed, is [N, H] in the format of the products.

        The pack that ``ahead`` has is not run again; it must have been scored with the same ``needs``. Tokens
        that are not in the plan get 0, so the results of parts of a plan add up.
        """
        names = sorted({"logprobs", "entropy"} | needs)
        dtype = torch.promote_types(self.dtype, torch.float32)
        filled = {
            name: torch.zeros(batch.num_tokens, dtype=dtype, device=batch.trained.device) for name in names
        }
        if "hidden" in needs:
            shape = (batch.num_tokens, self.policy.hidden_size)
            filled["hidden"] = torch.zeros(shape, dtype=self.dtype, device=batch.trained.device)
        packs = (pack for mini_batch in plan for micro in mini_batch for pack in micro.packs)
        for rollouts in packs:
            rows = rows_of(batch, rollouts)
            if ahead is not None and rollouts is ahead.rollouts:
                stats = ahead.stats
            else:
                stats = self.stats(batch, rollouts=rollouts, rows=rows, needs=needs)
            for name in names:
                filled[name][rows] = getattr(stats, name)
        return filled


def statistics_in(needs: frozenset[str], *, of: str) -> frozenset[str]:
    """Statistics of the head, and ``hidden``, that the columns ``<of>_<name>`` in ``needs`` are made of."""
    return frozenset(name for name in (*STATISTICS, "hidden") if f"{of}_{name}" in needs)


def rows_of(batch: Batch, rollouts: Tensor) -> Tensor:
    """Trained rows of some rollouts, ascending."""
    return torch.isin(batch.rollout_of, rollouts).nonzero().squeeze(1)


def autocast(policy: Policy, dtype: torch.dtype) -> AbstractContextManager[object]:
    """With ``dtype`` bfloat16 the matrix products inside are in it; nothing happens with float32.

    Weights stay in float32 and are rounded at each use, so a step too small for bfloat16 is not lost.
    Embeddings and norms are not rounded at all: an engine that loads the weights in bfloat16 samples from a
    slightly other policy, one that shares the trainer's does not.
    """
    if dtype == torch.float32:
        return nullcontext()
    return torch.autocast(policy.device.type, dtype=dtype)
