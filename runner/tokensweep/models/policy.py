"""The policy: a causal language model from a folder, with a packed forward for the trainer.

The vocabulary head stays outside: ``hidden`` gives the states before it and ``head`` what makes logits of
them, so that the loss never forms a table of tokens by vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tokensweep.models.attention import ATTENTION, Layout, Packed
from tokensweep.models.head import Head, head_of
from tokensweep.models.probe import Probe
from tokensweep.models.store import check_folder, load_model, load_tokenizer
from tokensweep.models.weights import as_in_checkpoint, held_weights

_LAYERS = {"full_attention", "sliding_attention"}  # the kinds of layers that layouts attend

# A mask of four dimensions is handed on by transformers as it is; with a layout nobody reads it.
_NO_MASK = (1, 1, 1, 1)


class Policy:
    """Any decoder-only language model of transformers, with its tokenizer.

    Its logits are ``head.logits(hidden)``. Mixtures of experts are trained through their router's weights on
    the chosen experts; the auxiliary loss that balances a router is no part of it.
    Raises ValueError for a folder without config or tokenizer or with the weights of another model, and for
    models that attend in ways unknown here (sinks, chunks, state spaces) or that do something else to their
    logits than :class:`Head` says, found by comparison with transformers' own forward.
    """

    def __init__(
        self, folder: Path, *, dtype: torch.dtype = torch.float32, device: str | torch.device = "cpu"
    ) -> None:
        check_folder(folder)
        self.device = torch.device(device)
        self.tokenizer: Any = load_tokenizer(folder)
        model = load_model(folder, dtype=dtype)
        _check_attention(model, folder)
        self.model: Any = model.to(self.device).eval()
        self.eos_ids = _eos_ids(model, self.tokenizer, folder)
        probe = Probe.of(model)
        model.set_attn_implementation(ATTENTION)
        probe.check(model, head=self.head, states=self.hidden, folder=folder)

    @property
    def head(self) -> Head:
        """What makes logits of ``hidden``; its tensors are the model's parameters themselves."""
        return head_of(self.model)

    @property
    def head_weight(self) -> Tensor:
        """The output matrix [V, H]: the parameter itself, tied to the embedding where the model ties it."""
        weight: Tensor = self.model.get_output_embeddings().weight
        return weight

    @property
    def hidden_size(self) -> int:
        """H."""
        return self.head_weight.shape[1]

    @property
    def vocab_size(self) -> int:
        """V, the rows of the head; may exceed the tokenizer's vocabulary."""
        return self.head_weight.shape[0]

    def hidden(self, token_ids: Tensor, cu_seqlens: Tensor) -> Tensor:
        """States before the head [M, H] of sequences packed one behind the other, with gradient.

        ``token_ids`` [M] int64; ``cu_seqlens`` [S+1] integers are the bounds of the S sequences, from 0 to M.
        Row i is the state after token i, so it predicts token i + 1 of the same sequence.
        """
        bounds = cu_seqlens.tolist()
        if not bounds or bounds[0] != 0 or bounds[-1] != len(token_ids):
            raise ValueError(
                f"cu_seqlens must run from 0 to {len(token_ids)} tokens, got {bounds[:1]} to {bounds[-1:]}"
            )
        lengths = tuple(end - start for start, end in pairwise(bounds))
        if min(lengths) < 1:
            raise ValueError("cu_seqlens must increase: a sequence without tokens has no state")
        packed = Packed(lengths, self.device)
        return self.forward(token_ids[None].to(self.device), packed.positions[None], layout=packed)[0]

    def forward(self, token_ids: Tensor, positions: Tensor, *, layout: Layout, cache: Any = None) -> Tensor:
        """States before the head [B, T, H] of token_ids and positions [B, T], attended by ``layout``."""
        states: Tensor = self.model.base_model(
            input_ids=token_ids,
            position_ids=positions,
            attention_mask=torch.empty(_NO_MASK, device=self.device),
            past_key_values=cache,
            use_cache=cache is not None,
            layout=layout,
        ).last_hidden_state
        return states

    def decode(self, token_ids: tuple[int, ...] | list[int]) -> str:
        """The text of a completion without end, padding and other special tokens."""
        text: str = self.tokenizer.decode(list(token_ids), skip_special_tokens=True)
        return text

    @property
    def trained(self) -> dict[str, Tensor]:
        """The parameters that training moves, by name and in the model's order; a tied one once."""
        return {name: x for name, x in self.model.named_parameters() if x.requires_grad}

    def merged_weights(self) -> Iterator[tuple[str, Tensor]]:
        """Name and tensor of all weights of a plain model that computes the same, named as in its checkpoint.

        The tensors have no gradient, and where nothing is merged they are the policy's own: copy what must
        outlast the next optimiser step. The policy is not changed. A tied head comes once.
        """
        return as_in_checkpoint(self.model, held_weights(self.model).items())

    def save(self, folder: Path) -> None:
        """Write model and tokenizer as a normal Hugging Face folder."""
        self.model.save_pretrained(folder)
        self.tokenizer.save_pretrained(folder)


def _check_attention(model: Any, folder: Path) -> None:
    kinds = set(getattr(model.config.get_text_config(), "layer_types", None) or []) - _LAYERS
    if kinds:
        raise ValueError(
            f"{folder}: layers must be of {' or '.join(sorted(_LAYERS))}, got {', '.join(sorted(kinds))}: "
            "choose another architecture"
        )
    if not model._supports_attention_backend:
        raise ValueError(
            f"{folder}: {type(model).__name__} does not take its attention from transformers' "
            "AttentionInterface, so sequences can not be packed: choose another architecture"
        )


def _eos_ids(model: Any, tokenizer: Any, folder: Path) -> tuple[int, ...]:
    """Every token that ends a completion, from generation config, config and tokenizer."""
    found: set[int] = set()
    for value in (model.generation_config.eos_token_id, model.config.eos_token_id, tokenizer.eos_token_id):
        found.update(value if isinstance(value, list | tuple) else [] if value is None else [value])
    if not found:
        raise ValueError(f"{folder} names no end token: set eos_token_id in its config.json")
    return tuple(sorted(found))
