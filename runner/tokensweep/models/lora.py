"""A policy with low-rank adapters (peft) beside frozen weights.

The adapters lie inside the model, so forward, gradients and the embedded engine need to know nothing of them.
Outwards the policy is two things: a plain model with the adapters merged into the weights, which every reader
of Hugging Face models understands, and a folder with the adapters alone, in peft's format.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, inject_adapter_in_model
from peft.tuners.lora import Linear
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from tokensweep.models.policy import Policy
from tokensweep.models.trainable import ALL_LINEAR, Lora
from tokensweep.models.weights import as_in_checkpoint, held_weights
from tokensweep.seeds import derive_seed

FOLDER = "adapter"  # in a checkpoint; beside the weights, transformers would load base and adapters instead

_WEIGHTS = "adapter_model.safetensors"
_NAME = "default"  # peft's, of the only adapter
_PREFIX = "base_model.model."  # of the names in peft's files
_BASE = "base.sha256"  # in a checkpoint; not metadata of the tensors, whose order differs from write to write


class LoraPolicy(Policy):
    """The model in ``base`` with adapters, new ones drawn from ``seed`` or those of ``checkpoint``.

    Raises ValueError as :class:`Policy`, for targets that the model does not have or that are no linear
    layers inside it, and for a checkpoint whose adapters were trained on other weights than ``base`` holds.
    """

    def __init__(
        self,
        base: Path,
        *,
        lora: Lora,
        seed: int,
        checkpoint: Path | None = None,
        device: str | torch.device = "cpu",
    ) -> None:
        super().__init__(base, device=device)
        self._base = _digest(base)
        with torch.random.fork_rng(devices=[]):  # peft draws from the global state what is replaced below
            self.model, self._config = adapted_model(self.model, lora, folder=base)
        if checkpoint is None:
            _draw(self.model, seed=derive_seed(seed, "lora"))
        else:
            self._load(checkpoint / FOLDER)

    @property
    def rank(self) -> int:
        """Rank of the adapters."""
        return int(self._config.r)

    @property
    def targets(self) -> list[str]:
        """The last names of the layers that have adapters."""
        return sorted({name.rpartition(".")[2] for name in _adapted(self.model)})

    def base_weights(self) -> Iterator[tuple[str, Tensor]]:
        """The frozen weights, named as in the base model's checkpoint; the policy's own, so copy them."""
        plain = (
            (name.replace(".base_layer.", "."), tensor)
            for name, tensor in held_weights(self.model).items()
            if name not in self.trained
        )
        return as_in_checkpoint(self.model, plain)

    def merged_weights(self) -> Iterator[tuple[str, Tensor]]:
        """As :meth:`Policy.merged_weights`; a merged tensor is a new one, made when it is asked for."""
        return as_in_checkpoint(self.model, self._merged())

    def save(self, folder: Path) -> None:
        """Write a normal Hugging Face folder with merged weights, and the adapters in ``adapter/`` below."""
        self.model.save_pretrained(folder, state_dict=dict(self._merged()))
        self.tokenizer.save_pretrained(folder)
        self.adapter(folder / FOLDER)
        (folder / FOLDER / _BASE).write_text(self._base)

    def adapter(self, folder: Path) -> None:
        """Write the adapters alone as peft does, for ``PeftModel.from_pretrained`` or a ``LoRARequest``."""
        folder.mkdir(parents=True, exist_ok=True)
        self._config.target_modules = sorted(
            _adapted(self.model)
        )  # a set before, in another order every time
        self._config.save_pretrained(str(folder))
        tensors = {_peft_name(name): x.detach().cpu().contiguous() for name, x in self.trained.items()}
        save_file(tensors, folder / _WEIGHTS, metadata={"format": "pt"})

    @torch.no_grad()
    def _merged(self) -> Iterator[tuple[str, Tensor]]:
        """The weights of a plain model under the names that such a model has for them."""
        layers, adapters = _adapted(self.model), self.trained
        for name, tensor in held_weights(self.model).items():
            if name in adapters:
                continue
            layer, wrapped, rest = name.partition(".base_layer.")
            if not wrapped:
                yield name, tensor
            elif rest == "weight":
                yield f"{layer}.weight", tensor + layers[layer].get_delta_weight(_NAME).to(tensor.dtype)
            else:
                yield f"{layer}.{rest}", tensor

    @torch.no_grad()
    def _load(self, folder: Path) -> None:
        """Put stored adapters back."""
        if (trained_on := (folder / _BASE).read_text()) != self._base:
            raise ValueError(
                f"{folder} must belong to the base model's weights, but was trained on others "
                f"({trained_on[:12]}, now {self._base[:12]}): bring back the store's models folder as it "
                "was, or move the run's checkpoints away to start over"
            )
        stored = load_file(folder / _WEIGHTS)
        names = {_peft_name(name): x for name, x in self.trained.items()}
        if different := sorted(names.keys() ^ stored.keys()):
            raise ValueError(f"{folder} must hold an A and a B per target, but differs in {different[0]}")
        for name, parameter in names.items():
            parameter.copy_(stored[name])


def adapted_model(model: Any, lora: Lora, *, folder: Path) -> tuple[Any, LoraConfig]:
    """The model with adapters inside, whose numbers are still to be drawn, and what peft calls them.

    ``folder`` names the model in errors. Raises ValueError for targets that it does not have.
    """
    config = LoraConfig(
        r=lora.rank,
        lora_alpha=lora.alpha,
        target_modules=_targets(model, lora.targets, folder=folder),
        use_rslora=lora.rank_stabilised,
        task_type="CAUSAL_LM",
    )
    return inject_adapter_in_model(config, model).eval(), config


def _targets(model: Any, names: Sequence[str], *, folder: Path) -> list[str]:
    """Full names of the layers to adapt: peft's own choice of them differs between kinds of models."""
    head = model.get_output_embeddings()  # left out: the loss takes it as it is
    linear = [
        x for x, module in model.named_modules() if isinstance(module, nn.Linear) and module is not head
    ]
    if list(names) == [ALL_LINEAR] and linear:
        return linear
    found = {name: [x for x in linear if f".{x}".endswith(f".{name}")] for name in names}
    if missing := [name for name, layers in found.items() if not layers]:
        known = sorted({x.rpartition(".")[2] for x in linear})
        raise ValueError(
            f"trainable.targets must be linear layers below the head, but {folder} has no {missing[0]}: "
            f"it has {', '.join(known) or 'none'}"
        )
    return [x for layers in found.values() for x in layers]


def _adapted(model: Any) -> dict[str, Any]:
    """The layers with adapters by name."""
    return {name: module for name, module in model.named_modules() if isinstance(module, Linear)}


@torch.no_grad()
def _draw(model: Any, *, seed: int) -> None:
    """Fill A uniformly within 1 / sqrt(inputs) and B with 0; on the host, so every device gets the same."""
    generator = torch.Generator().manual_seed(seed)
    for layer in _adapted(model).values():
        a, b = layer.lora_A[_NAME].weight, layer.lora_B[_NAME].weight
        limit = 1 / math.sqrt(a.shape[1])
        a.copy_(torch.empty(a.shape, dtype=torch.float32).uniform_(-limit, limit, generator=generator))
        b.zero_()


def _peft_name(name: str) -> str:
    """A parameter's name in peft's files."""
    return _PREFIX + name.replace(f".{_NAME}.", ".")


def _digest(folder: Path) -> str:
    """SHA-256 of the weights in a model's folder."""
    whole = hashlib.sha256()
    for path in sorted(folder.glob("*.safetensors")):
        with path.open("rb") as file:
            whole.update(path.name.encode() + hashlib.file_digest(file, "sha256").digest())
    return whole.hexdigest()
