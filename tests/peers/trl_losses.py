"""TRL's trainers without a model: their own code from rewards to loss, on the numbers of a rectangle."""

from __future__ import annotations

import tempfile
from collections import defaultdict
from collections.abc import Iterable, Iterator
from types import SimpleNamespace
from typing import Any

import torch
from accelerate import Accelerator  # type: ignore[import-untyped]  # no stubs
from tests.peers.tables import GROUP_SIZE, PeerLoss, Rectangle
from tests.peers.trl_alone import GRPOConfig, GRPOTrainer, RLOOConfig, RLOOTrainer
from torch import Tensor

_EOS = 4
_POLICY, _REFERENCE = (SimpleNamespace(training=True, is_gradient_checkpointing=False) for _ in range(2))


class _FromTable:
    """What a trainer reads besides its config: models, generation and rewards, all out of a rectangle."""

    model, ref_model = _POLICY, _REFERENCE
    environment_factories = environments = tools = images = None
    aux_loss_enabled = _is_vlm = False
    num_generations = GROUP_SIZE
    reward_func_names = ("table",)
    _tokenizer = SimpleNamespace(pad_token_id=0)
    eos_token_ids = (_EOS,)
    _last_world_entropy = float("inf")  # of the optimiser step before
    _entropy_window_stats = None

    def __init__(self, args: Any, table: Rectangle) -> None:  # instead of the trainer's, which loads a model
        self.args, self.table = args, table
        self.accelerator = Accelerator(cpu=True)  # after the config, which resets accelerate's state
        self.reward_weights = torch.ones(1)
        self.epsilon_low = args.epsilon
        self.epsilon_high = args.epsilon if args.epsilon_high is None else args.epsilon_high
        self.current_gradient_accumulation_steps = args.gradient_accumulation_steps
        self._entropy_bonus_enabled = any(
            getattr(args, name, 0) for name in ("entropy_coef", "use_adaptive_entropy")
        )
        self._metrics: dict[str, Any] = {"train": defaultdict(list)}
        self._logs: dict[str, Any] = defaultdict(list, rewards=defaultdict(list), extra=defaultdict(list))
        self._pending_extra_logs: dict[str, Any] = {}
        self._pending_metrics: dict[str, Any] = {}
        self.rows = torch.arange(len(table.rewards))  # of the forward in hand

    def __getattr__(self, name: str) -> Any:  # the fields that the trainer's __init__ copies
        return getattr(self.args, name)

    def _get_per_token_logps_and_entropies(self, model: Any, *_: Any, **__: Any) -> tuple[Tensor, Any, Any]:
        if torch.is_grad_enabled():
            return self.table.logprobs[self.rows], self.table.entropy[self.rows], None
        return (self.table.old_logprobs if model is _POLICY else self.table.ref_logprobs), None, None

    def _calculate_rewards(self, *_: Any) -> Tensor:
        return self.table.rewards.unsqueeze(1)

    def completions(self) -> list[list[int]]:
        """Token ids of the right lengths; those of truncated completions have no end."""
        lengths = self.table.mask.sum(1).int().tolist()
        ends = [3 if cut else _EOS for cut in self.table.truncated.tolist()]
        return [[3] * (length - 1) + [end] for length, end in zip(lengths, ends, strict=True)]

    def total(self) -> Tensor:
        """Losses of all micro-batches added, as gradient accumulation adds them."""
        trainer: Any = self
        inputs = trainer._generate_and_score_completions([{"prompt": "1 2"}] * len(self.table.rewards))
        shares = []
        for rows in self.table.micro_batches():
            self.rows = rows
            part = {key: x[rows] if x.dim() else x for key, x in inputs.items()}
            shares.append(trainer._compute_loss(_POLICY, part))
        return torch.stack(shares).sum()


class _GRPO(_FromTable, GRPOTrainer):  # type: ignore[misc]  # trl is untyped
    def _generate(self, prompts: list[str]) -> tuple[Any, ...]:
        ids = self.completions()
        return [[1, 2] for _ in prompts], ids, None, ids, None, None, None, None


class _RLOO(_FromTable, RLOOTrainer):  # type: ignore[misc]  # trl is untyped
    def _generate(self, prompts: list[str]) -> tuple[Any, ...]:
        ids = self.completions()
        return [[1, 2] for _ in prompts], ids, ids


def grpo(*, updates: int = 1, **settings: Any) -> PeerLoss:
    """GRPOTrainer with these fields of ``GRPOConfig``, every rollout batch cut into ``updates`` steps."""
    return lambda table: _GRPO(_config(GRPOConfig, table, updates=updates, **settings), table).total()


def adaptive_entropy(tables: Iterable[Rectangle], **settings: Any) -> Iterator[tuple[Tensor, float]]:
    """One optimiser step per table with TRL's adaptive entropy bonus: the loss, the next coefficient."""
    trainer: Any = None
    for table in tables:
        if trainer is None:
            args = _config(GRPOConfig, table, updates=1, use_adaptive_entropy=True, **settings)
            trainer = _GRPO(args, table)
        trainer.table = table
        loss = trainer.total()
        yield loss, trainer.entropy_coef


def rloo(**settings: Any) -> PeerLoss:
    """RLOOTrainer with these fields of ``RLOOConfig``, one step per rollout batch.

    It leaves the division by the number of micro-batches to the training loop, which is done here.
    """
    return lambda table: (
        _RLOO(_config(RLOOConfig, table, updates=1, **settings), table).total() / len(table.micro_batches())
    )


def _config(kind: Any, table: Rectangle, *, updates: int, **settings: Any) -> Any:
    micro_batches = len(table.micro_batches())
    return kind(
        output_dir=tempfile.gettempdir(),  # nothing is written
        use_cpu=True,
        bf16=False,
        per_device_train_batch_size=len(table.rewards) // micro_batches,
        gradient_accumulation_steps=micro_batches // updates,
        steps_per_generation=micro_batches,
        num_generations=GROUP_SIZE,
        num_iterations=2,  # with one, TRL takes the current policy for the old one
        **settings,
    )
