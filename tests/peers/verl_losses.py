"""verl's advantages and losses on a rectangle, put together as in its ``workers/utils/losses.ppo_loss``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from tests.peers.tables import PeerLoss, Rectangle
from torch import Tensor
from verl.trainer.config import AlgoConfig
from verl.trainer.ppo import core_algos
from verl.workers.config import ActorConfig, PolicyLossConfig

Estimator = Callable[[Rectangle], Tensor]  # advantages [R, T]
NO_DUAL_CLIP = 1e9  # verl has no switch for it: a bound that no ratio reaches


def advantages(name: str, *, kl_in_reward: float = 0.0, gamma: float = 1.0, **settings: Any) -> Estimator:
    """A registered estimator; the reward stands at each rollout's last token, k1 to the reference off it."""
    function = core_algos.get_adv_estimator_fn(name)

    def estimate(table: Rectangle) -> Tensor:
        last = table.mask.cumsum(1) == table.mask.sum(1, keepdim=True)
        rewards = table.rewards.unsqueeze(1) * last * table.mask
        divergence = core_algos.kl_penalty(table.old_logprobs, table.ref_logprobs, "kl") * table.mask
        estimated: Tensor = function(
            token_level_rewards=rewards - kl_in_reward * divergence,
            response_mask=table.mask,
            index=table.groups.numpy(),
            config=AlgoConfig(gamma=gamma),
            **settings,
        )[0]
        return estimated

    return estimate


def loss(
    name: str,
    *,
    mode: str,
    advantages: Estimator,
    scale_factor: int | None = None,
    kl: tuple[str, float] | None = None,
    entropy_coeff: float = 0.0,
    policy_loss: dict[str, Any] | None = None,
    **settings: Any,
) -> PeerLoss:
    """A registered policy loss with ``agg_loss`` in ``mode``, the entropy bonus and the KL loss.

    ``kl`` is (estimator, coefficient), ``settings`` are fields of ``ActorConfig``. As in verl's worker every
    micro-batch gets the token and sequence counts of the whole mini-batch, and their losses are added.
    """
    function = core_algos.get_policy_loss_fn(name)

    def total(table: Rectangle) -> Tensor:
        counts = {
            "dp_size": 1,
            "batch_num_tokens": int(table.mask.sum()),
            "global_batch_size": len(table.rewards),
            "loss_scale_factor": scale_factor,
        }
        config = ActorConfig(
            strategy="fsdp",
            rollout_n=1,
            use_dynamic_bsz=True,
            policy_loss=PolicyLossConfig(loss_mode=name, **(policy_loss or {})),
            global_batch_info=counts,
            **settings,
        )
        whole = advantages(table)

        def share(rows: Tensor) -> Tensor:
            logprobs, mask = table.logprobs[rows], table.mask[rows]
            part: Tensor = function(table.old_logprobs[rows], logprobs, whole[rows], mask, mode, config)[0]
            part = part - entropy_coeff * core_algos.agg_loss(table.entropy[rows], mask, mode, **counts)
            if kl:
                divergence = core_algos.kl_penalty(logprobs, table.ref_logprobs[rows], kl[0])
                part = part + kl[1] * core_algos.agg_loss(divergence, mask, mode, **counts)
            return part

        return torch.stack([share(rows) for rows in table.micro_batches()]).sum()

    return total
