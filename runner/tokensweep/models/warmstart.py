"""Supervised warm start of a small model on the demonstrations of a task.

Matrices are trained by Muon, which learns the tasks' arithmetic in less than half of AdamW's steps here;
embeddings and norms, for which Muon is not meant, by AdamW.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from tokensweep.models.attention import ATTENTION, Packed
from tokensweep.models.protocol import Progress
from tokensweep.problems.protocol import Demonstrated
from tokensweep.seeds import derive_seed

_WARMUP = 20  # steps up to the peak learning rate
_FLOOR = 0.1  # of the peak, at the last step
_BETAS = (0.9, 0.98)
_DECAY = 0.01
_CLIP = 1.0


@dataclass(frozen=True, kw_only=True)
class WarmStart:
    """How long and how fast."""

    steps: int
    batch: int
    lr: float
    seed: int

    def rate(self, step: int) -> float:
        """Learning rate of a step."""
        return self.lr * min(1.0, (step + 1) / _WARMUP) * (_FLOOR + (1 - _FLOOR) * (1 - step / self.steps))


def warm_start(
    model: Any, tokenizer: Any, data: Demonstrated, *, plan: WarmStart, progress: Progress | None = None
) -> None:
    """Train ``model`` in place on completions, with one thread so that thread count changes nothing.

    Problems are taken in order and again from the start, each time with a new demonstration.
    """
    model.set_attn_implementation(ATTENTION)
    optimisers = _optimisers(model, plan)
    with _one_thread():
        for step in range(plan.steps):
            loss = _loss(model, _sequences(tokenizer, data, plan=plan, step=step))
            model.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]  # torch
            torch.nn.utils.clip_grad_norm_(model.parameters(), _CLIP)
            for optimiser in optimisers:
                for group in optimiser.param_groups:
                    group["lr"] = plan.rate(step)
                optimiser.step()
            if progress is not None:
                progress(step + 1, plan.steps)


def _optimisers(model: Any, plan: WarmStart) -> list[torch.optim.Optimizer]:
    embeddings = {id(model.get_input_embeddings().weight), id(model.get_output_embeddings().weight)}
    matrices = [p for p in model.parameters() if p.ndim == 2 and id(p) not in embeddings]
    others = [p for p in model.parameters() if p.ndim != 2 or id(p) in embeddings]
    return [
        # Updates of the size that AdamW would make, so that both share one learning rate.
        torch.optim.Muon(matrices, lr=plan.lr, weight_decay=_DECAY, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(others, lr=plan.lr, betas=_BETAS, weight_decay=_DECAY, fused=True),
    ]


def _sequences(
    tokenizer: Any, data: Demonstrated, *, plan: WarmStart, step: int
) -> list[tuple[list[int], list[int]]]:
    """Prompt and completion ids of one batch."""
    pairs = []
    for index in range(step * plan.batch, (step + 1) * plan.batch):
        problem = data[index % len(data)]
        shown = data.demonstration(problem, derive_seed(plan.seed, "demonstration", index))
        prompt = tokenizer.encode(data.prompt_text(problem))
        pairs.append((prompt, [*tokenizer.encode(shown), tokenizer.eos_token_id]))
    return pairs


def _loss(model: Any, pairs: list[tuple[list[int], list[int]]]) -> Tensor:
    """Mean cross-entropy of the completion tokens."""
    tokens = torch.tensor([token for prompt, completion in pairs for token in prompt + completion])
    trained = torch.tensor([flag for p, c in pairs for flag in [False] * len(p) + [True] * len(c)])
    rows = trained.nonzero()[:, 0]
    packed = Packed(tuple(len(p) + len(c) for p, c in pairs), tokens.device)
    states = model.base_model(
        input_ids=tokens[None],
        position_ids=packed.positions[None],
        attention_mask=torch.empty(1, 1, 1, 1),
        use_cache=False,
        layout=packed,
    ).last_hidden_state[0]
    logits = F.linear(states[rows - 1], model.get_output_embeddings().weight)
    return F.cross_entropy(logits, tokens[rows])


@contextmanager
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
