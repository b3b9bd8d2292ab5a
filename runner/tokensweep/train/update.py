"""The optimiser steps of one batch: exact denominators, one clip, one AdamW step per mini-batch."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from tokensweep.loss.method import Method
from tokensweep.loss.objective import Micro, Prepared, micro_loss
from tokensweep.train.batch import MicroBatch, Plan
from tokensweep.train.metrics import Sums
from tokensweep.train.passes import Ahead, Scorer
from tokensweep.train.ranks import ALONE, Ranks


class NonFiniteError(ArithmeticError):
    """A loss or a gradient is not a finite number; stepping on would destroy the weights."""


@dataclass(frozen=True, kw_only=True)
class Updater:
    """Moves the policy's weights. ``grad_clip`` limits the global gradient norm; 0 leaves it alone.

    All ``ranks`` make the same steps, each with the sum of everybody's gradients.
    """

    scorer: Scorer
    optimizer: torch.optim.Optimizer
    grad_clip: float
    ranks: Ranks = ALONE
    reference: Scorer | None = None  # for methods that need ``ref_divergence``

    def update(
        self, method: Method, prepared: Prepared, plan: Plan, *, ahead: Ahead | None = None
    ) -> dict[str, float]:
        """One optimiser step per mini-batch of ``plan``; gives back what happened, as metrics of all ranks.

        ``plan`` holds this rank's micro-batches, ``ahead`` the forward of its first pack where the old-policy
        pass has kept it. A mini-batch in which no token can carry a gradient makes no step: AdamW would move
        the weights on its momentum alone. Raises NonFiniteError before a step on numbers that are not finite.
        """
        sums, own, norms = Sums("loss"), Sums("method"), []
        for mini_batch in plan:
            self.optimizer.zero_grad(set_to_none=True)
            with self.ranks.agreed():
                active = [self._backward(method, prepared, micro, (sums, own), ahead) for micro in mini_batch]
            if self.ranks.any(any(active)):
                self._add_gradients()
                norms.append(self._clip())
                self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return {
            "grad_norm": sum(norms) / len(norms) if norms else 0.0,
            "updates": float(len(norms)),
            "skipped_updates": float(len(plan) - len(norms)),
            **sums.ratios(self.ranks),
            **own.ratios(self.ranks),
        }

    def _backward(
        self,
        method: Method,
        prepared: Prepared,
        micro_batch: MicroBatch,
        sums: tuple[Sums, Sums],  # of the loss and of the method's own numbers
        ahead: Ahead | None,
    ) -> bool:
        """Add one micro-batch's gradient; False when it has no row that could carry one."""
        micro = prepared.micro(micro_batch.rollouts)
        if micro.rows.numel() == 0:
            sums[0].add(  # not run, but its tokens are among those that the fractions are of
                {
                    "kept_fraction": (micro.num_kept, micro.num_tokens),
                    "signal_fraction": (torch.zeros_like(micro.num_tokens), micro.num_tokens),
                }
            )
            return False
        logprobs, entropy, divergence = self._forward(method, prepared, micro, micro_batch.packs, ahead)
        output = micro_loss(method, micro, logprobs, entropy, ref_divergence=divergence)
        if not math.isfinite(float(output.loss.detach())):
            raise NonFiniteError(
                f"the loss of a micro-batch is {float(output.loss.detach())}: look at the run's last metrics "
                "(loss/ratio, entropy, grad_norm); a lower optim.lr usually cures it"
            )
        output.loss.backward()  # type: ignore[no-untyped-call]  # torch
        sums[0].add(output.metrics)
        sums[1].add(output.measured)
        return True

    def _forward(
        self,
        method: Method,
        prepared: Prepared,
        micro: Micro,
        packs: tuple[Tensor, ...],
        ahead: Ahead | None,
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """What the policy says of ``micro.rows``, [n] each; packs without such a row are not run.

        Log-probabilities, entropies and, where the method needs it, the divergence from the reference.
        """
        batch = prepared.batch
        beside = self.reference if "ref_divergence" in method.needs() else None
        rollout_of = batch.rollout_of[micro.rows]
        logprobs, entropies, divergences, places = [], [], [], []
        for rollouts in packs:
            place = torch.isin(rollout_of, rollouts).nonzero().squeeze(1)
            if place.numel() == 0:
                continue
            rows = micro.rows[place]
            if ahead is not None and rollouts is ahead.rollouts:
                own_logprobs, own_entropy = ahead.at(rows)
            elif beside is not None:
                stats, divergence = self.scorer.beside(beside, batch, rollouts=rollouts, rows=rows)
                own_logprobs, own_entropy = stats.logprobs, stats.entropy
                divergences.append(divergence)
            else:
                stats = self.scorer.stats(batch, rollouts=rollouts, rows=rows)
                own_logprobs, own_entropy = stats.logprobs, stats.entropy
            logprobs.append(own_logprobs)
            entropies.append(own_entropy)
            places.append(place)
        order = torch.cat(places).argsort()
        whole = torch.cat(divergences)[order] if divergences else None
        return torch.cat(logprobs)[order], torch.cat(entropies)[order], whole

    def _add_gradients(self) -> None:
        """Sum the gradients over the ranks; a parameter that has one anywhere has one everywhere."""
        if self.ranks.size == 1:
            return
        parameters = list(self.scorer.policy.trained.values())
        has = self.ranks.rows(torch.tensor([p.grad is not None for p in parameters]))
        moved = [p for p, some in zip(parameters, torch.stack(has).any(0).tolist(), strict=True) if some]
        for parameter in moved:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        self.ranks.add([parameter.grad for parameter in moved if parameter.grad is not None])

    def _clip(self) -> float:
        """Limit the gradient's norm; gives back what it was before."""
        norm = float(
            torch.nn.utils.clip_grad_norm_(self.scorer.policy.trained.values(), self.grad_clip or math.inf)
        )
        if not math.isfinite(norm):
            raise NonFiniteError(
                f"the gradient norm is {norm}: lower optim.lr, or look for a component of the method that is "
                "infinite at extreme ratios; the weights of the last checkpoint are unharmed"
            )
        return norm
