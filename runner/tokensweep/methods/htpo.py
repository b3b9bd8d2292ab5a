"""HTPO: eight objectives, by the difficulty of the prompt, the grade of the answer and a token's entropy.

Source: Yao et al., arXiv:2605.08283 (``paper`` below, of which abstract and overview figure were read) and
the authors' code (``code``), files of verl with one loss more.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import ClassVar

import torch
from torch import Tensor

from tokensweep.loss.slots import ROLLOUT_LOCAL, Guarantee, Policy, on_policy
from tokensweep.loss.tables import View, sum_by
from tokensweep.methods.covariance import floor_counts
from tokensweep.methods.dual_clip import DualClip, held
from tokensweep.methods.forking_tokens import RankBy, ranking, ranking_needs, top_of_segments
from tokensweep.methods.grpo import PPOClip
from tokensweep.registry import component

CELLS = range(1, 9)  # 1 + [high entropy] + 2 [wrong] + 4 [easy]
_HARD = "htpo_hard"  # the column that says which prompts are


class OobSign(StrEnum):
    """What becomes of tokens whose ratio is out of the band, where plain PPO leaves them alone."""

    objective = "objective"  # right ones become likelier, wrong ones less likely, as the figure says
    as_released = "as_released"  # the other way round


@dataclass(frozen=True, kw_only=True)
class Split:
    """The tokens of a view by cell."""

    cell: Tensor  # [n] int64, in CELLS
    dropped: Tensor  # [n] bool


@component("method/surrogate", "htpo")
@dataclass(frozen=True)
class CellObjectives(DualClip):
    """One objective for each of eight cells of tokens, [n].

    J is PPO's clipped objective, ``1 - low .. 1 + high`` the band, ``id`` has the value 1 and the gradient of
    log pi. Cells are numbered ``1 + [high] + 2 [wrong] + 4 [easy]``:
    1 (hard, right, low) J, but 0 below the ``max(1, floor(drop_low * m))``-th smallest of its m entropies;
    2 (hard, right, high) r A, above the band (1 + high) id A, below it id A / r;
    4 and 8 (wrong, high) r A, below the band (1 - low) id A;
    6 (easy, right, high) J, but 0 from the ``max(1, floor(drop_high * m))``-th largest of its m entropies up;
    3, 5 and 7 J.

    Hard are the prompts whose rollouts have a mean grade below ``hard_below``, right the rollouts of grade 1.
    High are the tokens from the ``max(1, floor(fraction * m))``-th largest entropy of their rollout up, ties
    included; tokens of weight 0 do not exist. In the end A < 0 is held above ``cap A`` (dual clip). Cells
    that are not among ``cells`` have J; with none the surrogate is ``dual_clip``. Entropy has no gradient.

    Source: the paper's figure and the code. Departures: ``drop_high = 0`` drops nothing, where the code's
    count would still drop one token and its check refuses 0; the 1 / r of cell 2 is held within e^±20. The
    figure gives the cuts of cells 1 and 6 as entropies, the code as shares: shares here. The 1 / r is in the
    code only. ``oob_sign``: the code adds the out-of-band terms to the *loss* without the minus of all others
    and so pushes the wrong way, which the figure contradicts; we take it for a slip (preset
    ``htpo_as_released`` has it). A right rollout whose advantage is negative (overlong) is not treated apart.
    """

    guarantees: ClassVar[frozenset[Guarantee]] = ROLLOUT_LOCAL

    high: float = 0.28
    cap: float = 10.0
    hard_below: float = 0.6  # 1 - tau_diff
    fraction: float = 0.2
    drop_low: float = 0.006  # c1
    drop_high: float = 0.02  # c2
    oob_sign: OobSign = OobSign.objective
    cells: tuple[int, ...] = (1, 2, 4, 6, 8)  # the others have J anyway
    rank_by: RankBy = RankBy.entropy
    policy: Policy = Policy.current  # whose entropy

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.fraction <= 1:
            raise ValueError(f"fraction must be in (0, 1], got {self.fraction:g}")
        if not 0 <= min(self.drop_low, self.drop_high) <= max(self.drop_low, self.drop_high) <= 1:
            raise ValueError(
                f"drop_low and drop_high must be in [0, 1], got {self.drop_low:g} and {self.drop_high:g}"
            )
        if strange := sorted(set(self.cells) - {1, 2, 4, 6, 8}):
            raise ValueError(f"cells must be among 1, 2, 4, 6, 8: the others have no rule, got {strange}")

    @property
    def needs(self) -> frozenset[str]:
        """What the tokens are ranked by."""
        return ranking_needs(self.rank_by, self.policy)

    def columns(self, whole: View) -> Mapping[str, Tensor]:
        """The column ``htpo_hard``, true for the tokens of hard prompts: a micro-batch may split a group."""
        return {_HARD: self._hard(whole)[whole.prompt_of[whole.rollout_of]]}

    def _hard(self, whole: View) -> Tensor:
        """Which prompts are hard, [P] bool."""
        size = int(whole.prompt_of.max()) + 1 if whole.prompt_of.numel() else 0
        count = torch.bincount(whole.prompt_of, minlength=size).clamp(min=1)
        accuracy = sum_by(whole.accuracy.double(), whole.prompt_of, size=size) / count
        return accuracy < self.hard_below - 1e-9  # a mean of 0.6 is not below 0.6, however it was rounded

    def split(self, view: View) -> Split:
        """The cell of each token, and whether it is dropped."""
        there = view.weights != 0
        rank = torch.where(there, ranking(view, by=self.rank_by, policy=self.policy), -torch.inf)
        high = there & (rank >= _kth_largest(rank, view.rollout_of, share=self.fraction))
        least = torch.where(there & ~high, -rank, -torch.inf)
        most = torch.where(high, rank, -torch.inf)
        lowest = least > _kth_largest(least, view.rollout_of, share=self.drop_low)
        highest = most >= _kth_largest(most, view.rollout_of, share=self.drop_high)
        wrong = view.accuracy[view.rollout_of] < 1
        cell = 1 + high.long() + 2 * wrong + 4 * (~view.columns[_HARD].bool())
        dropped = (lowest & (cell == 1)) | (highest & (cell == 6) & (self.drop_high > 0))
        return Split(cell=cell, dropped=dropped & self._acts(cell))

    def __call__(self, view: View, log_ratio: Tensor) -> Tensor:
        return held(self._free(view, log_ratio), view.advantages, cap=self.cap)

    def _free(self, view: View, log_ratio: Tensor) -> Tensor:
        """The objective before the dual clip, [n]."""
        split, ratio, still = self.split(view), log_ratio.exp(), log_ratio.detach()
        step = (log_ratio - still).exp() * (1 if self.oob_sign is OobSign.objective else -1)
        below, above = still.exp() < 1 - self.low, still.exp() > 1 + self.high
        blame = torch.where(below, (1 - self.low) * step, ratio)
        praise = torch.where(below, (-still).exp() * step, torch.where(above, (1 + self.high) * step, ratio))
        fork = torch.where(split.cell == 2, praise, blame) * view.advantages
        plain = self._ppo(view, log_ratio)
        return torch.where(split.dropped, 0.0, torch.where(self._is_fork(split.cell), fork, plain))

    def clipped(self, view: View, log_ratio: Tensor) -> Tensor:
        """Tokens [n] bool whose ratio the clip, a rule out of the band or the dual clip limits."""
        cell, ratio = self.split(view).cell, log_ratio.exp()
        limited = (ratio < 1 - self.low) | ((ratio > 1 + self.high) & (cell == 2))
        capped = (view.advantages < 0) & (self._free(view, log_ratio) < self.cap * view.advantages)
        return torch.where(self._is_fork(cell), limited, self._ppo.clipped(view, log_ratio)) | capped

    @property
    def _ppo(self) -> PPOClip:
        return PPOClip(low=self.low, high=self.high)

    def _acts(self, cell: Tensor) -> Tensor:
        """Tokens [n] bool in a cell whose own rule is on."""
        on = torch.zeros(len(CELLS) + 1, dtype=torch.bool, device=cell.device)
        on[list(self.cells)] = True
        return on[cell]

    def _is_fork(self, cell: Tensor) -> Tensor:
        """Tokens [n] bool of the cells 2, 4 and 8, as far as they are on."""
        return self._acts(cell) & ((cell == 2) | (cell == 4) | (cell == 8))

    def batch_metrics(self, whole: View) -> Mapping[str, float]:
        """``hard_fraction`` of the prompts."""
        return {"hard_fraction": float(self._hard(whole).double().mean())}

    def metrics(self, view: View, log_ratio: Tensor) -> Mapping[str, tuple[Tensor, Tensor]]:
        """Shares of the tokens in rollouts with a signal.

        Each cell (``cell_1_fraction`` ...), the dropped, and those out of the band that keep a gradient by
        the rules of cells 2, 4 and 8 (``rescued_fraction``).
        """
        there, split, ratio = view.weights != 0, self.split(view), log_ratio.exp()
        below, above = ratio < 1 - self.low, ratio > 1 + self.high
        rescued = self._is_fork(split.cell) & (below | (above & (split.cell == 2)))
        sets = {f"cell_{number}": split.cell == number for number in CELLS}
        sets |= {"dropped": split.dropped, "rescued": rescued}
        return {f"{name}_fraction": ((chosen & there).sum(), there.sum()) for name, chosen in sets.items()}

    def inert(self, *, updates_per_batch: int) -> dict[str, str]:
        """All bounds and the sign of what lies beyond them, as long as every ratio is 1."""
        reasons = on_policy("low", "high", "cap", "oob_sign", updates_per_batch=updates_per_batch)
        if self.rank_by is RankBy.random:
            reasons["policy"] = "random ranks read no policy; set rank_by to entropy"
        return reasons


def _kth_largest(x: Tensor, segments: Tensor, *, share: float) -> Tensor:
    """The ``max(1, floor(share * m))``-th largest of the m tokens of each one's segment, [n].

    Tokens of -inf do not exist; where no other is, +inf.
    """
    counts = floor_counts(share, x, segments)
    top = top_of_segments(x, segments, counts=counts) & (x > -torch.inf)
    least = x.new_full(counts.shape, torch.inf)
    return least.scatter_reduce(0, segments[top], x[top], "amin")[segments]
