"""Memory of a run on one device, phase by phase, as the trainer spends it.

Every rank holds the whole model, its gradients and its optimiser state: more devices divide rollouts and
forwards, never these. Weights, gradients and AdamW's two moments are in float32; ``compute.dtype`` is the
format of the matrix products alone, which keep copies of the weights in it. A GB is 10^9 bytes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from tokensweep.loss.method import Method, build_method
from tokensweep.loss.slots import REFERENCE, Guarantee
from tokensweep.loss.tiles import CPU_TILE, GPU_TILE
from tokensweep.memory.device import GB, Device
from tokensweep.memory.shapes import Kept, Parameters, kept, parameters
from tokensweep.models.trainable import Lora, trainable_of
from tokensweep.registry import build
from tokensweep.rollout.needs import Describing, Drawing, Share
from tokensweep.train.ranks import BUCKET

_PROMPT = 512  # tokens, where prompt.max_tokens says nothing
_FULL = 4  # bytes of a float32
_ROUNDED, _LAYER = "weights in 16 bits", "work of one layer"
# What a layer has besides what it keeps, as shares of that: in a forward without a graph, which keeps
# nothing, and in its backward. Describing on a CPU: 0.55 to 0.8 and 0.15 to 0.45, see tests/memory.
_FORWARD, _BACKWARD = 0.75, 0.3
_MOMENTS = 2  # of AdamW
_TABLE_ROW = 3 * 8  # bytes per token of the batch: id, sequence and position, see loss.tables.Batch
_TRAINED_ROW = 3 * 8 + 6 * 4 + 1  # per trained token: its indices, columns with advantage and weight, active
_TILES = 4  # pieces of logits that the fused head holds at a time: a tile and what it is turned into
_CHECK = 4 * 8  # bytes per number while weights are compared between ranks, see train.ranks.fingerprint


@dataclass(frozen=True, kw_only=True)
class Phase:
    """What lies on a device in one phase of a step, under the names that a reader sees."""

    name: str  # rollout, old_pass, update: as the trainer times them; sync
    parts: Mapping[str, float]  # bytes

    @property
    def total(self) -> float:
        """Bytes of all parts."""
        return sum(self.parts.values())


@dataclass(frozen=True, kw_only=True)
class Work:
    """The sizes of a run that decide about memory, from its frozen config."""

    architecture: Mapping[str, Any]
    dtype: torch.dtype  # of the matrix products
    method: Method
    prompt: int  # tokens, at most
    completion: int  # tokens, at most
    prompts: int  # trained in a step
    group_size: int
    micro_tokens: int  # as the config says
    engine: object  # as it is configured, not started
    ranks: int
    on_cpu: bool
    lora: Lora | None  # adapters, where they alone are trained
    recomputes: bool  # layers in the backward, see train.activations
    device_bytes: float  # of one device, for an engine that takes a share of it

    @property
    def rollouts(self) -> int:
        """Trained in a step."""
        return self.prompts * self.group_size

    @property
    def sequence(self) -> int:
        """Tokens of the longest rollout."""
        return self.prompt + self.completion

    @property
    def forward(self) -> int:
        """Tokens of the largest forward: a micro-batch holds a whole rollout, however long."""
        mini_batch = max(1, self.rollouts // self.method.updates_per_batch) * self.sequence
        return max(self.sequence, min(self.micro_tokens, mini_batch))

    @property
    def share(self) -> float:
        """Part of a forward's tokens that the loss scores."""
        return self.completion / self.sequence

    @property
    def parameters(self) -> Parameters:
        """What the model is made of."""
        return parameters(self.architecture, self.lora)

    @property
    def kept(self) -> Kept:
        """What its forward makes of whole layers."""
        return kept(self.architecture, self.dtype, lora=self.lora)

    @property
    def drawing(self) -> Drawing | None:
        """What its engine takes of a device; None for an engine that does not say so."""
        return self.engine.memory(self._drawn()) if isinstance(self.engine, Describing) else None

    def _drawn(self) -> Share:
        """What of a step one device draws."""
        return Share(
            rollouts=-(-self.rollouts // self.ranks),
            group_size=self.group_size,
            prompt=self.prompt,
            completion=self.completion,
            weights=self.parameters.total,
            vocab=self.parameters.vocab,
            cache_per_token=self.kept.cache_per_token,
            layer_per_token=self.kept.per_token_and_layer,
            rounded=self.dtype != torch.float32,
            on_cpu=self.on_cpu,
            device_bytes=self.device_bytes,
        )

    @property
    def kept_on(self) -> Kept:
        """What of it is kept until the backward."""
        return kept(self.architecture, self.dtype, lora=self.lora, recomputed=self.recomputes)


def work_of(frozen: Mapping[str, Any], device: Device) -> Work:
    """The sizes of a run on such devices. Raises ValueError for a model whose sizes are not known."""
    model = build(frozen["model"])
    architecture = model.architecture(cache=Path(frozen["store"]) / "models")
    if architecture is None:
        raise ValueError(
            "a memory plan needs the sizes of the model, and its config.json is not here: give them, as in "
            "'model.shape={model_type: qwen3, hidden_size: 1024, ...}' (conf/model/qwen3_0_6b.yaml shows the "
            "keys), or a folder with the model"
        )
    trainable = trainable_of(frozen)
    completion = frozen["sampling"]["max_tokens"]
    room = max(1, parameters(architecture).positions - completion)
    return Work(
        architecture=architecture,
        dtype=getattr(torch, frozen["compute"]["dtype"]),
        method=build_method(frozen["method"]),
        prompt=(frozen.get("prompt") or {}).get("max_tokens") or min(_PROMPT, room),
        completion=completion,
        prompts=frozen["batch"]["prompts"],
        group_size=frozen["batch"]["group_size"],
        micro_tokens=frozen["batch"]["micro_tokens"],
        engine=build(frozen["rollout"]),
        ranks=device.ranks,
        lora=trainable if isinstance(trainable, Lora) else None,
        recomputes=frozen["compute"].get("activation_checkpointing", False),
        on_cpu=device.on_cpu,
        device_bytes=device.memory_gb * GB,
    )


def phases(work: Work) -> tuple[Phase, ...]:
    """Rollout, old_pass, update and sync, in the order of a step."""
    drawing = work.drawing or Drawing()
    resident = {**_resident(work), **drawing.stays}
    table = {"batch table": work.rollouts * (_TABLE_ROW * work.sequence + _TRAINED_ROW * work.completion)}
    return (
        Phase(name="rollout", parts={**resident, **drawing.parts}),
        Phase(name="old_pass", parts={**resident, **table, **_states(work), **_old_pass(work)}),
        Phase(name="update", parts={**resident, **table, **_update(work)}),
        Phase(name="sync", parts={**resident, **_sync(work, drawing)}),
    )


def _resident(work: Work) -> dict[str, float]:
    """What never leaves the device."""
    numbers = work.parameters
    parts: dict[str, float] = {
        "weights": _FULL * numbers.total,
        "optimiser state": _FULL * (_MOMENTS * numbers.trained + numbers.tensors),  # and a step count each
    }
    if work.method.needs() & REFERENCE:
        parts["reference weights"] = _FULL * numbers.total
    return parts


def _states(work: Work) -> dict[str, float]:
    """Hidden states of all trained tokens, where the method looks at them; ranks add theirs up in a copy."""
    if "old_hidden" not in work.method.needs():
        return {}
    column = work.rollouts * work.completion * work.parameters.hidden * work.dtype.itemsize
    return {"hidden states": column, "exchange": column if work.ranks > 1 else 0.0}


def peak(work: Work) -> Phase:
    """The phase that takes most."""
    return max(phases(work), key=lambda phase: phase.total)


def _old_pass(work: Work) -> dict[str, float]:
    """The first forward waits with its graph for the update while the others run without one."""
    return {
        **_activations(work),
        _ROUNDED: _rounded(work, kept=True),
        f"{_ROUNDED}, next": _rounded(work, kept=False),
        _LAYER: _FORWARD * _layer(work),
        "head buffers": _head(work, backward=False),
    }


def _update(work: Work) -> dict[str, float]:
    """The largest moment: end of a forward, a backward that begins with all that was kept, the exchange."""
    looks_at_all = not work.method.guarantees() >= {Guarantee.signal_only, Guarantee.rollout_local}
    always = {f"{_ROUNDED}, 2nd pack": _rounded(work, kept=True) if looks_at_all else 0.0}
    forward = {
        **_activations(work),
        _ROUNDED: max(_rounded(work, kept=True), _rounded(work, kept=False)),
        _LAYER: _FORWARD * _layer(work),
    }
    backward = {
        **_activations(work),
        _ROUNDED: _rounded(work, kept=True),
        _LAYER: (_BACKWARD + work.recomputes) * _layer(work),  # run again, a layer keeps all that it made
        "head buffers": _head(work, backward=True),
    }
    exchange = {"exchange": _FULL * max(BUCKET, work.parameters.largest) if work.ranks > 1 else 0.0}
    largest = max(forward, backward, exchange, key=lambda parts: sum(parts.values()))
    return {
        "gradients": _FULL * work.parameters.trained,
        **largest,
        **(always if largest is not exchange else {}),
    }


def _sync(work: Work, drawing: Drawing) -> dict[str, float]:
    """The engine takes the weights, the ranks compare theirs piece by piece, a checkpoint is written.

    With adapters a checkpoint also holds the adapted weights, merged on the device.
    """
    compared = _CHECK * min(BUCKET, work.parameters.largest) if work.ranks > 1 else 0.0
    merged = _FULL * work.parameters.products if work.lora is not None else 0.0
    return max(
        dict(drawing.takes),
        {"comparison": compared},
        {"merged for a checkpoint": merged},
        key=lambda parts: sum(parts.values()),
    )


def _activations(work: Work) -> dict[str, float]:
    """What the largest forward keeps up to the head, and the states that enter it."""
    scored = work.forward * work.share * work.parameters.hidden * work.dtype.itemsize
    return {"activations": work.forward * work.kept_on.per_token + scored}


def _layer(work: Work) -> float:
    """What one layer makes of the largest forward and would keep."""
    return work.forward * work.kept.per_token_and_layer


def _rounded(work: Work, *, kept: bool) -> float:
    """Weights and head in the format of the products: what a graph keeps, or a forward without one holds.

    A layer that is run again rounds again. Without a graph autocast remembers what it rounded of weights that
    are trained, and of no others.
    """
    if work.dtype == torch.float32:
        return 0.0
    none = work.recomputes if kept else work.lora is not None
    return (0.0 if none else work.kept.casts) + work.dtype.itemsize * work.parameters.head


def _head(work: Work, *, backward: bool) -> float:
    """Buffers of the fused head: tiles of logits, and in the backward gradients of states and matrix."""
    numbers = work.parameters
    rows, vocab = CPU_TILE if work.on_cpu else GPU_TILE
    scored = work.forward * work.share
    tiles = _FULL * _TILES * min(rows, scored) * min(vocab, numbers.vocab)
    if not backward:
        return tiles
    states = scored * numbers.hidden * _FULL
    if work.lora is not None:  # the matrix is not trained
        return tiles + states
    matrix = numbers.head * (_FULL if work.dtype == torch.float32 else _FULL + work.dtype.itemsize)
    return tiles + states + matrix
