"""Presets in a stack, ``method=[a,b]``: what each of them decides must not be undone silently by another."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from hydra.core.override_parser.types import Override

from tokensweep.presets import EVIDENCE, Preset, find_preset, no_preset, presets


@dataclass(frozen=True)
class Filled:
    """What a preset fills, with what the presets it starts from fill; nothing where there is none."""

    preset: Preset | None
    includes: frozenset[str]
    selects: Mapping[str, str]  # option by single slot, or by slot@place of a map
    values: Mapping[str, Any] = field(default_factory=dict)  # by dotted key below method

    def values_at(self, place: str) -> dict[str, Any]:
        """The values that it sets inside the component at a place."""
        return {key: value for key, value in self.values.items() if key.startswith(f"{place}.")}


def filled(name: str) -> Filled:
    """What the preset of that name fills."""
    preset = find_preset(name)
    if preset is None:
        return Filled(None, frozenset(), {})
    bases = [filled(base) for base in preset.bases]
    includes = frozenset(preset.bases).union(*(base.includes for base in bases))
    own = Filled(preset, frozenset(), preset.selects, preset.values)
    selects = {place: option for part in (*bases, own) for place, option in part.selects.items()}
    values = {key: value for part in (*bases, own) for key, value in part.values.items()}
    return Filled(preset, includes, selects, values)


def stacked(parsed: Sequence[Override]) -> list[str]:
    """The presets of ``method=[a,b]`` in its order, or that of ``method=a``; none where nothing is chosen.

    Raises ValueError for an empty list, and for a preset that stands twice.
    """
    chosen = [override.value() for override in parsed if override.key_or_group == "method"]
    if not chosen or not isinstance(chosen[-1], list | str):
        return []
    names = [str(name) for name in chosen[-1]] if isinstance(chosen[-1], list) else [chosen[-1]]
    if not names or len(set(names)) < len(names):
        raise ValueError(
            f"method must name at least one preset, and each once, got [{','.join(names)}]: "
            "tokensweep methods lists them"
        )
    return names


def check_stack(parsed: Sequence[Override], *, preset: Callable[[str], Filled]) -> dict[str, Filled]:
    """The chosen presets by name. ``preset`` is :func:`filled`, or a cache of it.

    Raises ValueError for a name of no preset, and for presets that undo each other where no override decides:
    that select other options for one single slot or one place of a map, that set other values there, and a
    preset after one that starts from it.
    """
    given = frozenset(str(override.key_or_group) for override in parsed)
    chosen = {name: preset(name) for name in stacked(parsed)}
    if unknown := [name for name, each in chosen.items() if each.preset is None]:
        raise ValueError(no_preset(unknown[0], presets()))
    _check_order(chosen)
    included = {name for each in chosen.values() for name in each.includes}
    outer = {name: each for name, each in chosen.items() if name not in included}
    for place in sorted({place for each in outer.values() for place in each.selects}):
        _check_place(place, {name: each for name, each in outer.items() if place in each.selects}, given)
    return chosen


def _check_order(chosen: Mapping[str, Filled]) -> None:
    names = list(chosen)
    for place, name in enumerate(names):
        if later := [other for other in names[place + 1 :] if other in chosen[name].includes]:
            raise ValueError(
                f"the preset {name} starts from {later[0]}, which after it would take back what {name} "
                f"changes: leave {later[0]} out of the stack"
            )


def _check_place(place: str, owners: Mapping[str, Filled], given: frozenset[str]) -> None:
    """One place of a method, ``slot`` or ``slot@slot.name``, that all ``owners`` fill."""
    slot, _, key = place.partition("@")
    group = f"method/{slot}@method.{key}" if key else f"method/{slot}"
    options = list(dict.fromkeys(each.selects[place] for each in owners.values()))
    both = f"the presets {' and '.join(owners)} both fill"
    if len(options) > 1 and group not in given:
        choices = " or ".join(f"{group}={option}" for option in options)
        what = f"method.{key}" if key else f"the slot method/{slot}"
        raise ValueError(f"{both} {what}: decide with {choices}")
    values = [each.values_at(key or slot) for each in owners.values()]
    leaves = dict.fromkeys(leaf for each in values for leaf in each)
    undecided = [
        f"method.{leaf}"
        for leaf in leaves
        if len({str(each.get(leaf)) for each in values}) > 1 and f"method.{leaf}" not in given
    ]
    if len(options) == 1 and undecided:
        raise ValueError(
            f"{both} method.{key or slot}, with other values of {', '.join(undecided)}: decide with "
            f"{undecided[0]}=VALUE"
        )


def labels(stack: Mapping[str, Filled], *, given: Sequence[Override]) -> dict[str, Any]:
    """What a stack is called, its papers, the weakest of their evidence and all that must hold for it.

    Without those that an override gives.
    """
    parts = [each.preset for each in stack.values() if each.preset is not None]
    conditions = dict.fromkeys(name for part in parts for name in part.applies_to)
    told = {
        "name": "+".join(stack),
        "paper": ", ".join(dict.fromkeys(part.paper for part in parts if part.paper)),
        "evidence": max((part.evidence for part in parts), key=_weakness),
        "applies_to": [name for name in conditions if name != "any"] or ["any"],
    }
    keys = {override.key_or_group for override in given}
    return {label: value for label, value in told.items() if f"method.{label}" not in keys}


def _weakness(evidence: str) -> int:
    return EVIDENCE.index(evidence) if evidence in EVIDENCE else len(EVIDENCE)
