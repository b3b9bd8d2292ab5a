"""From graded rollouts to the Batch table, and its division into mini-batches, micro-batches and packs."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from tokensweep.loss.method import Method
from tokensweep.loss.objective import provisional_score
from tokensweep.loss.tables import RULED, Batch, pack
from tokensweep.seeds import derive_seed
from tokensweep.train.collect import Group, Trial
from tokensweep.train.ranks import Ranks


@dataclass(frozen=True, kw_only=True)
class MicroBatch:
    """Rollouts [r] whose loss is computed together, ascending, and how they are split into forwards.

    Rollouts of groups with one reward usually carry no gradient; in a pack of their own their forward can be
    left out of the update without changing what shares a forward with what.
    """

    rollouts: Tensor
    packs: tuple[Tensor, ...]

    def to(self, device: torch.device | str) -> MicroBatch:
        """The same on another device."""
        packs = tuple(pack.to(device) for pack in self.packs)
        return MicroBatch(rollouts=self.rollouts.to(device), packs=packs)


Plan = tuple[tuple[MicroBatch, ...], ...]  # micro-batches of every mini-batch


def build_batch(groups: Sequence[Group], *, method: Method, max_tokens: int, seed: int) -> Batch:
    """The table of some groups, with ``uniform`` and ``sampler_logprobs``; not yet divided.

    Its rewards are provisional where a reward term waits for the old policy. ``seed`` decides the column
    ``uniform`` alone.
    """
    trials = [trial for group in groups for trial in group]
    batch = pack(
        [trial.request.prompt_ids for trial in trials],
        completions=[trial.rollout.completion_ids for trial in trials],
        prompt_of=[number for number, group in enumerate(groups) for _ in group],
        accuracy=[trial.grade.accuracy for trial in trials],
        truncated=[trial.rollout.finish_reason == "length" for trial in trials],
        max_tokens=max_tokens,
    )
    generator = torch.Generator().manual_seed(derive_seed(seed, "uniform"))
    sampled = [value for trial in trials for value in trial.rollout.sampler_logprobs]
    batch = batch.with_columns(
        sampler_logprobs=torch.tensor(sampled), uniform=torch.rand(batch.num_tokens, generator=generator)
    )
    batch = replace(batch, facts=facts_of(method, trials))
    return replace(batch, rewards=provisional_score(method, batch))


def facts_of(method: Method, trials: Sequence[Trial]) -> dict[str, Tensor]:
    """What the parts of the method read in the rollouts, and which were drawn by a rule if any was.

    Raises ValueError when two read the same.
    """
    ruled = [float(bool(trial.request.rules)) for trial in trials]
    facts: dict[str, Tensor] = {RULED: torch.tensor(ruled)} if any(ruled) else {}
    for where, part in method.parts():
        told = [part.facts(trial) for trial in trials]
        for name in told[0] if told else ():
            if name in facts:
                raise ValueError(f"the fact {name!r} of {where} is there already: use one such component")
            facts[name] = torch.tensor([each[name] for each in told], dtype=torch.float32)
    return facts


def trusting_trainer(batch: Batch) -> Batch:
    """The batch with ``old_logprobs`` as the ``sampler_logprobs`` of rollouts that were drawn by a rule.

    The engine's are of the rule's distribution, so their ratio to the trainer's is no mismatch: every
    correction for the sampler sees a ratio of 1 there.
    """
    if RULED not in batch.facts:
        return batch
    ruled = batch.facts[RULED][batch.rollout_of] > 0
    columns = batch.columns
    trusted = torch.where(ruled, columns["old_logprobs"], columns["sampler_logprobs"])
    return batch.with_columns(sampler_logprobs=trusted)


def divide(batch: Batch, *, method: Method, micro_tokens: int, seed: int) -> tuple[Batch, Plan]:
    """The batch with its mini-batches and micro-batches, and the plan that runs them.

    A micro-batch holds at most ``micro_tokens`` prompt and completion tokens, but always a whole rollout.
    """
    most = batch.num_prompts if method.minibatch.keeps_groups else batch.num_rollouts
    num_minibatches = min(method.updates_per_batch, most)
    seen = batch
    if method.minibatch.reads_advantages:
        seen = batch.with_columns(advantages=method.advantage(batch))
    minibatch_of = method.minibatch(
        seen, num_minibatches=num_minibatches, seed=derive_seed(seed, "mini-batches")
    )
    sizes = torch.bincount(batch.sequence_of, minlength=batch.num_rollouts).tolist()
    microbatch_of = torch.zeros_like(minibatch_of)
    constant = batch.equal_rewards[batch.prompt_of]  # rollouts [R] whose group has one reward only
    plan, number = [], 0
    for mini in range(num_minibatches):
        members = (minibatch_of == mini).nonzero().squeeze(1).tolist()
        micros = []
        for chosen in fill_bins(members, sizes=sizes, budget=micro_tokens):
            rollouts = torch.tensor(chosen)
            microbatch_of[rollouts] = number
            number += 1
            dull = constant[rollouts]
            packs = tuple(part for part in (rollouts[~dull], rollouts[dull]) if len(part))
            micros.append(MicroBatch(rollouts=rollouts, packs=packs))
        plan.append(tuple(micros))
    return replace(batch, minibatch_of=minibatch_of, microbatch_of=microbatch_of), tuple(plan)


def own_part(plan: Plan, ranks: Ranks) -> Plan:
    """The micro-batches of a plan that this rank runs, every one in its mini-batch; some may have none.

    The plan itself does not depend on the number of ranks: it decides what a micro-batch-wide selection sees.
    """
    numbers = itertools.count()
    return tuple(
        tuple(micro for micro in mini_batch if next(numbers) % ranks.size == ranks.rank)
        for mini_batch in plan
    )


def fill_bins(members: Sequence[int], *, sizes: Sequence[int], budget: int) -> list[list[int]]:
    """``members`` in bins, each ascending, whose ``sizes`` add up to at most ``budget``.

    First fit, longest first. A member that is larger than the budget gets a bin of its own.
    """
    bins: list[list[int]] = []
    loads: list[int] = []
    for member in sorted(members, key=lambda m: (-sizes[m], m)):
        fitting = (b for b, load in enumerate(loads) if load + sizes[member] <= budget)
        place = next(fitting, len(bins))
        if place == len(bins):
            bins.append([])
            loads.append(0)
        bins[place].append(member)
        loads[place] += sizes[member]
    return [sorted(members) for members in bins]
