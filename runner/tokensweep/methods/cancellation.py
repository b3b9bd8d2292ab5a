"""Mini-batches in which the signals of a prompt's rollouts can cancel: whole groups, both signs in balance.

Source: Cheng et al., "The cancellation hypothesis", arXiv:2605.08666 v1, of which the abstract and the titles
of the sections are known. Whole groups are the abstract's; every rule of balance is a reconstruction.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import ClassVar

import torch
from torch import Tensor

from tokensweep.loss.method import Method
from tokensweep.loss.probe import Probe
from tokensweep.loss.slots import AdvantageShaper, Minibatch, TokenWeight
from tokensweep.loss.tables import Batch, Scope, View, sum_by
from tokensweep.methods.forking_tokens import top_of_segments
from tokensweep.registry import component


class Balance(StrEnum):
    """How whole groups are chosen for a mini-batch."""

    none = "none"  # at random
    assign = "assign"  # so that positive and negative rollouts are about as many


class Measure(StrEnum):
    """What is balanced between the signs of the advantage."""

    count = "count"  # type: ignore[assignment]  # rollouts; hides str.count, which nobody asks for
    abs_adv = "abs_adv"  # mean absolute advantage of a rollout, added up: weights of a mean over rollouts
    token_abs_adv = "token_abs_adv"  # absolute advantages of all tokens: weights of a mean over tokens


class Sign(StrEnum):
    """Which advantages stay."""

    positive = "positive"
    negative = "negative"


def signed_size(advantages: Tensor, rollout_of: Tensor, lengths: Tensor, *, measure: Measure) -> Tensor:
    """Size of each rollout under a measure with the sign of its advantage, [r], from token columns [n]."""
    total = sum_by(advantages, rollout_of, size=lengths.numel())
    if measure is Measure.count:
        return total.sign()
    return total if measure is Measure.token_abs_adv else total / lengths.clamp(min=1)


@dataclass(frozen=True, kw_only=True)
class Dealt:
    """Rollouts as they were dealt into mini-batches."""

    minibatch_of: Tensor  # [R] int64
    prompt_of: Tensor  # [R] int64
    size: Tensor  # [R], see signed_size

    def numbers(self) -> dict[str, float]:
        """How far the signs of a mini-batch are from even, and how many prompts are in several of them.

        ``imbalance`` is the difference of the signs over their sum, the mean over mini-batches with a sign.
        """
        count = int(self.minibatch_of.max()) + 1
        sums = sum_by(self.size, self.minibatch_of, size=count)
        totals = sum_by(self.size.abs(), self.minibatch_of, size=count)
        cells = torch.bincount(self.prompt_of * count + self.minibatch_of)
        padded = torch.nn.functional.pad(cells, (0, -cells.numel() % count)).reshape(-1, count)
        parts = (padded > 0).sum(1)  # mini-batches of each prompt
        split = float((parts > 1).sum() / (parts > 0).sum())
        signed = totals > 0
        if not bool(signed.any()):
            return {"split_fraction": split}
        return {"split_fraction": split, "imbalance": float((sums.abs() / totals)[signed].mean())}


@component("method/probes", "minibatch_signs")
@dataclass(frozen=True)
class MinibatchSigns(Probe):
    """How even the signs of the advantage are in each mini-batch, and which share of prompts is split.

    ``split_fraction`` is of the prompts, those with rollouts in several mini-batches; for ``imbalance`` see
    :class:`Dealt`. Source: none; to compare ways to make mini-batches.
    """

    measure: Measure = Measure.count

    def __call__(self, batch: Batch) -> Mapping[str, float]:
        size = signed_size(batch.columns["advantages"], batch.rollout_of, batch.lengths, measure=self.measure)
        dealt = Dealt(minibatch_of=batch.minibatch_of, prompt_of=batch.prompt_of, size=size)
        return dealt.numbers()


@component("method/minibatch", "query_preserved")
@dataclass(frozen=True)
class QueryPreserved(Minibatch):
    """Whole groups dealt into mini-batches of about as many rollouts: of equal groups, at most one more.

    Groups come in random order, the largest first where they differ, and go to the mini-batch with the
    fewest rollouts. ``balance`` assign keeps these sizes, but takes groups by the absolute difference d of
    their positive and negative rollouts in ``balance_measure``, the largest first, and puts each where it
    fits and the sum of d comes closest to 0; where it fits nowhere, into the emptiest mini-batch.

    Source: the paper's abstract for whole groups; ``assign`` is a reconstruction. Departure: none known. A
    positive rollout is one of positive advantage, as the rewards known before the old-policy pass make it.
    With a group baseline ``abs_adv`` of a whole group is 0, so there is nothing to assign.
    Raises ValueError where advantages are not known in time.
    """

    keeps_groups: ClassVar[bool] = True

    balance: Balance = Balance.none
    balance_measure: Measure = Measure.count

    @property
    def reads_advantages(self) -> bool:
        """Where signs are balanced."""
        return self.balance is Balance.assign

    def __call__(self, batch: Batch, *, num_minibatches: int, seed: int) -> Tensor:
        """Mini-batch of each rollout [R]. Raises ValueError for more mini-batches than groups."""
        count = batch.num_prompts
        if not 1 <= num_minibatches <= count:
            raise ValueError(
                f"{count} groups must be dealt into 1 to {count} mini-batches, got {num_minibatches}: lower "
                "method.updates_per_batch, or raise batch.prompts"
            )
        order = torch.randperm(count, generator=torch.Generator().manual_seed(seed)).tolist()
        sizes = torch.bincount(batch.prompt_of, minlength=count).tolist()
        dealt = even_bins(order, sizes=sizes, count=num_minibatches)
        if self.balance is Balance.assign:
            surplus = batch.by_prompt(self._signed(batch)).tolist()
            room = [sum(sizes[group] for group in groups) for groups in dealt]
            dealt = balanced_bins(order, sizes=sizes, room=room, surplus=surplus)
        of_group = torch.empty(count, dtype=torch.int64)
        for number, groups in enumerate(dealt):
            of_group[groups] = number
        return of_group.to(batch.prompt_of.device)[batch.prompt_of]

    def _signed(self, batch: Batch) -> Tensor:
        advantages = batch.columns["advantages"]
        return signed_size(advantages, batch.rollout_of, batch.lengths, measure=self.balance_measure)

    def batch_metrics(self, whole: View) -> Mapping[str, float]:
        """What it was asked for: no prompt is split, and how even the signs are in its measure."""
        size = signed_size(whole.advantages, whole.rollout_of, whole.lengths, measure=self.balance_measure)
        minibatch_of = _of_rollouts(whole, whole.segments(Scope.mini))
        return Dealt(minibatch_of=minibatch_of, prompt_of=whole.prompt_of, size=size).numbers()

    def check(self, method: Method) -> None:
        """Mini-batches are made before a policy scores the tokens; by then the signs must be known."""
        late = sorted(method.advantage.needs) or sorted(method.token_rewards)
        if self.balance is Balance.assign and late:
            raise ValueError(
                f"balance assign must know the advantages before the old-policy pass, but {', '.join(late)} "
                "comes with it: take balance=none"
            )

    def inert(self, *, updates_per_batch: int) -> dict[str, str]:
        """The rule of balance, where one mini-batch holds everything; the measure without balance."""
        if updates_per_batch == 1:
            reason = "one update per optimiser batch has one mini-batch; set method.updates_per_batch to 2"
            return dict.fromkeys(("balance", "balance_measure"), reason)
        if self.balance is Balance.none:
            return {"balance_measure": "nothing is balanced; set balance to assign"}
        return {}


def _of_rollouts(view: View, column: Tensor) -> Tensor:
    """The value of a column [n] at the first token of each rollout, [r]."""
    first = view.completion_position == 0
    return sum_by(column[first], view.rollout_of[first], size=view.num_rollouts)


def even_bins(order: Sequence[int], *, sizes: Sequence[int], count: int) -> list[list[int]]:
    """``count`` bins of the members of ``order``: the largest first, each into the least full bin."""
    bins: list[list[int]] = [[] for _ in range(count)]
    loads = [0] * count
    for member in sorted(order, key=lambda m: -sizes[m]):
        place = loads.index(min(loads))
        bins[place].append(member)
        loads[place] += sizes[member]
    return bins


def balanced_bins(
    order: Sequence[int], *, sizes: Sequence[int], room: Sequence[int], surplus: Sequence[float]
) -> list[list[int]]:
    """Bins of the sizes ``room`` whose surpluses add up to little, no bin empty: see QueryPreserved."""
    bins: list[list[int]] = [[] for _ in room]
    left, sums = list(room), [0.0] * len(room)
    for number, member in enumerate(sorted(order, key=lambda m: -abs(surplus[m]))):
        empty = [place for place, members in enumerate(bins) if not members]
        fitting = [place for place, free in enumerate(left) if sizes[member] <= free]
        if len(order) - number <= len(empty):
            fitting = empty
        elif not fitting:
            fitting = [left.index(max(left))]
        place = min(fitting, key=lambda b: (abs(sums[b] + surplus[member]), -left[b], b))
        bins[place].append(member)
        left[place] -= sizes[member]
        sums[place] += surplus[member]
    return bins


@component("method/advantage_shapers", "balanced_signs")
@dataclass(frozen=True)
class BalancedSigns(AdvantageShaper):
    """Advantages scaled so that both signs have the same weight in each segment, [n].

    With P the sum of the positive advantages' sizes in ``balance_measure`` and N that of the negative,
    positive ones are multiplied by ``(P + N) / 2P`` and negative ones by ``(P + N) / 2N``: equal weights, the
    same total. A segment with one sign only stays as it is.
    Source: reconstruction, one reading of the abstract's balance of each update; the total is our choice.
    """

    balance_measure: Measure = Measure.count
    scope: Scope = Scope.mini

    def __call__(self, view: View) -> Tensor:
        segments = view.segments(self.scope)
        count = int(segments.max()) + 1 if segments.numel() else 0
        size = self._sizes(view)
        positive, negative = (
            sum_by(torch.where(of_sign, size, 0.0), segments, size=count)
            for of_sign in (view.advantages > 0, view.advantages < 0)
        )
        both = (positive > 0) & (negative > 0)
        half = (positive + negative) / 2
        up = torch.where(both, half / positive, 1.0)[segments]
        down = torch.where(both, half / negative, 1.0)[segments]
        return view.advantages * torch.where(view.advantages > 0, up, down)

    def _sizes(self, view: View) -> Tensor:
        """What each token adds to the weight of its sign, [n]."""
        length = view.lengths[view.rollout_of]
        if self.balance_measure is Measure.count:
            return 1 / length.to(view.advantages.dtype)
        size = view.advantages.abs()
        return size if self.balance_measure is Measure.token_abs_adv else size / length

    def batch_metrics(self, whole: View) -> Mapping[str, float]:
        """Share of the absolute advantages, token by token, that is positive after the scaling."""
        total = float(whole.advantages.abs().sum())
        return {"positive_fraction": float(whole.advantages.clamp(min=0).sum()) / total} if total else {}


@component("method/advantage_shapers", "one_sign")
@dataclass(frozen=True)
class OneSign(AdvantageShaper):
    """Advantages of one ``sign``, the others 0, [n]. Source: the abstract's positive-only training."""

    sign: Sign = Sign.positive

    def __call__(self, view: View) -> Tensor:
        positive = self.sign is Sign.positive
        return torch.where((view.advantages > 0) == positive, view.advantages, 0.0)


@component("method/token_weights", "balanced_rollouts")
@dataclass(frozen=True)
class BalancedRollouts(TokenWeight):
    """0 for rollouts drawn from the more frequent sign of the advantage until both are as many, else 1, [n].

    Signs are counted in each segment of ``scope``; the draw is by the column ``uniform``. Rollouts without
    a sign stay. Under ``selected_mean`` what is left out is in no denominator either, as if it never was.
    Source: reconstruction, one reading of the abstract's balance of each update.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"uniform"})

    scope: Scope = Scope.mini

    def __call__(self, view: View) -> Tensor:
        sign = signed_size(view.advantages, view.rollout_of, view.lengths, measure=Measure.count)
        segment, lot = (
            _of_rollouts(view, column) for column in (view.segments(self.scope), view.columns["uniform"])
        )
        count = int(segment.max()) + 1 if segment.numel() else 0
        fewer = torch.minimum(*(torch.bincount(segment[sign == s], minlength=count) for s in (-1, 1)))
        keep = sign == 0
        signed = (~keep).nonzero().squeeze(1)
        part = 2 * segment[signed] + (sign[signed] > 0)
        keep = keep.index_put(
            (signed,), top_of_segments(lot[signed], part, counts=fewer.repeat_interleave(2))
        )
        return keep[view.rollout_of].to(view.advantages.dtype)
