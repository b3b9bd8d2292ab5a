"""Random token tables, our loss on them, and the padded rectangles that other trainers compute on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from functools import cache

import torch
from torch import Tensor

from tokensweep.compose import freeze_run, register_components
from tokensweep.loss.laws import Policies
from tokensweep.loss.method import Method, build_method
from tokensweep.loss.objective import micro_loss, prepare, score
from tokensweep.loss.tables import Batch, pack

NUM_GROUPS = 4
GROUP_SIZE = 5  # TRL takes Bessel's correction in float32, where 5 / 4 is exact
MAX_TOKENS = 16  # limit of a completion; the random ones are shorter
_FLAT_GROUP = 2  # its rewards are all equal


def random_batch(seed: int, *, minibatches: int = 1, micro_batches: int = 2) -> Batch:
    """Twenty rollouts of 1 to 12 tokens with every standard column in float64.

    Four groups, one of them with equal rewards; each mini-batch is cut into micro-batches across groups.
    Entropies are float32 numbers, because TRL ranks them in float32.
    """
    draw = torch.Generator().manual_seed(seed)
    size = NUM_GROUPS * GROUP_SIZE
    lengths = torch.randint(1, 13, (size,), generator=draw).tolist()
    groups = torch.arange(size) // GROUP_SIZE
    rewards = torch.randint(0, 5, (size,), generator=draw).double() / 4
    rewards[groups == _FLAT_GROUP] = 0.75
    batch = pack(
        [[1, 2]] * size,
        completions=[[3] * length for length in lengths],
        prompt_of=groups.tolist(),
        accuracy=[0.0] * size,
        truncated=[number % 6 == 0 for number in range(size)],
        max_tokens=MAX_TOKENS,
    )
    logprobs = -3 * torch.rand(batch.num_tokens, generator=draw, dtype=torch.float64)
    away = 0.5 * torch.randn(batch.num_tokens, generator=draw, dtype=torch.float64)
    columns = {"old_logprobs": logprobs, "ref_logprobs": logprobs + away}
    for name in ("old_entropy", "uniform"):
        columns[name] = torch.rand(batch.num_tokens, generator=draw).double()
    micro = torch.arange(size) % (minibatches * micro_batches)
    cut = replace(
        batch, accuracy=rewards, rewards=rewards, minibatch_of=micro // micro_batches, microbatch_of=micro
    )
    return cut.with_columns(**columns)


class Drift(StrEnum):
    """How far the current policy has moved from the one that sampled."""

    far = "ratios 0.07 to 13.5"
    near = "ratios around 1"
    none = "on-policy"


def drifted(batch: Batch, seed: int, *, drift: Drift = Drift.far) -> Policies:
    """The current policy: log ratios around ±0.3; with ``far`` every seventh token at ±1.6 or ±2.6.

    So ratios of 5 and 13.5, and their inverses, stand beyond every bound that is compared.
    """
    if drift is Drift.none:
        return Policies(batch.columns["old_logprobs"], batch.columns["old_entropy"])
    draw = torch.Generator().manual_seed(1000 + seed)
    log_ratio = 0.3 * torch.randn(batch.num_tokens, generator=draw, dtype=torch.float64)
    entropy = torch.rand(batch.num_tokens, generator=draw).double()
    if drift is Drift.far:
        row = torch.arange(batch.num_tokens)
        steps = torch.tensor([1.6, -1.6, 2.6, -2.6], dtype=torch.float64)[row // 7 % 4]
        log_ratio = torch.where(row % 7 == 0, steps, log_ratio)
    return Policies(batch.columns["old_logprobs"] + log_ratio, entropy)


@dataclass(frozen=True)
class Result:
    """A loss over all mini-batches and its gradients."""

    loss: Tensor  # scalar
    by_logprobs: Tensor  # [N]
    by_entropy: Tensor  # [N]

    def times(self, factor: float) -> Result:
        """All three multiplied."""
        return Result(self.loss * factor, self.by_logprobs * factor, self.by_entropy * factor)

    def distance(self, other: Result) -> tuple[float, float]:
        """Largest absolute difference of the loss and of the gradients."""
        return (
            float((self.loss - other.loss).abs()),
            max(
                float((self.by_logprobs - other.by_logprobs).abs().max()),
                float((self.by_entropy - other.by_entropy).abs().max()),
            ),
        )


@cache
def method_of(overrides: str) -> Method:
    """The method that a command line gives."""
    register_components()
    return build_method(freeze_run([*overrides.split(), "~scale"])["method"])


def ours(method: Method, batch: Batch, now: Policies) -> Result:
    """Our loss through the public path: score, prepare, then one micro-batch after the other."""
    prepared = prepare(method, replace(batch, rewards=score(method, batch)))
    logprobs, entropy = now.logprobs.clone().requires_grad_(), now.entropy.clone().requires_grad_()
    loss = now.logprobs.new_zeros(())
    for number in range(int(batch.microbatch_of.max()) + 1):
        micro = prepared.micro((batch.microbatch_of == number).nonzero().squeeze(1))
        loss = loss + micro_loss(method, micro, logprobs[micro.rows], entropy[micro.rows]).loss
    return _result(loss, logprobs, entropy)


@dataclass(frozen=True, kw_only=True)
class Rectangle:
    """A batch as peers see it: completions padded on the right to T tokens, padding filled with noise."""

    mask: Tensor  # [R, T] float64, 1 on completion tokens
    logprobs: Tensor  # [R, T] nats, carries a gradient
    entropy: Tensor  # [R, T] nats, carries a gradient
    old_logprobs: Tensor  # [R, T]
    ref_logprobs: Tensor  # [R, T]
    rewards: Tensor  # [R]
    truncated: Tensor  # [R] bool
    groups: Tensor  # [R] int64
    microbatch_of: Tensor  # [R] int64

    def micro_batches(self) -> list[Tensor]:
        """Rollouts of each micro-batch."""
        return [
            (self.microbatch_of == number).nonzero().squeeze(1)
            for number in range(int(self.microbatch_of.max()) + 1)
        ]


PeerLoss = Callable[[Rectangle], Tensor]  # the loss of all mini-batches


@dataclass(frozen=True, kw_only=True)
class Case:
    """One of our methods and the peer that should say the same of any batch."""

    ours: str  # overrides of the command line
    peer: str  # what is called there, for the table
    loss: PeerLoss
    scale: Callable[[Batch], float] = lambda batch: 1.0  # ours times this is the peer's
    drift: Drift = Drift.far
    micro_batches: int = 2
    value: bool = True  # False: only the gradients are compared
    within: float = 1e-12  # largest difference allowed, absolute
    difference: str = ""  # what stands between the two, for the table

    def distance(self, seed: int) -> tuple[float, float]:
        """Largest difference of value and gradient on the batch of this seed."""
        batch = random_batch(seed, micro_batches=self.micro_batches)
        now = drifted(batch, seed, drift=self.drift)
        mine = ours(method_of(self.ours), batch, now).times(self.scale(batch))
        value, gradient = mine.distance(theirs(self.loss, batch, now))
        return (value if self.value else 0.0), gradient

    def row(self, peer: str, distances: Sequence[tuple[float, float]]) -> list[str]:
        """Cells of the table: ours, the peer, what is compared, largest differences, what lies between."""
        compared = f"{'value and gradient' if self.value else 'gradient'}, {self.drift}"
        value, gradient = (max(each) for each in zip(*distances, strict=True))
        figures = [f"{value:.0e}" if value else "0", f"{gradient:.0e}" if gradient else "0"]
        if not self.value:
            figures[0] = "-"
        return [f"`{self.ours}`", f"{peer}: {self.peer}", compared, *figures, self.difference]


def rectangle(batch: Batch, *, logprobs: Tensor, entropy: Tensor) -> Rectangle:
    """The batch as a rectangle, with the log-probabilities and entropies [N] of the current policy."""
    return Rectangle(
        mask=_padded(batch, torch.ones_like(logprobs), noise=False),
        logprobs=_padded(batch, logprobs),
        entropy=_padded(batch, entropy),
        old_logprobs=_padded(batch, batch.columns["old_logprobs"]),
        ref_logprobs=_padded(batch, batch.columns["ref_logprobs"]),
        rewards=batch.rewards,
        truncated=batch.truncated,
        groups=batch.prompt_of,
        microbatch_of=batch.microbatch_of,
    )


def theirs(peer: PeerLoss, batch: Batch, now: Policies) -> Result:
    """A peer's loss on the same numbers, differentiated by the same flat columns."""
    logprobs, entropy = now.logprobs.clone().requires_grad_(), now.entropy.clone().requires_grad_()
    return _result(peer(rectangle(batch, logprobs=logprobs, entropy=entropy)), logprobs, entropy)


def flat(batch: Batch, x: Tensor) -> Tensor:
    """The completion tokens of a rectangle [R, T], as a column [N]."""
    return x[batch.rollout_of, batch.completion_position]


def _padded(batch: Batch, column: Tensor, *, noise: bool = True) -> Tensor:
    """A column [N] as a rectangle [R, T]; a peer that forgets its mask would see the column's mean."""
    shape = (batch.num_rollouts, int(batch.lengths.max()))
    empty = column.new_full(shape, float(column.detach().mean()) if noise else 0.0)
    return empty.index_put((batch.rollout_of, batch.completion_position), column)


def _result(loss: Tensor, logprobs: Tensor, entropy: Tensor) -> Result:
    gradients = torch.autograd.grad(loss, (logprobs, entropy), allow_unused=True, materialize_grads=True)
    return Result(loss.detach(), *gradients)
