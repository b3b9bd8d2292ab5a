"""From a batch and a method to a loss: :func:`score`, :func:`prepare`, then :func:`micro_loss` per forward.

The order of one optimiser batch::

    batch = replace(batch, minibatch_of=method.minibatch(batch, num_minibatches=..., seed=...), ...)
    batch = batch.with_columns(old_logprobs=..., old_entropy=..., uniform=...)
    batch = replace(batch, rewards=score(method, batch))
    method, memories = adapt(method, memories, batch)  # where components remember
    prepared = prepare(method, batch)
    micro = prepared.micro(rollouts)              # of one mini-batch
    ... forward; the head on the trained rows micro.rows only ...
    micro_loss(method, micro, logprobs, entropy).loss.backward()

Every denominator is that of the whole mini-batch: the losses of its micro-batches are added, never averaged.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from tokensweep.loss.method import Method
from tokensweep.loss.slots import CURRENT, Guarantee, Policy
from tokensweep.loss.tables import Batch, Columns, Scope, TokenTable, Totals, View, mean_over


@dataclass(frozen=True, kw_only=True)
class Micro:
    """The tokens of one forward that may carry a gradient."""

    rollouts: Tensor  # [r] int64, ascending, rollouts of the batch
    rows: Tensor  # [n] int64, ascending, trained rows of the batch that the head must score
    table: TokenTable
    num_tokens: Tensor  # scalar, trained tokens of these rollouts, left-out ones included
    num_kept: Tensor  # scalar, those of them with a weight that is not 0


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """What is fixed for an optimiser batch before its first update. No gradient anywhere."""

    batch: Batch
    advantages: Tensor  # [N]
    weights: Tensor  # [N], product of the token weights of the old policy
    active: Tensor  # [N] bool, False where the gradient is known to be 0
    totals: tuple[Totals, ...]  # per mini-batch
    measured: Mapping[str, float] = field(default_factory=dict)  # the parts' own numbers of this batch

    def micro(self, rollouts: Tensor) -> Micro:
        """The part of the batch for one forward over ``rollouts`` [r] int64, in any order.

        Raises ValueError unless they all are of one mini-batch.
        """
        batch = self.batch
        rollouts = rollouts.sort().values
        numbers = sorted(set(batch.minibatch_of[rollouts].tolist()))
        if len(numbers) != 1:
            raise ValueError(
                f"the rollouts of a micro-batch must be of one mini-batch, got mini-batches {numbers}"
            )
        member = torch.zeros(batch.num_rollouts, dtype=torch.bool, device=rollouts.device)
        member[rollouts] = True
        local = member.cumsum(0) - 1
        inside = member[batch.rollout_of]
        rows = (inside & self.active).nonzero().squeeze(1)
        table = TokenTable(
            rollout_of=local[batch.rollout_of[rows]],
            completion_position=batch.completion_position[rows],
            advantages=self.advantages[rows],
            weights=self.weights[rows],
            columns=Columns({name: column[rows] for name, column in batch.columns.items()}),
            lengths=batch.lengths[rollouts],
            prompt_of=batch.prompt_of[rollouts],
            rewards=batch.rewards[rollouts],
            accuracy=batch.accuracy[rollouts],
            truncated=batch.truncated[rollouts],
            facts={name: fact[rollouts] for name, fact in batch.facts.items()},
            totals=self.totals[numbers[0]],
            max_tokens=batch.max_tokens,
        )
        kept = (inside & (self.weights != 0)).sum()
        return Micro(rollouts=rollouts, rows=rows, table=table, num_tokens=inside.sum(), num_kept=kept)


@dataclass(frozen=True, kw_only=True)
class LossOutput:
    """Loss share of a micro-batch and its metrics as sums, so that metrics weigh tokens as the loss does."""

    loss: Tensor  # scalar; the shares of a mini-batch add up
    metrics: Mapping[str, tuple[Tensor, Tensor]]  # name -> (sum, count), to be added before dividing
    measured: Mapping[str, tuple[Tensor, Tensor]]  # the parts' own numbers, likewise


def score(method: Method, batch: Batch) -> Tensor:
    """Rewards [R]: the method's reward terms, added up with their weights.

    Raises ValueError naming a column that a term needs and the batch lacks.
    """
    terms = [term.weight * term(batch) for term in method.reward_terms.values()]
    return torch.stack(terms).sum(0)


def provisional_score(method: Method, batch: Batch) -> Tensor:
    """Rewards [R] before a policy has looked at the tokens: the grade where a term waits for that."""
    if any(term.needs - set(batch.columns) for term in method.reward_terms.values()):
        return batch.accuracy
    return score(method, batch)


@torch.no_grad()
def prepare(method: Method, batch: Batch) -> Prepared:
    """Advantages, old-policy weights, active rows and denominators of an optimiser batch.

    Columns of more than one number per token are read here and not kept for the update: they are large.
    Raises ValueError naming a column that the method needs and the batch lacks.
    """
    for name in sorted(method.needs() - CURRENT):
        _ = batch.columns[name]
    batch = _with_token_rewards(method, batch)
    advantages = method.advantage(batch)
    whole = _whole(batch, advantages=advantages, weights=torch.ones_like(advantages))
    for shaper in method.shapers_of(Policy.old):
        whole = replace(whole, advantages=shaper(whole))
    advantages, weights = whole.advantages, whole.weights
    for weight in method.token_weights_of(Policy.old):
        weights = weights * weight(whole)
    own = _own_columns(method, replace(whole, weights=weights))
    batch = batch.with_columns(**own) if own else batch
    whole = replace(whole, weights=weights, columns=batch.columns)
    narrow = {name: column for name, column in batch.columns.items() if column.ndim == 1}
    return Prepared(
        batch=replace(batch, columns=narrow) if len(narrow) < len(batch.columns) else batch,
        advantages=advantages,
        weights=weights,
        active=_active(method, batch, advantages=advantages, weights=weights),
        totals=_totals(batch, weights=weights),
        measured={
            f"{where}/{name}": value
            for where, part in method.parts()
            for name, value in part.batch_metrics(whole).items()
        },
    )


def _with_token_rewards(method: Method, batch: Batch) -> Batch:
    """The batch with what was earned at tokens, as a column and in the rewards of its rollouts."""
    if not method.token_rewards:
        return batch
    earned = torch.stack([term(batch) for term in method.token_rewards.values()]).sum(0)
    return replace(batch.with_columns(token_rewards=earned), rewards=batch.rewards + batch.by_rollout(earned))


def _own_columns(method: Method, whole: View) -> dict[str, Tensor]:
    """Columns that components make for themselves. Raises ValueError when two make the same one."""
    own: dict[str, Tensor] = {}
    for where, part in method.parts():
        for name, column in part.columns(whole).items():
            if name in own or name in whole.columns:
                raise ValueError(f"the column {name!r} of {where} is there already: use one such component")
            own[name] = column
    return own


def _whole(batch: Batch, *, advantages: Tensor, weights: Tensor) -> View:
    """The optimiser batch as seen by the policy that sampled."""
    logprobs = batch.columns["old_logprobs"]
    return View(
        rollout_of=batch.rollout_of,
        completion_position=batch.completion_position,
        advantages=advantages,
        weights=weights,
        columns=batch.columns,
        lengths=batch.lengths,
        prompt_of=batch.prompt_of,
        rewards=batch.rewards,
        accuracy=batch.accuracy,
        truncated=batch.truncated,
        facts=batch.facts,
        totals=_total(batch, torch.ones_like(batch.prompt_of, dtype=torch.bool), weights=weights),
        max_tokens=batch.max_tokens,
        logprobs=logprobs,
        entropy=batch.columns.get("old_entropy", logprobs.new_empty(0)),  # who reads it declares the need
        segment_of={scope: batch.segments(scope) for scope in Scope},
    )


def _active(method: Method, batch: Batch, *, advantages: Tensor, weights: Tensor) -> Tensor:
    """Rows [N] whose gradient is not known to be 0: fewer where the parts look no further than a token."""
    laws = method.guarantees()
    if not laws >= {Guarantee.signal_only, Guarantee.rollout_local}:
        return torch.ones_like(weights, dtype=torch.bool)
    signal = (weights != 0) & (advantages != 0)
    if Guarantee.token_local in laws:
        return signal
    has_signal = batch.by_rollout(signal.long()) > 0
    return (weights != 0) & has_signal[batch.rollout_of]


def _totals(batch: Batch, *, weights: Tensor) -> tuple[Totals, ...]:
    count = int(batch.minibatch_of.max()) + 1 if batch.num_rollouts else 0
    return tuple(_total(batch, batch.minibatch_of == number, weights=weights) for number in range(count))


def _total(batch: Batch, member: Tensor, *, weights: Tensor) -> Totals:
    """Sizes of the mini-batch made of the rollouts ``member`` [R] bool."""
    return Totals(
        tokens=int(batch.lengths[member].sum()),
        rollouts=int(member.sum()),
        weight=float(weights[member[batch.rollout_of]].double().sum()),
        micro_batches=len(set(batch.microbatch_of[member].tolist())),
    )


def micro_loss(
    method: Method,
    micro: Micro,
    logprobs: Tensor,
    entropy: Tensor,
    *,
    ref_divergence: Tensor | None = None,
) -> LossOutput:
    """The loss share of a micro-batch, from the current policy's log-probabilities and entropies.

    ``logprobs`` [n] nats with gradient and ``entropy`` [n] nats belong to ``micro.rows``, so does
    ``ref_divergence`` [n] nats with gradient, where the method needs it. A token of
    weight 0 is taken out before anything is exponentiated: a NaN there stays harmless. A micro-batch
    without active rows gives a loss of 0 that is still part of the graph.
    """
    if not any(part.differentiates_entropy for _, part in method.parts()):
        entropy = entropy.detach()
    seen = micro.table.view(logprobs=logprobs, entropy=entropy, ref_divergence=ref_divergence)
    seen = replace(seen, advantages=_all_advantages(method, seen))
    weights = _all_weights(method, seen)
    kept = torch.where(weights != 0, logprobs, seen.columns["old_logprobs"])
    view = replace(seen, logprobs=kept, weights=weights)
    log_ratio = method.ratio(view)
    objective = method.surrogate(view, log_ratio)
    loss = -method.aggregate(view, objective)
    metrics = _metrics(method, micro, view=view, log_ratio=log_ratio)
    for name, regularizer in method.regularizers.items():
        penalty = regularizer(replace(seen, weights=weights))
        loss = loss + penalty
        metrics[f"regularizer/{name}"] = _per_minibatch(penalty, view)
    return LossOutput(loss=loss, metrics=metrics, measured=_measured(method, view, log_ratio))


@torch.no_grad()
def _measured(method: Method, view: View, log_ratio: Tensor) -> dict[str, tuple[Tensor, Tensor]]:
    """What the parts tell of themselves, by part and name."""
    log_ratio = log_ratio.detach()
    detached = replace(view, logprobs=view.logprobs.detach(), entropy=view.entropy.detach())
    return {
        f"{where}/{name}": pair
        for where, part in method.parts()
        for name, pair in part.metrics(detached, log_ratio).items()
    }


def _per_minibatch(share: Tensor, view: View) -> tuple[Tensor, Tensor]:
    """The share of a mini-batch's sum as a metric: the mean over mini-batches."""
    share = share.detach()
    return share, torch.full_like(share, 1 / view.totals.micro_batches)


def _all_advantages(method: Method, seen: View) -> Tensor:
    """The advantages of the table after the shapers that read the current policy, [n], without gradient."""
    detached = replace(seen, logprobs=seen.logprobs.detach(), entropy=seen.entropy.detach())
    for shaper in method.shapers_of(Policy.current):
        detached = replace(detached, advantages=shaper(detached))
    return detached.advantages


def _all_weights(method: Method, seen: View) -> Tensor:
    """The weights of the table times those that read the current policy, [n], without gradient."""
    weights = seen.weights
    detached = replace(seen, logprobs=seen.logprobs.detach(), entropy=seen.entropy.detach())
    for weight in method.token_weights_of(Policy.current):
        weights = weights * weight(detached)
    return weights


@torch.no_grad()
def _metrics(
    method: Method, micro: Micro, *, view: View, log_ratio: Tensor
) -> dict[str, tuple[Tensor, Tensor]]:
    """Sums over the tokens with a signal (weight and advantage not 0): the same with others left out."""
    signal = view.signal
    token_log_ratio = view.log_ratio.detach()
    ratio = token_log_ratio.exp()
    kept = micro.num_kept - (micro.table.weights != 0).sum() + (view.weights != 0).sum()

    clipped = method.surrogate.clipped(view, log_ratio.detach()).to(ratio.dtype)
    return {
        "clip_fraction": mean_over(signal, clipped),
        "ratio": mean_over(signal, ratio),
        "approx_kl": mean_over(signal, ratio - 1 - token_log_ratio),  # k3 of old against current policy, nats
        "signal_fraction": (signal.sum(), micro.num_tokens),
        "kept_fraction": (kept, micro.num_tokens),
    }
