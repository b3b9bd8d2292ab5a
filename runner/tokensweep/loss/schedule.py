"""Numbers of a method that move with the step."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields, is_dataclass, replace
from enum import StrEnum
from typing import Any


class Shape(StrEnum):
    """Course of a schedule over the progress u in [0, 1], as a fraction of the way from start to end."""

    constant = "constant"  # 0
    linear = "linear"  # u
    cosine = "cosine"  # (1 - cos(pi u)) / 2
    power = "power"  # u ** power
    cubic = "cubic"  # ((2 u - 1) ** 3 + 1) / 2: fast at both ends, slow in the middle


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """A field that moves from ``start`` to ``end`` over ``steps`` optimiser batches, and then stays.

    ``path`` is the key of the field below ``method``, as in ``ratio.p``. Rising and falling forms of a
    shape are told apart by start and end. Raises ValueError for steps below 1 or a power not above 0.
    """

    path: str
    start: float
    end: float
    steps: int
    shape: Shape = Shape.linear
    power: float = 1.0  # of the shape power

    def __post_init__(self) -> None:
        if self.shape not in list(Shape):
            raise ValueError(f"shape must be one of {', '.join(Shape)}, got {self.shape!r}")
        if self.steps < 1 or self.power <= 0:
            raise ValueError(
                f"steps must be at least 1 and power above 0, got {self.steps} and {self.power:g}"
            )

    def value(self, step: int) -> float:
        """The value during optimiser batch ``step``, counted from 0."""
        u = min(1.0, step / self.steps)
        ways: dict[Shape, float] = {
            Shape.constant: 0.0,
            Shape.linear: u,
            Shape.cosine: (1 - math.cos(math.pi * u)) / 2,
            Shape.power: u**self.power,
            Shape.cubic: ((2 * u - 1) ** 3 + 1) / 2,
        }
        return self.start + (self.end - self.start) * ways[self.shape]


def build_schedule(entry: Mapping[str, Any]) -> Schedule:
    """The schedule that an entry of ``method.schedules`` describes. Raises ValueError as Schedule does."""
    try:
        shape = Shape(entry.get("shape", Shape.linear))
    except ValueError as error:
        raise ValueError(
            f"a schedule's shape must be one of {', '.join(Shape)}, got {entry['shape']!r}"
        ) from error
    return Schedule(**{**entry, "shape": shape})


def put(node: Any, keys: list[str], *, value: Any, path: str) -> Any:
    """A copy of ``node`` with the field or component at the end of ``keys`` replaced.

    Raises ValueError that names ``path`` where there is none.
    """
    if not keys:
        return value
    head, rest = keys[0], keys[1:]
    if isinstance(node, Mapping) and head in node:
        return {**node, head: put(node[head], rest, value=value, path=path)}
    if is_dataclass(node) and not isinstance(node, type) and head in {f.name for f in fields(node)}:
        return replace(node, **{head: put(getattr(node, head), rest, value=value, path=path)})
    raise ValueError(f"a schedule's path must lead to a field of the method, got {path!r}: no {head!r} there")
