"""Forward passes of a policy over packed rollouts: one path for old, reference and current log-probabilities.

The old-policy pass runs over the very packs that the update runs over, so before the first optimiser step
both give the same bits and every ratio is exactly 1.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor

from tokensweep.loss.head import TokenStats, linear_token_stats
from tokensweep.loss.tables import Batch
from tokensweep.models.policy import Policy
from tokensweep.train.batch import Plan


def token_stats(
    policy: Policy,
    batch: Batch,
    *,
    rollouts: Tensor,
    rows: Tensor,
    temperature: float,
    needs: frozenset[str] = frozenset(),
) -> TokenStats:
    """Statistics [n] of the trained rows ``rows`` [n], all of which belong to ``rollouts`` [r]; both ascend.

    One packed forward over the whole sequences of ``rollouts``; only the n rows enter the head. The
    distribution is that of the logits divided by ``temperature``. Gradients flow where they are enabled.
    """
    sizes = torch.bincount(batch.sequence_of, minlength=batch.num_rollouts)
    starts = sizes.cumsum(0) - sizes
    bounds = torch.cat([sizes.new_zeros(1), sizes[rollouts].cumsum(0)])
    shift = torch.zeros_like(starts).index_copy(0, rollouts, starts[rollouts] - bounds[:-1])
    packed = torch.repeat_interleave(shift[rollouts], sizes[rollouts])
    packed = packed + torch.arange(packed.numel(), device=packed.device)
    hidden = policy.hidden(batch.token_ids[packed], bounds)
    target = batch.trained[rows]
    before = (
        target - shift[batch.sequence_of[target]] - 1
    )  # the state that predicts a token is the one before it
    return linear_token_stats(
        hidden[before], policy.head_weight, batch.token_ids[target], scale=1.0 / temperature, needs=needs
    )


@torch.no_grad()
def old_columns(
    policy: Policy, batch: Batch, *, plan: Plan, temperature: float, needs: frozenset[str]
) -> dict[str, Tensor]:
    """Columns [N] of the policy before its update: log-probability, entropy, varentropy where needed."""
    extra = frozenset({"varentropy"} if "old_varentropy" in needs else ())
    return {
        f"old_{name}": values
        for name, values in _everywhere(policy, batch, plan, temperature=temperature, needs=extra).items()
    }


@torch.no_grad()
def reference_column(reference: Policy, batch: Batch, *, plan: Plan, temperature: float) -> dict[str, Tensor]:
    """The column ``ref_logprobs`` [N]."""
    stats = _everywhere(reference, batch, plan, temperature=temperature)
    return {"ref_logprobs": stats["logprobs"]}


def rows_of(batch: Batch, rollouts: Tensor) -> Tensor:
    """Trained rows of some rollouts, ascending."""
    chosen = torch.zeros(batch.num_rollouts, dtype=torch.bool, device=rollouts.device)
    return chosen.index_fill(0, rollouts, True)[batch.rollout_of].nonzero().squeeze(1)


def autocast(policy: Policy, dtype: torch.dtype) -> AbstractContextManager[object]:
    """Weights stay in float32; with ``dtype`` bfloat16 the matrix products of a forward don't."""
    if dtype == torch.float32:
        return nullcontext()
    return torch.autocast(policy.device.type, dtype=dtype)


def _everywhere(
    policy: Policy, batch: Batch, plan: Plan, *, temperature: float, needs: frozenset[str] = frozenset()
) -> dict[str, Tensor]:
    """Statistics of every trained token, pack by pack."""
    filled: dict[str, Tensor] = {}
    for rollouts in _packs(plan):
        rows = rows_of(batch, rollouts)
        stats = token_stats(policy, batch, rollouts=rollouts, rows=rows, temperature=temperature, needs=needs)
        for name in ("logprobs", "entropy", *sorted(needs)):
            values: Tensor = getattr(stats, name)
            filled.setdefault(name, values.new_zeros(batch.num_tokens))[rows] = values
    return filled


def _packs(plan: Plan) -> Iterator[Tensor]:
    return (pack for mini_batch in plan for micro in mini_batch for pack in micro.packs)
