"""The check after every weight update: trainer and engine must agree about the same tokens.

That completions changed proves nothing: an engine whose output head kept its old weights (see
:func:`tokensweep.rollout.vllm.file_transfer.repack_tied_head`) changes them too.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from tokensweep.rollout.vllm.errors import ParityError

if TYPE_CHECKING:
    from tokensweep.models.policy import Policy

_ROWS, LENGTH = 4, 24  # sequences of the probe and their tokens

# Measured on this probe with SmolLM2-135M and vLLM's CPU build: float32 5e-5 at most, bfloat16 0.93 at most,
# 0.09 on average. One bfloat16 token can be far off by rounding alone, so there the average decides.
MAX_FLOAT32 = 1e-3
MEAN_HALF = 0.3

Sequences = tuple[tuple[int, ...], ...]


@dataclass(frozen=True, kw_only=True)
class Parity:
    """How far the engine's log-probabilities of the probe are from the trainer's, nats."""

    trainer: float  # mean log-probability of a token
    engine: float
    mean_abs: float
    max_abs: float
    tolerance: float
    exact: bool  # float32: the largest difference decides, else the mean

    @property
    def holds(self) -> bool:
        """Whether the difference is within the tolerance; not so for numbers that are none."""
        return (self.max_abs if self.exact else self.mean_abs) <= self.tolerance


def probe_of(policy: Policy) -> Sequences:
    """Token sequences that a policy and its engine are compared on, from all over the vocabulary.

    The same at every call. No text: the small vocabularies of the built-in tasks can't encode one.
    """
    size = min(policy.vocab_size, len(policy.tokenizer))
    draw = torch.randint(size, (_ROWS, LENGTH), generator=torch.Generator().manual_seed(size))
    return tuple(tuple(row) for row in draw.tolist())


@torch.inference_mode()
def trainer_logprobs(policy: Policy, sequences: Sequences) -> Tensor:
    """Log-probabilities of every token but the first of each sequence, one after the other, float32.

    Raises ValueError for weights that give none.
    """
    found = []
    for ids in sequences:
        tokens = torch.tensor([ids], device=policy.device)
        table = policy.model(input_ids=tokens, use_cache=False).logits[0, :-1].float().log_softmax(-1)
        found.append(table.gather(1, tokens[0, 1:, None])[:, 0].cpu())
    logprobs = torch.cat(found)
    if not bool(logprobs.isfinite().all()):
        raise ValueError(
            "the policy's own log-probabilities must all be numbers: its weights are broken; look "
            "at the model's file, or at loss/ratio and grad_norm of the last steps"
        )
    return logprobs


def compare(trainer: Tensor, engine: Sequence[float], *, exact: bool) -> Parity:
    """The difference of the same tokens' log-probabilities."""
    other = torch.tensor(engine, dtype=torch.float32)
    gap = (trainer - other).abs()
    return Parity(
        trainer=float(trainer.mean()),
        engine=float(other.mean()),
        mean_abs=float(gap.mean()),
        max_abs=float(gap.max()),
        tolerance=MAX_FLOAT32 if exact else MEAN_HALF,
        exact=exact,
    )


def check_parity(parity: Parity, *, version: int) -> None:
    """Raise ParityError with both figures unless they agree."""
    if parity.holds:
        return
    what, seen = ("largest", parity.max_abs) if parity.exact else ("mean", parity.mean_abs)
    raise ParityError(
        f"with the weights of step {version}, the rollout engine gives the probe tokens a mean "
        f"log-probability of {parity.engine:.5f}, the trainer {parity.trainer:.5f}: the {what} difference of "
        f"a token is {seen:.3g}, above {parity.tolerance:g}. The engine does not sample from the policy that "
        "is trained, so nothing more is computed: run 'tokensweep doctor', and report it with what it shows"
    )
