"""Factorial designs: arms with every combination of some interventions, or with the half that still tells
main effects from interactions.

In a sweep file ``factorial`` stands in place of ``arms``::

    factorial:
      fraction: half          # full, or half: the arms with an even number of factors
      factors:
        selection: {+method/token_weights@method.token_weights.entropy: entropy}
        clipping: {method/surrogate: clip_higher}
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import combinations
from typing import Any

NONE = "none"  # the arm without any factor
_JOINED = "+"


class Fraction(StrEnum):
    """Which of the 2^k combinations are arms."""

    full = "full"
    half = "half"  # those with an even number of factors: I = (+-)ABC.., resolution k


_SMALLEST_HALF = 5  # below, a half mixes two-factor interactions with each other or with main effects


@dataclass(frozen=True)
class Design:
    """Arms of a factorial design and the factors that are on in each."""

    arms: Mapping[str, dict[str, Any]]  # overrides by arm, the one without a factor first
    factors: Mapping[str, tuple[str, ...]]  # arms with the factor on, by factor


def read_design(node: Mapping[str, Any], *, where: str) -> Design:
    """The design that ``factorial`` in a sweep file describes.

    Raises ValueError that names the key: fewer than two factors, a half of fewer than five, a factor that
    changes nothing, factors that set one key to different values.
    """
    if unknown := sorted(set(node) - {"fraction", "factors"}):
        raise ValueError(f"{where} has unknown keys {', '.join(unknown)}: known are factors, fraction")
    factors: Mapping[str, Mapping[str, Any]] = node.get("factors") or {}
    if len(factors) < 2:
        raise ValueError(f"{where}.factors must hold at least two factors, got {len(factors)}")
    try:
        fraction = Fraction(node.get("fraction", Fraction.full))
    except ValueError:
        raise ValueError(f"{where}.fraction must be full or half, got {node['fraction']!r}") from None
    if fraction is Fraction.half and len(factors) < _SMALLEST_HALF:
        raise ValueError(
            f"{where}.fraction half must have at least {_SMALLEST_HALF} factors, got {len(factors)}: with "
            "fewer, interactions of two factors mix with each other or with main effects; take full"
        )
    for name, overrides in factors.items():
        if not isinstance(overrides, Mapping) or not overrides:
            raise ValueError(f"{where}.factors.{name} must map keys to values, got {overrides!r}")
        if _JOINED in str(name) or name == NONE:
            raise ValueError(
                f"{where}.factors: a factor's name must be other than {NONE!r} and without "
                f"{_JOINED!r}, got {name!r}"
            )
    arms: dict[str, dict[str, Any]] = {}
    on: dict[str, list[str]] = {str(name): [] for name in factors}
    for size in range(len(factors) + 1):
        if fraction is Fraction.half and size % 2:
            continue
        for chosen in combinations(factors, size):
            arm = _JOINED.join(chosen) or NONE
            arms[arm] = _merged({name: factors[name] for name in chosen}, where=where)
            for name in chosen:
                on[name].append(arm)
    return Design(arms, {name: tuple(with_it) for name, with_it in on.items()})


def _merged(factors: Mapping[str, Mapping[str, Any]], *, where: str) -> dict[str, Any]:
    """The overrides of several factors together."""
    merged: dict[str, Any] = {}
    for name, overrides in factors.items():
        for key, value in overrides.items():
            if merged.setdefault(key, value) != value:
                others: Sequence[str] = [
                    other for other in factors if key in factors[other] and other != name
                ]
                raise ValueError(
                    f"{where}.factors: {name} and {others[0]} both set {key}, so they have no arm together: "
                    "give each factor keys of its own"
                )
    return merged
