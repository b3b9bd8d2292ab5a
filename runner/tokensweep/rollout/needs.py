"""What an engine needs of a device: the question of a memory plan, and the answer that an engine may give.

No weights, no device and no engine that was started: an engine answers from its own settings.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

FULL, HALF = 4, 2  # bytes of a number in float32, and in 16 bits
# Bytes per logit while a token is drawn: float32 logits, their softmax, its exponential, and float64 sums.
_WIDE_ROW = 4 + 4 + 4 + 8
_DRAWN_ROW = 8 + 4 + 8  # bytes per token of a wave: id, log-probability, uniform number


@dataclass(frozen=True, kw_only=True)
class Share:
    """What one device draws in a step, and from which model; lengths are the longest that there can be."""

    rollouts: int
    group_size: int  # rollouts of a prompt
    prompt: int  # tokens
    completion: int  # tokens
    weights: int  # numbers of the model
    vocab: int  # V
    cache_per_token: float  # bytes of keys and values
    layer_per_token: float  # bytes that one layer makes of a token
    rounded: bool  # the trainer's matrix products are in 16 bits, its weights in float32
    on_cpu: bool
    device_bytes: float

    @property
    def sequence(self) -> int:
        """Tokens of the longest rollout."""
        return self.prompt + self.completion


@dataclass(frozen=True, kw_only=True)
class Drawing:
    """What an engine takes of a device."""

    rows: int = 0  # rollouts at a time; 0: without the model, or not on this device
    parts: Mapping[str, float] = field(default_factory=dict)  # bytes while it draws
    stays: Mapping[str, float] = field(default_factory=dict)  # bytes that it holds in all phases
    takes: Mapping[str, float] = field(default_factory=dict)  # bytes beside these while it gets new weights
    weight_bytes: float = 0.0  # read and written per weight and token, the bytes of rounding included
    setting: str = ""  # of the engine: what to lower where drawing takes too much
    least: int = 0  # of a setting in tokens: its smallest value; 0: a plan proposes none
    is_share: bool = False  # the setting is a share of the device's memory, and a plan proposes a smaller one


@runtime_checkable
class Describing(Protocol):
    """An engine that says what it takes of a device; a memory plan says so of one that does not."""

    def memory(self, share: Share) -> Drawing:
        """What it takes to draw this share of a step."""
        ...


def in_the_trainer(share: Share, *, rows: int) -> dict[str, float]:
    """Bytes while ``rows`` rollouts at a time are drawn from the trainer's own weights.

    Without gradients no rounded copy of a weight stays.
    """
    prompts = min(rows, -(-rows // share.group_size) + 1)  # each is read once for its whole group
    return {
        "key-value cache": rows * share.sequence * share.cache_per_token,
        "logits and draws": rows * (_WIDE_ROW * share.vocab + _DRAWN_ROW * share.completion),
        "work of one layer": prompts * share.prompt * share.layer_per_token,
    }


def reading(share: Share) -> float:
    """Bytes per weight and token from the trainer's own weights: read, and where rounded written and read."""
    return FULL + 2 * HALF if share.rounded else FULL
