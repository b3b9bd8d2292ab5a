"""The tables that a loss reads: no padding, tokens in one flat table, joined to their rollouts and prompts.

Shapes: M all tokens, N trained tokens, R rollouts, P prompts; n and r are the tokens and rollouts of a
part of the batch. A component of a method reads a :class:`Batch` (once per optimiser batch) or a
:class:`View` (once per micro-batch); both are read-only.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from enum import StrEnum
from functools import cached_property
from itertools import chain

import torch
from torch import Tensor

from tokensweep.loss.head import STATISTICS

_FILLED_BY = {
    **{f"old_{name}": "the trainer's pass with the policy that sampled" for name in STATISTICS},
    **{f"new_{name}": "the trainer's pass after the update, for probes," for name in STATISTICS},
    "old_hidden": "the trainer's pass with the policy that sampled",
    "sampler_logprobs": "the rollout engine",
    "ref_logprobs": "a pass with the frozen reference model",
    "ref_entropy": "a pass with the frozen reference model",
    "uniform": "the trainer, which draws one number per token",
}

RULED = "ruled"  # fact: 1 where a rollout was drawn by a sampling rule, else 0; missing where none was

MAX_LOG_RATIO = 20.0  # exp(20) = 4.9e8 is finite in float32, and no clip range reaches it


class Scope(StrEnum):
    """The set of trained tokens that a statistic is taken over."""

    rollout = "rollout"
    group = "group"  # all rollouts of a prompt
    micro = "micro"  # one forward
    mini = "mini"  # one optimiser step
    batch = "batch"  # all rollouts between two weight syncs


class Unit(StrEnum):
    """What counts equally in a mean."""

    token = "token"
    rollout = "rollout"  # long or short


class Columns(dict[str, Tensor]):
    """Token columns by name; a missing one raises ValueError that says what would fill it."""

    def __missing__(self, name: str) -> Tensor:
        source = _FILLED_BY.get(name, "a scorer")
        raise ValueError(
            f"a column {name!r} must exist, got {sorted(self)}: {source} fills it, "
            "if a component names it in its needs"
        )


@dataclass(frozen=True, kw_only=True)
class Batch:
    """One optimiser batch: a table of tokens, a table of rollouts, and the columns of the trained tokens.

    Every trained token is a completion token (the one that ends it included). ``with_columns`` appends;
    nothing is ever written in place. Raises ValueError where the tables don't fit together.
    """

    token_ids: Tensor  # [M] int64
    sequence_of: Tensor  # [M] int64, rollout of each token, non-decreasing
    position: Tensor  # [M] int64, from 0 within the sequence
    trained: Tensor  # [N] int64, rows of the token table, ascending
    prompt_of: Tensor  # [R] int64, group in 0..P-1
    accuracy: Tensor  # [R] raw grade, 1 is correct
    rewards: Tensor  # [R] what the method's reward terms add up to
    lengths: Tensor  # [R] int64, trained tokens
    truncated: Tensor  # [R] bool
    minibatch_of: Tensor  # [R] int64
    microbatch_of: Tensor  # [R] int64, numbered through the batch, ascending with minibatch_of
    columns: Mapping[str, Tensor] = field(default_factory=Columns)  # each [N], or [N, ...] until prepared
    facts: Mapping[str, Tensor] = field(default_factory=dict)  # each [R], what components read in rollouts
    max_tokens: int  # limit of a completion when it was sampled

    def __post_init__(self) -> None:
        object.__setattr__(self, "columns", Columns(self.columns))
        for name, fact in self.facts.items():
            _check_shape(name, fact, like=self.prompt_of, of="rollout")
        for name in ("accuracy", "rewards", "lengths", "truncated", "minibatch_of", "microbatch_of"):
            _check_shape(name, getattr(self, name), like=self.prompt_of, of="rollout")
        for name, column in self.columns.items():
            _check_shape(
                name, column[:, 0] if column.ndim > 1 else column, like=self.trained, of="trained token"
            )
        counts = torch.bincount(self.rollout_of, minlength=self.num_rollouts)
        if not torch.equal(counts, self.lengths):
            raise ValueError(
                f"lengths must count the trained tokens {counts.tolist()}, got {self.lengths.tolist()}"
            )

    @cached_property
    def rollout_of(self) -> Tensor:
        """Rollout of each trained token, [N] int64, non-decreasing."""
        return self.sequence_of[self.trained]

    @cached_property
    def completion_position(self) -> Tensor:
        """Place of each trained token among those of its rollout, [N] int64 from 0."""
        first = self.lengths.cumsum(0) - self.lengths
        return torch.arange(self.num_tokens, device=first.device) - first[self.rollout_of]

    @property
    def num_tokens(self) -> int:
        """N, the trained tokens."""
        return self.trained.numel()

    @property
    def num_rollouts(self) -> int:
        """R."""
        return self.prompt_of.numel()

    @cached_property
    def num_prompts(self) -> int:
        """P."""
        return int(self.prompt_of.max()) + 1 if self.num_rollouts else 0

    @cached_property
    def equal_rewards(self) -> Tensor:
        """Groups whose rewards are all one number, [P] bool: they carry no signal."""
        none = self.rewards.new_zeros(self.num_prompts)
        low = none.scatter_reduce(0, self.prompt_of, self.rewards, "amin", include_self=False)
        high = none.scatter_reduce(0, self.prompt_of, self.rewards, "amax", include_self=False)
        return low == high

    @cached_property
    def centred_rewards(self) -> Tensor:
        """Rewards minus the mean of their group, [R]; of equal rewards up to rounding 0."""
        size = self.by_prompt(torch.ones_like(self.rewards))
        return self.rewards - (self.by_prompt(self.rewards) / size)[self.prompt_of]

    def with_columns(self, **columns: Tensor) -> Batch:
        """The same batch with token columns [N] added or replaced."""
        return replace(self, columns={**self.columns, **columns})

    def by_rollout(self, x: Tensor) -> Tensor:
        """Sum of a token column [N] over each rollout, [R]."""
        return sum_by(x, self.rollout_of, size=self.num_rollouts)

    def by_prompt(self, x: Tensor) -> Tensor:
        """Sum of a rollout column [R] over each prompt, [P]."""
        return sum_by(x, self.prompt_of, size=self.num_prompts)

    def segments(self, scope: Scope) -> Tensor:
        """Number of the segment that each trained token belongs to under ``scope``, [N] int64."""
        if scope is Scope.rollout:
            return self.rollout_of
        if scope is Scope.batch:
            return torch.zeros_like(self.rollout_of)
        of = {Scope.group: self.prompt_of, Scope.micro: self.microbatch_of, Scope.mini: self.minibatch_of}
        return of[scope][self.rollout_of]

    def to(self, device: torch.device | str) -> Batch:
        """The same batch on another device."""
        moved = {f.name: getattr(self, f.name).to(device) for f in fields(self) if f.type == "Tensor"}
        columns = {name: column.to(device) for name, column in self.columns.items()}
        facts = {name: fact.to(device) for name, fact in self.facts.items()}
        return replace(self, **moved, columns=columns, facts=facts)


def pack(
    prompts: Sequence[Sequence[int]],
    *,
    completions: Sequence[Sequence[int]],
    prompt_of: Sequence[int],
    accuracy: Sequence[float],
    truncated: Sequence[bool],
    max_tokens: int,
) -> Batch:
    """A batch from token ids, one prompt and one completion per rollout; trained are the completions.

    Until the method has spoken, rewards are the accuracy and all rollouts form one mini-batch and one
    micro-batch: ``dataclasses.replace`` fills ``rewards``, ``minibatch_of`` and ``microbatch_of``.
    """
    if not len(prompts) == len(completions) == len(prompt_of) == len(accuracy) == len(truncated):
        raise ValueError(
            "every rollout must have a prompt, a completion, a group, a grade and a flag, got "
            f"{len(prompts)}, {len(completions)}, {len(prompt_of)}, {len(accuracy)} and {len(truncated)}"
        )
    before = torch.tensor([len(p) for p in prompts], dtype=torch.int64)
    lengths = torch.tensor([len(c) for c in completions], dtype=torch.int64)
    sequence_of = torch.repeat_interleave(torch.arange(len(prompts)), before + lengths)
    first = (before + lengths).cumsum(0) - before - lengths
    position = torch.arange(sequence_of.numel()) - first[sequence_of]
    one = torch.zeros(len(prompts), dtype=torch.int64)
    ids = chain.from_iterable(chain(p, c) for p, c in zip(prompts, completions, strict=True))
    grades = torch.tensor(accuracy, dtype=torch.float32)
    return Batch(
        token_ids=torch.tensor(list(ids), dtype=torch.int64),
        sequence_of=sequence_of,
        position=position,
        trained=(position >= before[sequence_of]).nonzero().squeeze(1),
        prompt_of=torch.tensor(prompt_of, dtype=torch.int64),
        accuracy=grades,
        rewards=grades,
        lengths=lengths,
        truncated=torch.tensor(truncated, dtype=torch.bool),
        minibatch_of=one,
        microbatch_of=one,
        max_tokens=max_tokens,
    )


@dataclass(frozen=True, kw_only=True)
class Totals:
    """Sizes of a whole mini-batch: the denominators of one optimiser step, the same in each micro-batch."""

    tokens: int  # trained tokens
    rollouts: int
    weight: float  # sum of the weights that are known before the step
    micro_batches: int


@dataclass(frozen=True, kw_only=True)
class TokenTable:
    """Tokens of some rollouts, without those that are known to carry no gradient.

    Rollouts are numbered from 0 within the table; ``lengths`` still counts all their trained tokens.
    """

    rollout_of: Tensor  # [n] int64, non-decreasing
    completion_position: Tensor  # [n] int64
    advantages: Tensor  # [n]
    weights: Tensor  # [n], product of the token weights known so far; 0 means: this token does not exist
    columns: Mapping[str, Tensor]  # each [n]
    lengths: Tensor  # [r] int64, trained tokens of the whole rollout
    prompt_of: Tensor  # [r] int64
    rewards: Tensor  # [r]
    accuracy: Tensor  # [r]
    truncated: Tensor  # [r] bool
    facts: Mapping[str, Tensor]  # each [r]
    totals: Totals
    max_tokens: int

    @property
    def num_rollouts(self) -> int:
        """r."""
        return self.lengths.numel()

    def by_rollout(self, x: Tensor) -> Tensor:
        """Sum of a token column [n] over each rollout, [r]."""
        return sum_by(x, self.rollout_of, size=self.num_rollouts)

    def mean(self, x: Tensor, unit: Unit) -> Tensor:
        """Share of a mean over the whole mini-batch, scalar, of the token column ``x`` [n].

        Over its tokens, or over its rollouts of the mean over each one's tokens. A token that is not in the
        table counts in the denominator, with the value 0.
        """
        if unit is Unit.token:
            return x.sum() / max(self.totals.tokens, 1)
        return (self.by_rollout(x) / self.lengths.clamp(min=1)).sum() / self.totals.rollouts

    def view(self, *, logprobs: Tensor, entropy: Tensor, ref_divergence: Tensor | None = None) -> View:
        """The table with what a policy says of its tokens, each [n] in nats."""
        own = {f.name: getattr(self, f.name) for f in fields(TokenTable)}
        return View(**own, logprobs=logprobs, entropy=entropy, ref_divergence=ref_divergence)


@dataclass(frozen=True, kw_only=True)
class View(TokenTable):
    """What a component may read of a micro-batch.

    ``logprobs`` carries a gradient; ``entropy`` only where a component declares ``differentiates_entropy``.
    """

    logprobs: Tensor  # [n] nats, current policy
    entropy: Tensor  # [n] nats, current policy
    ref_divergence: Tensor | None = (
        None  # [n] nats, KL(reference || current policy); None where nobody needs it
    )
    segment_of: Mapping[Scope, Tensor] = field(default_factory=dict)  # each [n] int64; empty: one micro-batch

    @property
    def log_ratio(self) -> Tensor:
        """``logprobs - old_logprobs`` [n], held within ±20 so that its exponential is finite."""
        return (self.logprobs - self.columns["old_logprobs"]).clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO)

    @property
    def signal(self) -> Tensor:
        """Tokens [n] bool that the surrogate can draw a gradient from: weight and advantage are not 0."""
        return (self.weights != 0) & (self.advantages != 0)

    def segments(self, scope: Scope) -> Tensor:
        """Number of the segment that each token belongs to under ``scope``, [n] int64.

        Raises ValueError for a scope wider than a micro-batch when no more than that is visible.
        """
        if scope in self.segment_of:
            return self.segment_of[scope]
        if scope is Scope.rollout:
            return self.rollout_of
        if scope is Scope.micro:
            return torch.zeros_like(self.rollout_of)
        raise ValueError(
            f"the current policy is known for one micro-batch only, got scope {scope}: use micro"
        )


def sum_by(x: Tensor, index: Tensor, *, size: int) -> Tensor:
    """Sum of ``x`` [n] over the rows with the same ``index`` [n], as [size]."""
    return x.new_zeros(size).index_add(0, index, x)


def mean_over(chosen: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
    """Sum and count of ``x`` [n] over the tokens ``chosen`` [n] bool: a mean that can be added up."""
    return torch.where(chosen, x, 0.0).sum(), chosen.sum()


def _check_shape(name: str, x: Tensor, *, like: Tensor, of: str) -> None:
    if x.shape != like.shape:
        raise ValueError(f"{name} must have one value per {of}, {like.numel()}, got shape {list(x.shape)}")
